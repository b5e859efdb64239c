"""Every way to write a command line, and every way to get one wrong."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

import pytest

from mtmarl import config
from mtmarl.command_lines import word
from mtmarl.errors import UserError
from mtmarl.ranges import Count, Positive, Share, SomeShare, check_heads
from mtmarl.runs.identity import task_set_label, train_tasks

SET = "train: [lbf/a, lbf/b]\ntest: [lbf/c]\n"


@pytest.fixture
def yaml(tmp_path, monkeypatch):
    """A configuration directory of its own: two algorithms, a task set, a profile."""
    real = (config.config_dir() / "config.yaml").read_text()
    files = {
        "config.yaml": real,
        "algo/mt_oryx.yaml": "learning_rate: 3e-4\nnetwork:\n  heads: 4\n",
        "algo/sable.yaml": "learning_rate: 1e-3\n",
        "tasks/lbf_2.yaml": SET,
        "profiles/quick.yaml": "algo: mt_oryx\ntasks: lbf_2\nsettings:\n  trainer:\n    updates: 40\n",
    }
    root = tmp_path / "configs"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    monkeypatch.setattr("mtmarl.config.files.config_dir", lambda: root)
    monkeypatch.chdir(tmp_path)
    return root


def test_groups_and_overrides(yaml):
    cfg = config.compose(
        ["+algo=mt_oryx", "+tasks=lbf_2", "seed=1", "algo.network.heads=8", "tasks.first=1"], "train"
    )
    assert cfg.seed == 1
    assert cfg.algo_name == "mt_oryx"
    assert cfg.algo == {"learning_rate": 3e-4, "network": {"heads": 8}}
    assert cfg.tasks == config.TasksConfig("lbf_2", ("lbf/a", "lbf/b"), ("lbf/c",), 1)
    assert cfg.trainer == config.TrainerConfig(10000, 50, 64, 20, 500)
    with pytest.raises(dataclasses.FrozenInstanceError):
        cfg.seed = 2  # type: ignore[misc]


def test_the_plus_is_optional(yaml):
    assert config.compose(["algo=sable", "tasks=lbf_2"], "train") == config.compose(
        ["+algo=sable", "+tasks=lbf_2"], "train"
    )


def test_a_profile_supplies_groups_and_values(yaml):
    cfg = config.compose(["profile=quick"], "train")
    assert (cfg.algo_name, cfg.tasks.name, cfg.trainer.updates) == ("mt_oryx", "lbf_2", 40)


@pytest.mark.parametrize("algo", ["algo=sable", "+algo=sable"])
def test_command_line_wins_over_a_profile(yaml, algo):
    cfg = config.compose(["profile=quick", algo, "trainer.updates=7", "+tasks=lbf/z"], "train")
    assert (cfg.algo_name, cfg.algo, cfg.trainer.updates) == ("sable", {"learning_rate": 1e-3}, 7)
    assert (cfg.tasks.train, cfg.tasks.test, cfg.tasks.name) == (("lbf/z",), (), "lbf-z")


def test_single_task_and_several_tasks(yaml):
    cfg = config.compose(["+algo=sable", "+tasks=lbf/8x8-2p-2f-coop"], "collect")
    assert cfg.tasks.train == ("lbf/8x8-2p-2f-coop",)
    cfg = config.compose(["+algo=sable", "+tasks=lbf/a,rware/tiny-4ag"], "collect")
    assert cfg.tasks.train == ("lbf/a", "rware/tiny-4ag")


def test_evaluate_needs_a_run_only(yaml):
    cfg = config.compose(["run=runs/x/0/2026-01-02_03-04-05", "+tasks=lbf/z"], "evaluate")
    assert cfg.run == "runs/x/0/2026-01-02_03-04-05"
    assert cfg.algo_name == ""
    assert config.compose(["run=runs/x"], "evaluate").tasks == config.TasksConfig()
    with pytest.raises(UserError, match="evaluator.explore, trainer.updates: evaluate acts as the run was"):
        config.compose(["run=runs/x", "evaluator.explore=0", "++trainer.updates=3"], "evaluate")
    for more in ("+algo=mt_oryx", "profile=quick", "data.quality=expert", "quiet=true"):
        with pytest.raises(
            UserError, match=rf"{more.partition('=')[0].lstrip('+')}: evaluate acts as the run"
        ):
            config.compose(["run=runs/x", more], "evaluate")
    assert (
        config.compose(["run=runs/x", "evaluator.final_episodes=3"], "evaluate").evaluator.final_episodes == 3
    )
    with pytest.raises(UserError, match="needs run="):
        config.compose(["+tasks=lbf/z"], "evaluate")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["+tasks=lbf_2"], r"choose one: \+algo=\{mt_oryx, sable\}"),
        (["+algo=sable"], r"choose one: \+tasks=\{lbf_2\}"),
        (["+algo=mt_orix", "+tasks=lbf_2"], "did you mean mt_oryx"),
        (["+algo=sable", "+tasks=lbf_3"], "did you mean lbf_2"),
        (["+algo=sable", "+algo=sable"], "twice"),
        (["+profile=quik"], "did you mean quick"),
        (
            ["+algo=sable", "+tasks=lbf_2", "trainer.updats=3"],
            r"unknown key trainer.updats; did you mean updates",
        ),
        (["+algo=sable", "+tasks=lbf_2", "sede=3"], "unknown key sede; did you mean seed"),
        (["+algo=sable", "+tasks=lbf_2", "tasks.frist=1"], r"tasks/lbf_2.yaml.*tasks|unknown key frist"),
        (["+algo=sable", "+tasks=lbf_2", "tasks.first=3"], "tasks.first must lie in 1 … 2"),
        (["+algo=sable", "+tasks=lbf_2", "seed=x"], "seed must be int, not 'x'"),
        (["+algo=sable", "+tasks=lbf_2", "seed=2147483648"], "seed must lie in 0 … 2147483647"),
        (
            ["+algo=sable", "+tasks=lbf_2", "data.quality=a/b"],
            "data.quality 'a/b': not a legal name; use ASCII letters",
        ),
        (["+algo=sable", "+tasks=lbf_2", "data.quality="], "data.quality='': give a text"),
        (["+algo=sable", "+tasks=lbf_2", "run_dir=a\nb"], r"run_dir='a\\nb': give a text without control"),
        (
            ["+algo=sable", "+tasks=lbf_2", "tasks.train=[../x]"],
            r"task '../x': not a legal name; write family/",
        ),
        (["+algo=sable", "+tasks=lbf/a,lbf/b,lbf/a"], "train lists lbf/a twice"),
        (["+algo=sable", "+tasks=lbf_2", "tasks.test=[lbf/c,lbf/c]"], "test lists lbf/c twice"),
        (["+algo=sable", "+tasks=lbf_2", "seed=true"], "seed must be int"),
        (["+algo=sable", "+tasks=lbf_2", "seed=1,2"], "a list is written"),
        (["+algo=sable", "+tasks=lbf_2", "evaluator.select_on=tset"], "one of 'train', 'test'"),
        (["+algo=sable", "+tasks=lbf_2", "trainer.chunk=0"], "trainer.chunk must be at least 1"),
        (["+algo=sable", "+tasks=lbf_2", "evaluator.explore=2"], "explore"),
        (["+algo=sable", "+tasks=lbf_2", "collect.explore=-1"], "collect.explore"),
        (["+algo=sable", "+tasks=lbf_2", "algo_name=x"], "choose with"),
        (["+algo=sable", "+tasks=lbf_2", "run=x"], "belongs to evaluate"),
        (["+algo=sable", "+tasks=lbf_2", "seed"], "key=value"),
        (["+algo=sable", "+tasks=lbf_2", "--multirun"], "unknown flag"),
        (["+algo=sable", "+tasks=lbf_2", "~seed"], "deleted"),
        (["+algo=sable", "+tasks=lbf_2", "sinks=[a"], "configuration: "),
        (["+algo=sable", "+tasks=lbf_2", "trainer=[1]"], "configuration: |must hold keys"),
    ],
)
def test_mistakes_are_one_line(yaml, argv, message):
    with pytest.raises(UserError, match=message) as caught:
        config.compose(argv, "train")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.quality", quality)
        for quality in ("20240613092231", "1e5", "0x10", "null", "true", "007", "1_000", "a.b-c+d")
    ]
    + [
        (key, value)
        for key in ("run_dir", "data.vault_dir", "init_from", "tasks.hub", "hub.url")
        for value in ("a/${USER}/x", "ends\\", "a'b", 'a"b', "a=b, c", "a[0]*?%#|{x}", "${", "ä/データ", "1")
    ],
)
def test_names_and_paths_are_taken_as_they_stand(yaml, key, value):
    cfg = config.compose(["+algo=sable", "+tasks=lbf_2", f"{key}={value}"], "train")
    *sections, name = key.split(".")
    found = config.to_dict(cfg)
    for section in sections:
        found = found[section]
    assert found[name] == value
    quoted = config.compose(["+algo=sable", "+tasks=lbf_2", f"{key}='{value}'"], "train")
    assert quoted == cfg


def test_a_section_that_is_no_section_stays_a_mistake(yaml):
    with pytest.raises(UserError, match="configuration: |data must hold keys"):
        config.compose(["+algo=sable", "+tasks=lbf_2", "data=3", "data.quality=x"], "train")


def test_settings_of_an_algorithm_are_held_to_their_ranges():
    @dataclass(frozen=True)
    class Network:
        width: Count
        heads: Count

        def __post_init__(self):
            check_heads(self.width, self.heads)

    @dataclass(frozen=True)
    class Settings:
        gamma: Share
        fraction: SomeShare
        delta: Positive | None
        network: Network
        share: Literal["linear"] | Share = "linear"

    good = {"gamma": 1, "fraction": 1.0, "delta": None, "network": {"width": 8, "heads": 2}}
    parse = lambda **more: config.parse(Settings, {**good, **more}, "a.yaml", "algo")
    assert parse() == Settings(1.0, 1.0, None, Network(8, 2))
    for more, message in (
        ({"gamma": 1.5}, r"^a.yaml: algo.gamma must lie in 0 … 1, not 1.5$"),
        ({"gamma": float("nan")}, "algo.gamma must be a finite number"),
        ({"delta": float("inf")}, "algo.delta must be a finite number"),
        ({"delta": 1e39}, "algo.delta must be a finite number"),
        ({"fraction": 0}, "algo.fraction must lie above 0 and at most at 1, not 0"),
        ({"delta": 0}, "algo.delta must be above 0"),
        ({"delta": "x"}, "algo.delta must be float, not 'x'"),
        ({"share": 1.5}, r"algo.share must lie in 0 … 1, not 1.5"),
        ({"share": "half"}, "algo.share must be one of 'linear' or float, not 'half'"),
        ({"network": {"width": 8, "heads": 0}}, "algo.network.heads must be at least 1, not 0"),
        ({"network": {"width": 8, "heads": 3}}, "algo.network.embed_dim=8 must be a multiple of heads=3"),
    ):
        with pytest.raises(UserError, match=message):
            parse(**more)


def test_help(yaml, capsys):
    with pytest.raises(SystemExit) as caught:
        config.compose(["--help", "+algo=sable"], "train")
    assert caught.value.code == 0
    out = capsys.readouterr().out
    for text in (
        "usage: python -m mtmarl.train",
        "mt_oryx, sable",
        "lbf_2",
        "updates: 10000",
        "learning_rate: 1e-3",
    ):
        assert text in out


def test_save_and_load(yaml, tmp_path):
    cfg = config.compose(["+algo=mt_oryx", "+tasks=lbf_2", "tasks.first=1"], "train")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict(cfg)))
    assert config.load(path) == cfg
    path.write_text(json.dumps({"config": config.to_dict(cfg), "version": "x"}))
    assert config.load(path) == cfg
    path.write_text("{")
    with pytest.raises(UserError, match="not a readable JSON"):
        config.load(path)
    with pytest.raises(UserError, match="no such file"):
        config.load(tmp_path / "none.json")


@dataclass(frozen=True)
class Inner:
    heads: int
    widths: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    rate: float
    inner: Inner
    mode: Literal["a", "b"] = "a"
    pair: tuple[int, str] = (1, "x")
    limit: int | None = None
    free: dict | None = None


def test_parse_converts_what_is_meant():
    got = config.parse(
        Outer, {"rate": 1, "inner": {"heads": 2e1, "widths": [3]}, "pair": [2, "y"], "limit": 4}, "f.yaml"
    )
    assert got == Outer(1.0, Inner(20, (3,)), "a", (2, "y"), 4)
    assert isinstance(got.rate, float)
    assert isinstance(got.inner.heads, int)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"inner": {"heads": 1}}, "f.yaml: missing key rate"),
        ({"rate": 1, "inner": {"head": 1}}, "f.yaml: unknown key inner.head; did you mean heads"),
        ({"rate": "fast", "inner": {"heads": 1}}, "rate must be float, not 'fast'"),
        ({"rate": True, "inner": {"heads": 1}}, "rate must be float"),
        ({"rate": 1, "inner": {"heads": 1.5}}, "inner.heads must be int"),
        ({"rate": 1, "inner": {"heads": 1, "widths": 3}}, "a list of int"),
        ({"rate": 1, "inner": {"heads": 1, "widths": ["x"]}}, r"inner.widths\[0\] must be int"),
        ({"rate": 1, "inner": 3}, "inner must hold keys"),
        ({"rate": 1, "inner": {"heads": 1}, "mode": "c"}, "one of 'a', 'b'"),
        ({"rate": 1, "inner": {"heads": 1}, "pair": [1]}, "pair must be a list"),
        ({"rate": 1, "inner": {"heads": 1}, "limit": "x"}, "int"),
        ([], "must hold keys"),
    ],
)
def test_parse_is_strict(mapping, message):
    with pytest.raises(UserError, match=message):
        config.parse(Outer, mapping, "f.yaml")


@pytest.mark.parametrize("tasks", config.options("tasks"))
def test_every_task_set_parses(tasks):
    cfg = config.compose(["run=runs/any", f"+tasks={tasks}"], "evaluate")
    assert cfg.tasks.train or cfg.tasks.test
    assert not set(cfg.tasks.train) & set(cfg.tasks.test)


@pytest.mark.parametrize("profile", config.options("profile"))
def test_every_profile_parses(profile):
    for command in ("train", "collect"):
        config.compose([f"profile={profile}"], command)


@pytest.mark.parametrize("group", ["algo", "profile"])
def test_help_tells_what_is_chosen_and_not_how_files_are_put_together(group):
    for name in config.options(group):
        text = config.help_text("train", [f"+{group}={name}"])
        assert f"  {group}:  # {name}" in text and len(text) > len(config.help_text("train"))
        assert not any(word in text for word in ("_self_", "defaults:", "@package"))


def test_help_of_the_real_files_lists_every_key():
    text = config.help_text("train")
    for section in (config.TrainerConfig, config.EvaluatorConfig, config.CollectConfig, config.DataConfig):
        for f in dataclasses.fields(section):
            assert f"{f.name}:" in text
    # evaluate lists what it takes, and that alone.
    lines = config.help_text("evaluate").split("defaults")[1].splitlines()[1:]
    keys = [line.partition(":")[0].strip() for line in lines if line]
    assert keys == ["seed", "run", "which", "evaluator", "final_episodes", "data", "vault_dir"]


@pytest.mark.parametrize("name", ["..", "../x", "a//b", "a b", "a:b", "/x", "-x", "x/", "x\\y"])
def test_the_name_of_a_set_becomes_a_folder(name):
    with pytest.raises(UserError, match=r"tasks.name '.*': not a legal name; use ASCII letters") as caught:
        config.compose(["+algo=sable", "+tasks=lbf_5", word("tasks.name", name)], "train")
    assert "\n" not in str(caught.value)


def test_long_lists_of_tasks_have_labels_of_their_own_that_fit_a_folder():

    def label(*tasks, more=()):
        cfg = config.compose(["+algo=sable", f"+tasks={','.join(tasks)}", *more], "train")
        return task_set_label(cfg)

    tasks = [f"lbf/8x8-{i}p-2f-coop" for i in range(2, 60)]
    labels = {label(*tasks), label(*tasks[:-1]), label(*tasks, more=("tasks.first=2",))}
    assert len(labels) == 3 and all(len(name) < 255 and "/" not in name for name in labels)
    assert label(*tasks[:3]) == "lbf-8x8-2p-2f-coop+lbf-8x8-3p-2f-coop+lbf-8x8-4p-2f-coop"
    unnamed = config.compose(["+algo=sable", "tasks.train=[lbf/a,lbf/b]"], "train")
    assert task_set_label(unnamed) == "lbf-a+lbf-b"


def test_training_tasks_begin_where_they_are_told_and_go_round():

    tasks = lambda *more: train_tasks(config.compose(["+algo=mt_oryx", "+tasks=lbf_5", *more], "train"))
    whole = tasks()
    assert tasks("tasks.first=2", "tasks.start=4") == (whole[4], whole[0])
    assert tasks("tasks.start=5") == whole and tasks("tasks.start=1") == (*whole[1:], whole[0])
    label = lambda *more: task_set_label(config.compose(["+algo=mt_oryx", "+tasks=lbf_5", *more], "train"))
    assert (
        len(
            {label(), label("tasks.first=2"), label("tasks.first=2", "tasks.start=4"), label("tasks.start=1")}
        )
        == 4
    )


@pytest.mark.parametrize("text", [
    "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(9)),
    "a: &a [*a]\n",
    "a: " + "[" * 2000 + "]" * 2000 + "\n",
])  # fmt: skip
def test_yaml_that_explodes_is_refused(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    for read in (lambda: config.read_yaml(tmp_path / "x.yaml"), lambda: config.read_value(text)):
        with pytest.raises(UserError, match="nested too deeply"):
            read()
    (tmp_path / "x.yaml").write_text("a: &a {x: 1}\nb: *a\n")
    assert config.read_yaml(tmp_path / "x.yaml") == {"a": {"x": 1}, "b": {"x": 1}}
