"""Damaged records of runs, sweeps and reports, against all that reads them, up to the first compile."""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.cases import Case, Door, Kind
from tests.faults.policies import leaves, options, policy, sound_run
from tests.faults.values import ODD, generator, mangle_file, pick, wrong_json
from tests.faults.vaults import TASKS, sound_root, used

SWEEP = """
title: Two rates
base: [{base}]
axes: {{rate: {{low: [algo.learning_rate=0.001], high: [algo.learning_rate=0.002]}}}}
x: rate
seeds: [0]
profiles: {{cpu: {{}}}}
"""


class _Seen(BaseException):
    """The first update would be compiled now, from this state."""

    def __init__(self, state: Any):
        self.state = state


class _Here:
    """What a pool of processes does, in this one."""

    def __init__(self, *args: Any, **options: Any):
        pass

    def __enter__(self) -> "_Here":
        return self

    def __exit__(self, *args: Any) -> None:
        pass

    def submit(self, call: Callable, *args: Any) -> Future:
        done: Future = Future()
        done.set_result(call(*args))
        return done


@contextmanager
def _instead(module: Any, **values: Any) -> Iterator[None]:
    kept = {name: getattr(module, name) for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(kept)


# ------------------------------------------------------------------------------------------------ what is damaged


@cache
def _sound(scratch: Path) -> Path:
    """A folder with vaults, two runs, a collection, a sweep of two runs of which one is finished, and a report."""
    from mtmarl import report
    from mtmarl.sinks.marl_eval import MarlEval
    from mtmarl.sweeps import options as sweep_options
    from mtmarl.sweeps import plan as plans
    from mtmarl.sweeps import spec
    from tests.unit.analysis.run_directories import write_collection

    here, run = scratch / "sound-records", sound_run(scratch)
    shutil.copytree(sound_root(scratch), here / "vaults")
    for name in ("run", "good"):
        shutil.copytree(run, here / name)
        record = (here / name / "run.json").read_text()
        (here / name / "run.json").write_text(
            record.replace(f'"{sound_root(scratch)}"', f'"{here / "vaults"}"')
        )
    for name in ("final.json", "policy_last"):  # The run goes on from its newest checkpoint.
        file = here / "run" / name
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    sink = MarlEval(here / "run" / "marl_eval.json", "bc_r", 0)
    for update in (0, 4):
        sink.log_evaluation(update, {TASKS[0]: {"return": np.ones(2), "length": np.ones(2)}})
    sink.close()
    write_collection(here / "collected", TASKS[0])
    record = here / "collected" / "progress.json"
    made = [
        {"update": i, "return": 0.1 * i, "greedy": 0.1, "length": 9.0, "win_rate": None} for i in range(5)
    ]
    record.write_text(json.dumps({"minutes": 0.5, "evaluations": made, "written": False}))
    base = [w for w in options(here / "vaults", run) if not w.startswith("run_dir=")]
    (here / "rates.yaml").write_text(SWEEP.format(base=", ".join(map(json.dumps, base))))
    chosen = sweep_options.read_options([f"+sweep={here / 'rates.yaml'}", f"out={here / 'sweep'}"])
    plan = plans.make_plan(*spec.read_sweep(chosen.sweep), chosen)
    plans.write_plan(plan, here / "sweep")
    _as_planned(run, here / "sweep" / plan["runs"][0]["dir"], plan["runs"][0]["argv"])
    report.write_report([here / "sweep", here / "good"], here / "report")
    return here


def _copy(scratch: Path, name: str) -> Path:
    """A fresh copy of it all, whose records name their new place."""
    here, sound = scratch / name, _sound(scratch)
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(sound, here)
    records = [
        file
        for pattern in ("*/run.json", "sweep/**/*.json*", "report/*.json*")
        for file in here.glob(pattern)
    ]
    for file in (here / "rates.yaml", *records):
        file.write_text(file.read_text().replace(str(sound), str(here)))
    return here


def _as_planned(run: Path, place: Path, argv: list[str]) -> None:
    """A copy of a run as one that a sweep has made."""
    from mtmarl import build, config

    shutil.copytree(run, place)
    record = json.loads((place / "run.json").read_text())
    cfg = config.compose(argv, "train")
    settings = build.parse_algorithm(cfg, build.ALGOS)[1]
    record["config"] = {**config.to_dict(cfg), "algo": config.to_dict(settings)}
    (place / "run.json").write_text(json.dumps(record))


# Every file with what reads it, and how many faults of it are tried. `*`: the only folder of that name's place.
PLACES: dict[str, tuple[int, tuple[str, ...]]] = {
    "run/run.json": (36, ("policy", "resume", "evaluate", "report", "start")),
    "sweep/rate=low/seed_0/run.json": (16, ("sweep", "report of the sweep")),
    "run/best.json": (12, ("start", "resume", "report")),
    "good/final.json": (16, ("report of the sweep", "finished")),
    "sweep/rate=low/seed_0/final.json": (12, ("sweep", "report of the sweep")),
    "collected/progress.json": (14, ("collection", "start from it", "report")),
    "run/metrics.jsonl": (16, ("resume", "report")),
    "run/marl_eval.json": (12, ("resume",)),
    "run/diverged.json": (12, ("resume", "report", "sweep")),
    "run/policy_best/checksums.json": (8, ("policy", "start")),
    "run/checkpoints/4/checksums.json": (8, ("resume",)),
    "vaults/manifest.json": (8, ("vault ls", "vaults", "resume")),
    "vaults/references/lbf/8x8-2p-2f-coop.json": (
        12,
        ("vaults", "vault ls", "evaluate", "report with references"),
    ),
    "sweep/sweep.json": (16, ("sweep", "report of the sweep")),
    "report/facts.jsonl": (18, ("sweep with results", "report of results", "report again")),
}


def _damage(here: Path, place: str, rng: np.random.Generator) -> str:
    file = here / place
    if file.name == "diverged.json":
        value = {
            "seed": 0, "update": 2, "metric": "loss", "value": "nan", "task": None, "key": [0, 1], "checkpoint": 2,
            "line": "diverged at update 2: loss is nan",
        }  # fmt: skip
        file.write_text(json.dumps(value))
    how = rng.random()
    if how < 0.35:
        return f"{place}: {mangle_file(file, rng)}"
    if how < 0.45:
        text = pick(
            rng,
            ["null", "[]", "[1]", '"x"', "1", "true", "{}", "NaN", "[" * 10**5, '{"a":' * 10**5, "\ufeff{}"],
        )
        file.write_text(text, encoding="utf-8")
        return f"{place}: {text[:20]}"
    if file.suffix == ".jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        said = wrong_json(rows, rng)
        if rng.random() < 0.5:
            rows[-1]["step"] = new = pick(rng, ODD)
            said += f", last step = {str(new)[:40]!r}"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return f"{place}: {said}"
    value = json.loads(file.read_text())
    said = wrong_json(value, rng)
    file.write_text(json.dumps(value))
    return f"{place}: {said}"


# ------------------------------------------------------------------------------------------------ what reads it


def _resume(here: Path) -> list[np.ndarray]:
    """The state from which the run goes on; none where it is over."""
    from mtmarl import config, train
    from mtmarl.training import loop

    def stop(algo: Any, sources: Any, plan: Any, state: Any, *args: Any, **more: Any) -> None:
        raise _Seen(state)

    argv = [*options(here / "vaults", here / "run"), "sinks=[jsonl,marl_eval]"]
    try:
        with _instead(loop, train=stop):
            train.run(config.compose(argv, "train"))
    except _Seen as seen:
        return leaves(seen.state)
    return []


def _evaluate(here: Path) -> int:
    from mtmarl import evaluate
    from mtmarl.runs import policy as policies

    def stop(policy: Any, *args: Any) -> None:
        raise _Seen(policy.params)

    try:
        with _instead(policies, make_evaluator=stop):
            return evaluate.main([f"run={here / 'run'}", f"data.vault_dir={here / 'vaults'}"])
    except _Seen:
        return 0


def _must(main: Callable[[list[str]], int], *argv: Any) -> None:
    """One bad file never stops the good ones."""
    code = main(list(map(str, argv)))
    assert code == 0, f"{main.__module__}: the sound ones are not served either"


def _sweep(here: Path, *more: str) -> int:
    from mtmarl import sweep
    from mtmarl.sweeps import run

    argv = [f"+sweep={here / 'rates.yaml'}", f"out={here / 'sweep'}", "--dry-run", *more]
    with _instead(run, ProcessPoolExecutor=_Here):
        return sweep.main(argv)


def _start(here: Path, run: str) -> Any:
    """What a run begins with that starts from this one."""
    from mtmarl import config
    from mtmarl.runs.policy import read_saved

    words = [w for w in options(here / "vaults", here / "new") if not w.startswith("run_dir=")]
    return read_saved(config.compose([*words, f"init_from={here / run}"], "train"))


def _collection(here: Path) -> Any:
    """The vaults of single policies that a collection would write now."""
    from mtmarl.runs.record import read_progress
    from mtmarl.training import collection

    record = read_progress(here / "collected")
    return record and record["evaluations"] and collection.single_policies(record["evaluations"])


@cache
def _state(scratch: Path) -> list[np.ndarray]:
    from mtmarl.errors import UserError

    try:
        return _resume(_copy(scratch, "records-state"))
    except UserError as error:
        raise AssertionError("the undamaged run does not go on") from error


@cache
def _params(scratch: Path) -> list[np.ndarray]:
    return policy(_sound(scratch) / "run", "best")


def _alike(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(map(np.array_equal, a, b))


def _doors(scratch: Path, here: Path, place: str) -> dict[str, Door]:
    from mtmarl import report
    from mtmarl import vault as tool

    out = lambda name: here / f"report-{name}"
    over = place.endswith("diverged.json")  # No state: such a run is over.
    doors = {
        "policy": Door("load_policy", lambda: policy(here / "run", "best"), lambda p: _alike(p, _params(scratch))),
        "resume": Door("resume", lambda: _resume(here), lambda s: over or _alike(s, _state(scratch))),
        "finished": Door("a finished run", lambda: _finished(here)),
        "evaluate": Door("evaluate", lambda: _evaluate(here)),
        "start": Door("init_from", lambda: _start(here, "run"), lambda found: True),
        "start from it": Door("init_from", lambda: _start(here, "collected"), lambda found: True),
        "collection": Door("collect", lambda: _collection(here), lambda found: True),
        "report": Door("report", lambda: _must(report.main, here / "run", here / "good", "--out", out("a"))),
        "report of the sweep": Door(
            "report of a sweep", lambda: _must(report.main, here / "sweep", here / "run", here / "good",
            "--out", out("b"))
            if "good" not in place else _must(report.main, here / "sweep", here / "good", "--out", out("b"))
        ),
        "report of results": Door(
            "report of results", lambda: _must(report.main, here / "report" / "facts.jsonl", here / "good",
            "--out", out("c"))
        ),
        "report again": Door("report again", lambda: report.main([str(here / "good"), "--out", str(here / "report")])),
        "report with references": Door(
            "report --references",
            lambda: report.main([str(here / "good"), "--out", str(out("d")), "--references", str(here / "vaults")]),
        ),
        "sweep": Door("sweep --dry-run", lambda: _sweep(here)),
        "sweep with results": Door("sweep results=", lambda: _sweep(here,
        f"results={here / 'report' / 'facts.jsonl'}")),
        "vault ls": Door("vault ls", lambda: _must(tool.main, "ls", "--root", here / "vaults")),
        "vaults": Door("train", lambda: used(here / "vaults", False), lambda found: True),
    }  # fmt: skip
    return doors


def _finished(here: Path) -> int:
    """The command of a run that is finished, as it is given again."""
    from mtmarl import train

    return train.main(options(here / "vaults", here / "good"))


def _case(scratch: Path, number: int) -> Case:
    places = [(place, readers) for place, (count, readers) in PLACES.items() for _ in range(count)]
    place, readers = places[number]
    here = _copy(scratch, "records-case")
    recipe = _damage(here, place, generator("records", number))
    doors = _doors(scratch, here, place)
    first = number % len(readers)
    chosen = [readers[(first + i) % len(readers)] for i in range(min(2, len(readers)))]
    return Case(Path(place).name, recipe, [doors[name] for name in chosen])


KINDS = {"records": Kind("records", sum(count for count, _ in PLACES.values()), _case)}
