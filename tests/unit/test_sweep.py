"""Sweeps: reading, planning and continuing them, and the processes that run them (a stand-in for training)."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from mtmarl import config, sweep
from mtmarl.analysis import facts
from mtmarl.errors import UserError
from mtmarl.files import write_json
from mtmarl.report import write_report
from mtmarl.sweeps import local, reuse
from mtmarl.sweeps.options import Options, read_options
from mtmarl.sweeps.plan import check_continues, chosen, make_plan, write_plan
from mtmarl.sweeps.run import check_runs
from mtmarl.sweeps.spec import read_sweep
from tests.processes import alive, children_of
from tests.unit.analysis.run_directories import write_run

TEXT = """
title: "Width and data"
base: [+tasks=micro, trainer.updates=8, evaluator.every=4]
axes:
  width: {"16": [algo.network.embed_dim=16], "32": [algo.network.embed_dim=32, trainer.updates=4]}
  algo: +algo=mt_oryx,mt_bc_sable
x: width
line: algo
seeds: [0, 1]
profiles:
  cpu: {overrides: [evaluator.every=2, trainer.updates=6]}
  smoke: {levels: {width: [32]}, seeds: [5]}
paper:
  - {claim: "wider is better", of: {width: 32}, over: {width: "16"}, split: test, gain: 0.5}
  - {claim: "on training tasks too", of: {width: 32, algo: mt_oryx}, over: {width: 16}, split: train}
published:
  - {of: {width: 16}, split: test, mean: 0.5, standard_error: 0.1}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "wide.yaml"
    path.write_text(TEXT)
    return path


def planned(file, *argv):
    options = read_options([f"+sweep={file}", *argv])
    found, where = read_sweep(options.sweep)
    return make_plan(found, where, options)


def test_the_record_of_a_sweep(file):
    record = planned(file, "out=o", "quiet=true")
    runs = record.pop("runs")
    assert record == {
        "kind": "sweep", "name": "wide", "profile": "cpu", "title": "Width and data",
        "x": "width", "panel": None, "line": "algo",
        "axes": {"width": ["16", "32"], "algo": ["mt_oryx", "mt_bc_sable"]},
        "paper": [
            {"claim": "wider is better", "of": {"width": "32"}, "over": {"width": "16"}, "split": "test", "gain": 0.5},
            {"claim": "on training tasks too", "of": {"width": "32", "algo": "mt_oryx"}, "over": {"width": "16"},
             "split": "train", "gain": None},
        ],
        "published": [{"of": {"width": "16"}, "split": "test", "mean": 0.5, "standard_error": 0.1}],
        "titles": {},
    }  # fmt: skip
    assert [r["seed"] for r in runs] == [0] * 4 + [1] * 4, "partial results cover the whole grid"
    assert runs[3] == {
        "dir": "width=32/algo=mt_bc_sable/seed_0",
        "cell": {"width": "32", "algo": "mt_bc_sable"},
        "seed": 0,
        "argv": [
            "+tasks=micro", "evaluator.every=2", "algo.network.embed_dim=32", "trainer.updates=4",
            "+algo=mt_bc_sable", "quiet=true", "seed=0", "run_dir=o/width=32/algo=mt_bc_sable/seed_0",
        ],
    }  # fmt: skip
    assert "trainer.updates=6" in runs[0]["argv"], "a profile wins over the base, a level over both"


def test_runs_may_start_from_those_of_another_sweep(file):
    """The one of the same seed, profile and level."""
    file.write_text(TEXT.replace("base: [", "base: ['init_from=runs/first-{profile}/{algo}/seed_{seed}', "))
    starts = [o for r in planned(file)["runs"] for o in r["argv"] if o.startswith("init_from")]
    of = lambda seed: [f"init_from=runs/first-cpu/{a}/seed_{seed}" for a in ("mt_oryx", "mt_bc_sable") * 2]
    assert starts == of(0) + of(1)


def test_a_part_of_the_grid(file):
    only = read_options([f"+sweep={file}", "only.algo=mt_oryx", "only.width=16,32", "seeds=3"]).only
    record = planned(file, "seeds=3")
    assert [r["dir"] for r in chosen(record, only)] == [f"width={w}/algo=mt_oryx/seed_3" for w in (16, 32)]
    assert chosen(record, {}) == record["runs"]
    two = planned(file)
    assert chosen(two, {"seed": ("1",)}) == [r for r in two["runs"] if r["seed"] == 1]
    with pytest.raises(UserError, match="only.seed: unknown 2"):
        chosen(two, {"seed": ("2",)})
    for wrong in ({"algos": ("mt_oryx",)}, {"algo": ("mt_orix",)}):
        with pytest.raises(UserError, match="did you mean"):
            chosen(record, wrong)


