"""Profiles and task sets: which layer wins, where values come from, and what recorded commands still mean."""

import json
import subprocess
import sys

import pytest

from mtmarl import config
from mtmarl.errors import UserError
from tests.config import composed

LAYERS = (
    "settings", "families.lbf", "algorithms.sable", "algorithms_on_families.sable.lbf",
)  # fmt: skip


@pytest.fixture
def root(tmp_path, monkeypatch):
    files = {
        "config.yaml": (config.config_dir() / "config.yaml").read_text(),
        "algo/sable.yaml": "rate: 1\n",
        "algo/other.yaml": "# @package _global_\ntrainer:\n  chunk: 2\nalgo:\n  rate: 1\n",
        "tasks/two.yaml": "train: [lbf/a, lbf/b]\ntest: [lbf/c]\n",
        "tasks/three.yaml": "train: [rware/a, lbf/b]\ntest: [lbf/a, rware/c]\n",
        "tasks/both.yaml": "includes: [two, three]\ntrain: [smax/x]\n",
        "tasks/circle.yaml": "includes: [circle]\n",
        "tasks/gone.yaml": "includes: [tow]\n",
        "tasks/odd.yaml": "includes: two\n",
        "profiles/one.yaml": "algo: sable\ntasks: two\n",
        "profiles/more.yaml": "includes: [one]\nsettings: {trainer: {batch_size: 7}}\n",
        "profiles/circle.yaml": "includes: [circle]\n",
        "profiles/odd.yaml": "setings: {}\n",
        "earlier_names.yaml": "experiment: {once: 'one:none'}\ntasks: {two_held_out: 'two:test'}\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr("mtmarl.config.files.config_dir", lambda: tmp_path)
    return tmp_path


def shown(capsys, *argv):
    with pytest.raises(SystemExit):
        config.compose([*argv, "--show-config"], "train")
    return dict(
        tuple(part.strip() for part in line.split("  # ")) for line in capsys.readouterr().out.splitlines()
    )


@pytest.mark.parametrize("top", range(6))
def test_later_layers_win_and_each_value_says_its_place(root, top, capsys):
    """config.yaml < profile < for the family < for the algorithm < for both < command line."""
    text = "algo: sable\ntasks: two\n"
    for i, layer in enumerate(LAYERS[:top]):
        *sections, last = layer.split(".")
        text += f"{': {'.join((*sections, last))}: {{trainer: {{updates: {i}7}}}}{'}' * len(sections)}\n"
    (root / "profiles/one.yaml").write_text(text)
    said = ["trainer.updates=99"] * (top == 5)
    values = (10000, 7, 17, 27, 37, 99)
    assert config.compose(["profile=one", *said], "train").trainer.updates == values[top]
    places = (
        "configs/config.yaml",
        *(f"configs/profiles/one.yaml, {part}" for part in LAYERS),
        "the command line",
    )
    assert shown(capsys, "profile=one", *said)[f"trainer.updates={values[top]}"] == places[top]
    if top < 5:  # Of the family and of the algorithm nothing holds elsewhere; `none` leaves the families out.
        others = (values[min(top, 1)], values[3] if top > 2 else values[min(top, 1)])
        elsewhere = config.compose(["profile=one", "+algo=other", "+tasks=smax/x"], "train")
        assert (elsewhere.trainer.updates, elsewhere.trainer.chunk) == (others[0], 2)
        assert config.compose(["profile=one:none"], "train").trainer.updates == others[1]
        assert config.compose(["+experiment=once"], "train").trainer.updates == others[1]


def test_what_is_shown_is_a_command_line_of_the_same_settings(root, capsys):
    lines = shown(capsys, "profile=more", "tasks.first=1")
    argv = [line.strip("'") for line in lines]
    assert config.compose(argv, "train") == config.compose(["profile=more", "tasks.first=1"], "train")
    assert lines["trainer.batch_size=7"] == "configs/profiles/more.yaml, settings"
    assert lines["algo=sable"] == "configs/profiles/one.yaml"
    assert lines["algo.rate=1"] == "configs/algo/sable.yaml"
    assert lines["tasks.first=1"] == "the command line"
    assert lines["tasks.name=two"] == "configs/tasks/two.yaml"


def test_task_sets_include_others_and_have_halves(root):
    tasks = lambda name: config.compose(["run=x", f"+tasks={name}"], "evaluate").tasks
    both = tasks("both")
    assert both.train == ("lbf/a", "lbf/b", "rware/a", "smax/x")
    assert both.test == ("lbf/c", "rware/c")  # lbf/a is trained on.
    assert tasks("both:test") == config.TasksConfig("both_test", (), both.test)
    assert tasks("two:train") == config.TasksConfig("two_train", ("lbf/a", "lbf/b"))
    assert tasks("two_held_out") == config.TasksConfig("two_held_out", (), ("lbf/c",))
    assert config.task_set("two_held_out").test == ("lbf/c",) and config.is_task_set("two:test")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["profile=on"], "unknown .profile=on; did you mean one"),
        (["profile=one:lfb"], "profile=one:lfb: no such family; known: none"),
        (["profile=circle"], "circle includes circle"),
        (["profile=odd"], "odd.yaml: unknown key setings; did you mean settings"),
        (["profile=one", "+experiment=once"], "given twice"),
        (["profile=one", "+tasks=circle"], "circle includes circle"),
        (["profile=one", "+tasks=gone"], "unknown .tasks=tow; did you mean two"),
        (["profile=one", "+tasks=odd"], "odd.yaml: includes must be a list of names, not 'two'"),
        (["profile=one", "+tasks=two:tset"], "'tset' is no half of a task set; write two:train or two:test"),
    ],
)
def test_mistakes_are_one_line(root, argv, message):
    with pytest.raises(UserError, match=message) as caught:
        config.compose(argv, "train")
    assert "\n" not in str(caught.value)


