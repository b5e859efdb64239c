"""Damaged folders of runs, sweeps and facts, several files at once, against the report: the sound run is in it."""

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np

from tests.faults.cases import Case, Door, Kind
from tests.faults.values import ODD, generator, mangle_file, pick, wrong_json

COUNT = 600


@cache
def _sound(scratch: Path) -> Path:
    """A sweep that keeps its facts, runs of every kind, and a report of them."""
    from mtmarl import report
    from mtmarl.analysis import plans
    from mtmarl.sweeps.plan import write_plan
    from tests.unit.analysis.run_directories import write_collection, write_json, write_run, write_sweep

    here = scratch / "sound-reports"
    scores = {"train": {"lbf/a": 0.9}, "test": {"lbf/b": 0.4, "lbf/c": 0.5}}
    claim = {"claim": "more", "of": {"n": "4"}, "over": {"n": "1"}, "split": "test", "gain": 0.3}
    published = {"of": {"n": "4"}, "split": "test", "mean": 0.4, "standard_error": 0.01}
    sweep = write_sweep(
        here / "sweep", {"n": ["1", "4"]}, lambda cell, seed: tuple(scores.values()), seeds=(0, 1), x="n",
        paper=[claim], published=[published],
    )  # fmt: skip
    write_plan(json.loads((sweep / "sweep.json").read_text()), sweep)
    plans.keep(sweep)
    played = {"counts": {"env_steps": 100}, "start": {"from": "runs/a", "algo": "care", "env_steps": 9}}
    for name, more in (("good", {}), ("one", {}), ("played", played), ("going", {"finished": False})):
        config = {"algo": {"tau": 0.1}, "evaluator": {"explore": 1.0}}
        write_run(here / name, **scores, seed=len(name), config=config, **more)
    lost = write_run(here / "lost", **scores, finished=False)
    write_json(lost / "diverged.json", {"update": 3, "line": "diverged at update 3: loss is nan"})
    write_collection(here / "collected", "lbf/a")
    report.main([str(here), "--out", str(here / "kept"), "--pictures"])
    return here


def _damage(file: Path, rng: np.random.Generator) -> str:
    if rng.random() < 0.25:
        return mangle_file(file, rng)
    if file.suffix == ".json":
        value = json.loads(file.read_text())
        said = wrong_json(value, rng)
        file.write_text(json.dumps(value))
        return said
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    row = pick(rng, rows)
    said = wrong_json(row, rng)
    if rng.random() < 0.1:
        rows[rows.index(row)] = pick(rng, ODD)
        said = "an odd line"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return said


def _case(scratch: Path, number: int) -> Case:
    from mtmarl import report

    here, rng, sound = scratch / "reports-case", generator("reports", number), _sound(scratch)
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(sound, here)
    files = sorted(f for f in here.rglob("*.json*") if "good" not in f.parts and f.name != "results.json")
    chosen = [pick(rng, files) for _ in range(int(rng.integers(1, 4)))]
    said = [f"{file.relative_to(here)}: {_damage(file, rng)}" for file in dict.fromkeys(chosen)]
    drawn = [] if number % 8 == 0 else ["--pictures"]

    def made(name: str, *paths: Path) -> str:
        code = report.main([*map(str, paths), "--out", str(here / name), *drawn])
        assert code == 0, "the sound run has no report"
        return (here / name / "report.md").read_text()

    runs = [here / name for name in ("good", "one", "played", "going", "lost", "collected", "sweep")]
    there = [path for path in runs if path.exists()]
    holds_good = lambda text: "mt_oryx · lbf_5" in text
    doors = [
        Door("report", lambda: made("a", *there), holds_good),
        Door("report of its facts", lambda: made("b", here / "a" / "facts.jsonl"), holds_good),
        Door("report of facts", lambda: made("c", here / "kept" / "facts.jsonl", here / "good"), holds_good),
        Door("audit", lambda: _audit(here), lambda found: isinstance(found, list)),
    ]
    return Case(chosen[0].name, "; ".join(said), doors)


def _audit(here: Path) -> list[str]:
    from mtmarl.analysis import audit

    return audit.refusals(here, {})


KINDS = {"reports": Kind("reports", COUNT, _case)}