def test_a_profile_thins_the_grid_and_the_command_line_has_the_last_word(file):
    record = planned(file, "profile=smoke", "evaluator.every=99")
    assert "evaluator.every=99" in record["runs"][0]["argv"]
    assert record["axes"] == {"width": ["32"], "algo": ["mt_oryx", "mt_bc_sable"]}
    assert {r["seed"] for r in record["runs"]} == {5}
    assert {r["dir"] for r in planned(file, "profile=smoke", "seeds=7,8")["runs"]} == {
        f"width=32/algo={a}/seed_{s}" for a in ("mt_oryx", "mt_bc_sable") for s in (7, 8)
    }
    assert Options("a/wide.yaml", "smoke").directory.as_posix() == "runs/sweeps/wide-smoke"


def test_every_run_of_a_plan_composes(file, tmp_path):
    run = planned(file, f"out={tmp_path / 'with blank, comma=equals'}")["runs"][3]
    cfg = config.compose(run["argv"], "train")
    assert cfg.run_dir == f"{tmp_path}/with blank, comma=equals/width=32/algo=mt_bc_sable/seed_0"
    assert (cfg.algo_name, cfg.algo["network"]["embed_dim"], cfg.trainer.updates) == ("mt_bc_sable", 32, 4)


def test_a_level_may_take_away_what_an_axis_before_it_sets(file):
    text = file.read_text()
    axis = "algo: {mt_oryx: [+algo=mt_oryx], mt_bc_sable: [+algo=mt_bc_sable, trainer.updates=null]}"
    file.write_text(text.replace("algo: +algo=mt_oryx,mt_bc_sable", axis))
    for run in planned(file)["runs"]:
        (said,) = (o for o in run["argv"] if o.startswith("trainer.updates="))
        updates = {"16": "6", "32": "4"}[run["cell"]["width"]]
        assert said == f"trainer.updates={'null' if run['cell']['algo'] == 'mt_bc_sable' else updates}"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title:", "titel:", "wide.yaml: unknown key titel; did you mean title"),
        ("[algo.network.embed_dim=16]", "3", r"wide.yaml: axes.width.16 must be a list of str, not 3"),
        ('"16": [', '"1 6": [', "names a folder"),
        ("+algo=mt_oryx,mt_bc_sable", "+algo=[a,b]", "axes.algo: .* is not key=a,b,c"),
        ("+algo=mt_oryx,mt_bc_sable", "seed=1,2", "axes.algo sets seed, which a sweep sets itself"),
        ("+algo=mt_oryx,mt_bc_sable", "trainer.updates=1,2", "width and algo both set trainer.updates"),
        ("+algo=mt_oryx,mt_bc_sable", "{}", "axes.algo has no levels"),
        ("  algo: +algo", "  seed: +algo", "axes.seed: seeds are no axis; write seeds"),
        ("x: width", "x: widht", "x: unknown widht; did you mean width"),
        ("x: width", "x: algo", "must be different axes"),
        ("seeds: [0, 1]", "seeds: [0, 0]", "seeds must hold different entries"),
        ("seeds: [0, 1]", "seeds: [a]", r"seeds\[0\] must be int"),
        ("levels: {width: [32]}", "levels: {width: [33]}", "profiles.smoke.levels.width: unknown 33; did you mean 32"),
        ("levels: {width: [32]}", "levels: {wide: [32]}", "profiles.smoke.levels: unknown wide"),
        ("levels: {width: [32]}", "level: {}", "unknown key profiles.smoke.level; did you mean levels"),
        ('over: {width: "16"}', 'over: {width: "17"}', r"paper\[0\].over.width: unknown 17"),
        ("{of: {width: 16}, split", "{of: {width: 17}, split", r"published\[0\].of.width: unknown 17"),
        ("split: test", "split: tset", r"paper\[0\].split must be one of 'train', 'test'"),
        ("seeds: [0, 1]", "seeds: [0, 1", "wide.yaml: not a readable YAML file"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_file_is_one_line(file, old, new, message):
    assert old in TEXT
    file.write_text(TEXT.replace(old, new))
    with pytest.raises(UserError, match=message) as caught:
        planned(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], r"choose one: \+sweep=\{.*model_size"),
        (["+sweep=model_sice"], "did you mean model_size"),
        (["+sweep=no/such.yaml"], "no/such.yaml: no such file"),
        (["FILE", "profile=gpu"], "profile=: unknown gpu; did you mean cpu"),
        (["FILE", "jobs=0"], "jobs must be at least 1, not 0"),
        (["FILE", "jobs=1,2"], "jobs must be int, not '1,2'"),
        (["FILE", "seeds=0,x"], r"seeds\[1\] must be int, not 'x'"),
        (["FILE", "seeds=1,1"], "seeds must hold different entries"),
        (["FILE", "seed=3"], "seed= belongs to the single run; give seeds="),
        (["FILE", "run_dir=x"], "give out="),
        (["FILE", "algo.network.embed_dim=64"], "the axis width of this sweep sets algo.network.embed_dim"),
        (["FILE", "results=no.json"], "results=no.json: No such file"),
        (["FILE", "dry_run=true"], "dry_run=true: write --dry-run"),
        (["FILE", "--fast"], "--fast: options are written key=value"),
        (["FILE", "quick"], "options are written key=value"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(file, capsys, argv, message):
    assert sweep.main([a.replace("FILE", f"+sweep={file}") for a in argv]) == 2
    error = capsys.readouterr().err.strip()
    assert re.search(message, error) and len(error.splitlines()) == 1


def test_a_run_is_checked_before_any_starts(file, tmp_path, micro_vaults):
    runs = planned(file, f"data.vault_dir={micro_vaults}", "trainer.chunk=2", "trainer.checkpoint_every=2")[
        "runs"
    ]
    check_runs(runs, tmp_path, "f.yaml")
    for extra, message in (
        ("trainer.updats=1", "f.yaml, run width=16/algo=mt_oryx/seed_0: .*updats; did you mean updates"),
        ("algo.network.head=2", "run width=16/algo=mt_oryx/seed_0: .*network.head; did you mean heads"),
        ("trainer.chunk=5", "trainer.updates .6. must be a positive multiple"),
        ("tasks.train=[lbf/9x9-2p-1f]", "no 'replay' vault of lbf/9x9-2p-1f"),
    ):
        bad = [{**r, "argv": [*r["argv"], extra]} for r in runs]
        with pytest.raises(UserError, match=message):
            check_runs(bad, tmp_path, "f.yaml")
    missing = [{**r, "argv": [*r["argv"], "tasks.train=[lbf/9x9-2p-1f]", "data.download=true"]} for r in runs]
    with pytest.raises(UserError, match="no 'replay' vault"):
        check_runs(missing, tmp_path, "f.yaml")
    check_runs([{**r, "argv": [*r["argv"], "hub.url=there"]} for r in missing], tmp_path, "f.yaml")
    # A second seed that starts from a run of its own is another matter than the first.
    (second := next(r for r in runs if r["seed"] == 1))["argv"].append("init_from=nowhere")
    with pytest.raises(UserError, match=f"run {second['dir']}: init_from=nowhere"):
        check_runs(runs, tmp_path, "f.yaml")


def test_a_sweep_may_gain_runs_but_not_change(file, tmp_path):
    out, small = tmp_path / "out", f"out={tmp_path / 'out'}"
    write_plan(planned(file, small, "seeds=0"), out)
    larger = planned(file, small, "quiet=true")
    check_continues(larger, out)
    write_plan(larger, out)
    assert json.loads((out / "sweep.json").read_text()) == larger
    check_continues({**larger, "title": "Another title", "x": None, "paper": []}, out)
    for argv, message in (
        (["seeds=0"], "holds the run width=16/algo=mt_oryx/seed_1, which this sweep lacks"),
        (["trainer.context=3"], "other settings .width=16/algo=mt_oryx/seed_0: trainer.context=3"),
        (["profile=smoke"], "holds the sweep wide with profile cpu"),
    ):
        with pytest.raises(UserError, match=message):
            check_continues(planned(file, small, *argv), out)
    (out / "sweep.json").write_text("{")
    with pytest.raises(UserError, match="not a readable record"):
        check_continues(larger, out)


def test_a_run_that_another_sweep_has_finished_is_copied(file, tmp_path):
    out, other = tmp_path / "out", tmp_path / "other"
    runs = planned(file, f"out={out}")["runs"]
    write_plan(planned(file, f"out={other}"), other)
    there = other / "elsewhere" / "seed_1"
    (there / "checkpoints").mkdir(parents=True)
    cfg = config.compose(runs[-1]["argv"], "train")  # width=32, mt_bc_sable, seed 1
    record = {"seed": 1, "algo": "mt_bc_sable", "config": config.to_dict(cfg)}
    (there / "run.json").write_text(json.dumps(record))
    assert reuse.find_finished(runs, out) == {}  # It has not finished.
    part = other / "elsewhere" / "seed_0.part"
    shutil.copytree(there, part)
    (part / "final.json").write_text("{}")
    assert reuse.find_finished(runs, out) == {}  # It is being copied.
    (there / "final.json").write_text("{}")
    found = reuse.find_finished(runs, out)
    assert found == {runs[-1]["dir"]: there}
    reuse.take(found, {}, out)
    assert sorted(p.name for p in (out / runs[-1]["dir"]).iterdir()) == ["final.json", "run.json"]
    assert reuse.find_finished(runs, out) == {}  # It lies here now.
    third = tmp_path / "third"
    wider = [{**r, "argv": [*r["argv"], "algo.network.blocks=2"]} for r in runs]
    assert reuse.find_finished(wider, third) == {}
    playing = [{**r, "argv": [*r["argv"], "collect.num_envs=7"]} for r in runs]
    assert reuse.find_finished(playing, third) == {}
    (there / "run.json").write_text(json.dumps({**record, "counts": {"gradient_steps": 8}}))
    assert set(reuse.find_finished(playing, third)) == set(found), "training on recorded data plays nothing"


def test_runs_of_an_earlier_report_are_not_made_again(file, tmp_path):
    there = tmp_path / "there"
    record = planned(file, f"out={there}")
    write_plan(record, there)
    for run in record["runs"][:3]:
        write_run(there / run["dir"], {"lbf/a": 1.0}, {"lbf/b": 0.5}, run["seed"], algo=run["cell"]["algo"])
    results = write_report([there], tmp_path / "sent").with_name("facts.jsonl")
    here = planned(file, f"out={tmp_path / 'here'}")
    assert reuse.in_results(here, [results]) == {r["dir"] for r in here["runs"][:3]}
    assert reuse.in_results(planned(file, "algo.network.blocks=2"), [results]) == set()
    assert reuse.in_results(planned(file, "profile=smoke"), [results]) == set()


def test_runs_of_a_report_that_had_other_settings_stop_a_sweep(file, tmp_path):
    """Not those of their command lines: a default of the library that has changed since."""
    there = tmp_path / "there"
    record = planned(file, f"out={there}")
    write_plan(record, there)
    for run in record["runs"]:
        cfg = config.to_dict(config.compose(run["argv"], "train"))
        about = {"algo": run["cell"]["algo"], "config": cfg}
        write_run(there / run["dir"], {"lbf/a": 1.0}, {"lbf/b": 0.5}, run["seed"], **about)
    results = write_report([there], tmp_path / "sent").with_name("facts.jsonl")
    reuse.check_held(record, [results])
    text = results.read_text()
    results.write_text(re.sub(r'"algo.learning_rate": [^,]*,', '"algo.learning_rate": 123.0,', text))
    assert reuse.in_results(record, [results]) == {r["dir"] for r in record["runs"]}
    with pytest.raises(UserError, match=r"seed_0 was made with other settings \(algo.learning_rate\)"):
        reuse.check_held(record, [results])


def test_runs_that_a_report_of_another_sweep_holds_are_adopted(file, tmp_path):
    there, out = tmp_path / "elsewhere" / "there", tmp_path / "out"
    record = planned(file, f"out={there}")
    write_plan(record, there)
    for run in record["runs"]:
        cfg = config.to_dict(config.compose(run["argv"], "train"))
        write_run(
            there / run["dir"],
            {"lbf/a": 1.0},
            {"lbf/b": 0.5},
            run["seed"],
            algo=run["cell"]["algo"],
            config=cfg,
        )
    results = write_report([there], tmp_path / "sent").with_name("facts.jsonl")

    other = tmp_path / "narrow.yaml"
    other.write_text(
        TEXT.replace('"16": [', '"8": [algo.network.embed_dim=8], thin: [').replace("width: 16", 'width: "8"')
        .replace('width: "16"', 'width: "8"')
    )  # fmt: skip
    record = planned(other, f"out={out}")
    found = reuse.find_finished(record["runs"], out, [results])
    same = [r for r in record["runs"] if r["cell"]["width"] != "8"]
    assert set(found) == {r["dir"] for r in same}, "whatever the other sweep called its levels"
    write_plan(record, out)
    reuse.take({d: p for d, p in found.items() if "thin" in d}, record, out)
    reuse.take({d: p for d, p in found.items() if "thin" not in d}, record, out)  # added to the first
    adopted = out / facts.FILE
    assert reuse.in_results(record, [adopted], taken=True) == set(found)
    report = write_report([out], tmp_path / "report")
    assert "8 of 12 runs finished" in report.read_text()
    kept = facts.read_file(report.with_name("facts.jsonl")).runs
    assert {r.record["dir"] for r in kept} == {f"out/{r['dir']}" for r in same}
    assert reuse.find_finished(planned(other, "data.fraction=0.5")["runs"], out, [results]) == {}


def test_a_sweep_goes_on_from_the_report_of_another(file, tmp_path, micro_vaults, monkeypatch, capsys):
    there, results = tmp_path / "elsewhere" / "there", tmp_path / "sent" / "facts.jsonl"
    chunks = ["trainer.chunk=2", "trainer.checkpoint_every=2"]
    record = planned(file, f"out={there}", *chunks)
    write_plan(record, there)
    run = record["runs"][0]
    cfg = config.to_dict(config.compose(run["argv"], "train"))
    write_run(
        there / run["dir"], {"lbf/a": 1.0}, {"lbf/b": 0.5}, run["seed"], algo=run["cell"]["algo"], config=cfg
    )
    write_report([there], results.parent)
    other = tmp_path / "narrow.yaml"
    other.write_text(TEXT.replace("algo: +algo=mt_oryx,mt_bc_sable", "algo: +algo=mt_oryx"))
    left = []
    monkeypatch.setattr(local, "execute", lambda runs, out, jobs: left.extend(r["dir"] for r in runs) or [])
    argv = [
        f"+sweep={other}",
        f"out={tmp_path / 'out'}",
        f"data.vault_dir={micro_vaults}",
        *chunks,
        f"results={results}",
    ]
    assert sweep.main(argv) == 0
    assert len(left) == 3 and run["dir"] not in left
    report = (tmp_path / "out" / "report" / "report.md").read_text()
    assert "Sweep `narrow`, profile `cpu`: 1 of 4 runs finished" in report
    assert "Sweep `wide`" not in report, "the other sweep is not reported on"
    left.clear()
    assert sweep.main(argv[:-1]) == 0, "what was adopted stays"
    assert len(left) == 3

    assert sweep.main([*argv, f"out={tmp_path / 'third'}", "algo.learning_rate=0.1"]) == 2
    assert "holds none of the runs of narrow (cpu)" in capsys.readouterr().err


@pytest.mark.parametrize("name", config.options("sweep"))
def test_every_sweep_is_whole(name):
    """Each profile and each level of each axis composes, and smoke is short."""
    found, where = read_sweep(name)
    assert set(found.profiles) == {"smoke", "cpu", "paper"}
    unseen = {(axis, level) for axis, levels in found.axes.items() for level in levels}
    for profile in found.profiles:
        for i, run in enumerate(make_plan(found, where, Options(name, profile))["runs"]):
            assert profile != "smoke" or i < 2
            if i == 0 or unseen & set(run["cell"].items()):
                config.compose(run["argv"], "train")
            unseen -= set(run["cell"].items())
    assert not unseen


# ---------------------------------------------------------------------------------- processes, without training

STAND_IN = """
import json, pathlib, sys, time
options = dict(a.split("=", 1) for a in sys.argv[1:])
run = pathlib.Path(options["run_dir"])
print("pid", flush=True)
with open(run.parents[2] / "order", "a") as f:
    f.write(f"{run.name} {options['+algo']}\\n")
if options["+algo"] == "mt_bc_sable" and options["seed"] == "1" and not (run.parents[2] / "mended").exists():
    sys.exit("error: out of luck")
time.sleep(float(options.get("sleep", 0)))
task = lambda split, x: {"split": split, "normalised": x, "return": [9.0]}
tasks = {"a": task("train", 1.0), "b": task("test", 0.25), "c": task("test", 0.75)}
(run / "final.json").write_text(json.dumps({"best": {"step": 1, "tasks": tasks}}))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(local, "TRAIN", (sys.executable, str(script)))
    monkeypatch.setattr(local, "POLL_SECONDS", 0.01)
    return script


def test_a_failure_stops_no_other_and_is_repeated_alone(file, tmp_path, stand_in, capsys):
    out = tmp_path / "out"
    runs = planned(file, f"out={out}")["runs"]
    failures = local.execute(runs, out, 2)
    assert len(failures) == 2 and all("seed_1: error: out of luck (" in f for f in failures)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "[1/8] started   width=16/algo=mt_oryx/seed_0" and len(lines) == 16
    assert any(line.startswith("[1/8] finished") and "held-out 0.500, about" in line for line in lines)
    assert sum("FAILED" in line for line in lines) == 2
    started = [line.rpartition("/")[2] for line in lines if " started " in line]
    assert started == ["seed_0"] * 4 + ["seed_1"] * 4

    (out / "order").unlink()
    (out / "mended").touch()
    assert local.execute(runs, out, 1) == []
    assert (out / "order").read_text().splitlines() == ["seed_1 mt_bc_sable"] * 2
    assert capsys.readouterr().out.splitlines()[0] == "[7/8] started   width=16/algo=mt_bc_sable/seed_1"
    log = (out / runs[-1]["dir"] / "log.txt").read_text()
    assert log.count("pid") == 2 and "out of luck" in log, "the log of a resumed run goes on"


def test_a_run_that_diverged_is_named_and_not_made_again(file, tmp_path, stand_in, capsys):
    out = tmp_path / "out"
    runs = planned(file, f"out={out}")["runs"][:2]
    for run in runs[:1]:
        write_json(out / run["dir"] / "diverged.json", {"line": "diverged at update 7: loss is nan"})
    failures = local.execute(runs, out, 2)
    assert failures == [f"{runs[0]['dir']}: diverged at update 7: loss is nan"]
    assert len((out / "order").read_text().splitlines()) == 1
    head, _, _ = stand_in.read_text().partition("time.sleep")
    stand_in.write_text(
        head + """(run / "diverged.json").write_text('{"line": "diverged at update 9"}')\nsys.exit(3)\n"""
    )
    (out / runs[1]["dir"] / "final.json").unlink()
    assert local.execute(runs, out, 2)[1] == f"{runs[1]['dir']}: diverged at update 9"
    assert "DIVERGED" in capsys.readouterr().out


def test_a_stop_ends_the_children(file, tmp_path, stand_in):
    out = tmp_path / "out"
    code = (
        "import sys\n"
        "from mtmarl import errors, sweep\n"
        "from mtmarl.sweeps import local, options, plan, spec\n"
        f"local.TRAIN = (sys.executable, {str(stand_in)!r})\n"
        "given = options.read_options(sys.argv[1:])\n"
        "runs = plan.make_plan(*spec.read_sweep(given.sweep), given)['runs']\n"
        "sweep.run_sweep = lambda given: local.execute(runs, given.directory, 2)\n"
        "errors.exit_with(lambda: sweep.main(sys.argv[1:]), 'it goes on')\n"
    )
    options = [f"+sweep={file}", f"out={out}", "sleep=60"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        order = out / "order"
        while parent.poll() is None and not (order.exists() and order.read_text().count("\n") == 2):
            time.sleep(0.05)
        children = children_of(parent.pid)
        parent.send_signal(signal.SIGTERM)
        _, error = parent.communicate(timeout=30)
    assert parent.returncode == 143 and error == "\nstopped; it goes on\n"
    assert len(children) == 2
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_a_killed_sweep_ends_its_children(file, tmp_path, stand_in):
    out = tmp_path / "out"
    code = (
        "import sys\n"
        "from mtmarl.sweeps import local, options, plan, spec\n"
        f"local.TRAIN = (sys.executable, {str(stand_in)!r})\n"
        "given = options.read_options(sys.argv[1:])\n"
        "runs = plan.make_plan(*spec.read_sweep(given.sweep), given)['runs']\n"
        "local.execute(runs, given.directory, 2)\n"
    )
    argv = [sys.executable, "-c", code, f"+sweep={file}", f"out={out}", "sleep=60"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as parent:
        order = out / "order"
        while parent.poll() is None and not (order.exists() and order.read_text().count("\n") == 2):
            time.sleep(0.05)
        children = children_of(parent.pid)
        parent.kill()
    deadline = time.monotonic() + 20
    while any(map(alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(children) == 2 and not any(map(alive, children))


def test_a_run_that_another_process_is_writing_is_waited_for(file, tmp_path, stand_in, capsys):
    """As after a kill, while the child of that sweep still saves: it is neither failed nor started beside it."""
    out = tmp_path / "out"
    runs = planned(file, f"out={out}")["runs"][:2]
    held = out / runs[0]["dir"]
    code = (
        "import pathlib, sys, time\n"
        "from mtmarl.files import only_writer\n"
        "run = pathlib.Path(sys.argv[1])\n"
        "with only_writer(run):\n"
        "    (run / 'held').touch()\n"
        "    time.sleep(1)\n"
        "    (run / 'final.json').write_text('{}')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(held)]) as other:
        while other.poll() is None and not (held / "held").exists():
            time.sleep(0.02)
        assert local.execute(runs, out, 1) == []
    said = capsys.readouterr().out
    assert f"waiting   {runs[0]['dir']}: another process is writing it" in said
    assert (out / "order").read_text().splitlines() == ["seed_0 mt_bc_sable"]


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5, 6, 7, 9}, raising=False)
    assert local.shares_of_cores(2) == [{4, 6, 9}, {5, 7}]
    assert local.shares_of_cores(6) == [frozenset()] * 6


def test_levels_may_have_seeds_of_their_own(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "title: mine\nbase: [+tasks=lbf_5]\nseeds: [0, 1]\n"
        "axes:\n  k: {one: [tasks.first=1, 'tasks.start={seed}'], five: tasks.first=5}\n"
        "  algo: +algo=mt_oryx,mt_bc_sable\n"
        "profiles: {cpu: {level_seeds: {k: {one: [0, 3]}}}}\n"
    )
    grid, where = read_sweep(str(file))
    planned = make_plan(grid, where, Options(str(file)))["runs"]
    found = {(r["cell"]["k"], r["seed"]) for r in planned if r["cell"]["algo"] == "mt_oryx"}
    assert found == {("one", 0), ("one", 3), ("five", 0), ("five", 1)} and len(planned) == 8
    starts = {r["seed"]: a for r in planned if r["cell"]["k"] == "one" for a in r["argv"] if "start" in a}
    assert starts == {0: "tasks.start=0", 3: "tasks.start=3"}
    file.write_text(file.read_text().replace("one: [0, 3]", "two: [0]"))
    with pytest.raises(UserError, match="unknown two"):
        read_sweep(str(file))


def test_a_sweep_with_earlier_words_of_its_profile_goes_on(tmp_path):
    record = make_plan(*read_sweep("table1"), Options("table1"))

    def earlier(name):
        words = lambda run: [w.replace("profile=cpu", name.format(**run["cell"])) for w in run["argv"]]
        return {**record, "runs": [{**run, "argv": words(run)} for run in record["runs"]]}

    write_plan(earlier("+experiment=cpu_{tasks}"), tmp_path)
    check_continues(record, tmp_path)
    write_plan(earlier("+experiment=cpu"), tmp_path)
    with pytest.raises(
        UserError, match="other settings .*tasks=rware_15.*profile=cpu:none, profile=cpu:rware"
    ):
        check_continues(record, tmp_path)


def test_a_plan_holds_no_credentials(tmp_path):
    """Of levels that differ in an address alone only the first is checked as a run; each is written down."""
    file = tmp_path / "mine.yaml"
    file.write_text(
        "title: mine\nbase: [+tasks=lbf_5, +algo=mt_oryx]\nseeds: [0]\nprofiles: {cpu: {}}\n"
        "axes: {from: {a: hub.url=https://host/x, b: 'hub.url=https://me:secret@host/x'}}\n"
    )
    grid, where = read_sweep(str(file))
    with pytest.raises(UserError, match="hub.url holds a password") as refused:
        make_plan(grid, where, Options(str(file)))
    assert "secret" not in str(refused.value)