def test_a_profile_collects_with_an_algorithm_of_its_own(root):
    (root / "profiles/one.yaml").write_text("algo: other\ncollect_with: sable\ntasks: two\n")
    chosen = lambda command, *argv: config.compose(["profile=more", *argv], command).algo_name
    assert (chosen("train"), chosen("collect")) == ("other", "sable")
    assert chosen("collect", "algo=other") == "other"


def test_earlier_words_are_the_words_of_today():
    words = config.deciding_words
    for old, new, tasks in (
        ("cpu_rware_15", "cpu", "rware_15"), ("cpu_connector_10", "cpu", "connector_10"), ("cpu_lbf_5", "cpu", "lbf_5"),
        ("cpu_all_30", "cpu", "all_30"), ("paper_rware_15", "paper", "rware_15"), ("cpu", "cpu:none", "rware_15"),
    ):  # fmt: skip
        earlier = words([f"+experiment={old}", f"+tasks={tasks}", "seed=1", "quiet=true"])
        assert earlier == words([f"profile={new}", f"tasks={tasks}", "seed=1"])
    assert words(["profile=cpu", "+tasks=rware_15"]) != words(["profile=cpu:none", "+tasks=rware_15"])
    assert words(["profile=gone", "seed=1"]) == {"profile=gone", "seed=1"}, "it cannot be read any more"


def test_settings_are_shown_before_jax_is_loaded():
    code = (
        "import sys\nfrom mtmarl import train\ntry:\n    train.main(['profile=cpu', '--show-config'])\n"
        "except SystemExit as end:\n    assert end.code == 0\nassert 'jax' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "configs/profiles/cpu.yaml, algorithms.mt_oryx" in out


# The first task sets with every profile, each under another algorithm; `python -m tests.config.composed` does all.
@pytest.mark.parametrize("i", range(len(composed.PROFILES)))
def test_recorded_command_lines_mean_what_they_meant(i):
    expected = json.loads(composed.FILE.read_text())
    algos = config.options("algo")
    profile, algo = composed.PROFILES[i], algos[i % len(algos)]
    argvs = composed.command_lines(profile, algo)
    picked = [0, 1 + i % len(composed.TASKS), len(argvs) - 1]
    assert [composed.digest(argvs[k]) for k in picked] == [
        expected[f"{profile} {algo}"].split()[k] for k in picked
    ]


@pytest.mark.parametrize("name", config.options("sweep"))
def test_sweeps_mean_what_they_meant(name):
    expected = json.loads(composed.FILE.read_text())
    for key, argvs in composed.cells(name):
        k = len(argvs) // 2
        assert composed.digest(argvs[k]) == expected[key].split()[k], argvs[k]
