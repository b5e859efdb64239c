"""Tables of runs outside of sweeps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mtmarl.analysis import measure
from mtmarl.analysis.document import Table
from mtmarl.analysis.formats import DASH, count, late, number, with_error
from mtmarl.analysis.runs import SPLITS, Run
from mtmarl.analysis.tables import SCORES, Columns, Rows


def summary(groups: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table | None:
    """Normalised returns, one row per experiment and checkpoint. `groups`: label → checkpoint → numbers."""
    rows = [{"label": label, "which": which, **n} for label, of in groups.items() for which, n in of.items()]
    columns: Columns = {
        "experiment": lambda n: n["label"],
        "checkpoint": lambda n: n["which"],
        "seeds": lambda n: str(len(n["seeds"])),
        **SCORES,
        "late change": late,
    }
    note = (
        "Late change: relative change of the smoothed score on training tasks over the last fifth of training, mean "
        "over seeds (and their range)."
    )
    return Table.of("Normalised return, mean [95% interval]", rows, columns, note, 2)


def per_task(label: str, runs: Sequence[Run], which: str) -> Table | None:
    """Random, reference and achieved returns, task by task. Runs without a task are left out of its row."""
    other = {"best": "last", "last": "best"}[which]
    rows = [
        {
            "task": task,
            "split": split,
            **_scored([r for r in runs if task in r.tasks(split)], task, which, other),
        }
        for split in SPLITS
        for task in dict.fromkeys(t for run in runs for t in run.tasks(split))
    ]
    some = lambda r: "" if r["runs"] == len(runs) else f" ({r['runs']} of {len(runs)} seeds)"
    columns: Columns = {
        "task": lambda r: r["task"],
        "split": lambda r: r["split"],
        "random": lambda r: number(r["random"]),
        "online Sable": lambda r: number(r["reference"]),
        f"return, {which}": lambda r: with_error(r) + some(r),
        f"return, {other}": lambda r: number(r["beside"]),
        "normalised": lambda r: number(r["normalised"]),
        "above random": lambda r: number(r["above"]),
    }
    seeds = ", ".join(str(r.seed) for r in runs)
    of = f"{len(runs)} seeds ({seeds})" if len(runs) > 1 else f"seed {seeds}"
    note = f"±: standard error over {'seeds' if len(runs) > 1 else 'episodes'}."
    return Table.of(f"{label}: {of}", rows, columns, note, 2)


def _scored(runs: Sequence[Run], task: str, which: str, other: str) -> dict[str, Any]:
    """What runs scored on a task."""
    known, ours = runs[0].reference(task), np.asarray([run.mean_return(task, which) for run in runs])
    random, reference = known.get("random"), known.get("reference")
    error = ours.std(ddof=1) / np.sqrt(len(runs)) if len(runs) > 1 else runs[0].episode_error(task, which)
    above = None
    if reference is not None and random is not None and reference > random:
        above = float((ours.mean() - random) / (reference - random))
    return {
        "runs": len(runs),
        "random": random,
        "reference": reference,
        "mean": float(ours.mean()),
        "standard_error": float(error),
        "beside": float(np.mean([run.mean_return(task, other) for run in runs])),
        "normalised": float(np.mean([run.normalised(task, which) for run in runs])),
        "above": above,
    }


def unfinished(going: Mapping[str, Run]) -> Table | None:
    """How far runs are that have no final score; `going`: {name: run}."""
    nothing = lambda run: {"update": 0, "updates": run.record.get("updates"), "train": None, "test": None}
    rows = [{"name": name, **(measure.progress(run) or nothing(run))} for name, run in going.items()]
    columns: Columns = {
        "run": lambda p: p["name"],
        "updates": lambda p: f"{count(p['update'])} of {count(p['updates'])}",
        "train tasks": lambda p: number(p["train"]),
        "test tasks": lambda p: number(p["test"]),
    }
    note = "Normalised scores of the last evaluation during training; in no mean of this report."
    return Table.of("Unfinished runs", rows, columns, note)


def few_shot(found: Rows, share: float) -> Table | None:
    """Jump points and times to threshold, one row per experiment and task."""

    def jump(f: Mapping[str, Any]) -> str:
        jumps = np.asarray(f["jump_points"], float)
        error = "" if len(jumps) < 2 else f" ± {jumps.std(ddof=1) / np.sqrt(len(jumps)):.3f}"
        return number(float(jumps.mean())) + error

    time = lambda f: "∞" if math.isinf(f["median_time"]) else count(f["median_time"])
    columns: Columns = {
        "experiment": lambda f: f["label"],
        "task": lambda f: f["task"],
        "jump point": jump,
        "threshold": lambda f: number(f["threshold"]),
        "time to threshold": lambda f: DASH if f["times"] is None else time(f),
        "seeds that reach it": lambda f: (
            DASH if f["times"] is None else f"{f['reached']} of {len(f['times'])}"
        ),
        "in": lambda f: f["unit"],
        "trained": lambda f: count(f["last_step"]),
        "env steps before": lambda f: count(f["played_before"]),
    }
    note = (
        "Jump point: return before the first update by acting, mean over seeds ± standard error. Time to threshold: "
        f"until the return of an evaluation is {share:g} of the task's reference return or, where it is known (2 in "
        "SMAX), of the largest there is, median over seeds; ∞: never. Env steps before: played by the policy that it "
        "began with."
    )
    table = Table.of("From the first step on", found, columns, note)
    return table and replace(table, align="llrrrrlrr")


def collection(found: Rows, acting: str) -> Table | None:
    """Online training, one row per run. `acting`: how actions were chosen that are not greedy."""

    def evaluations(c: Mapping[str, Any]) -> str:
        planned = c["evaluations_planned"]
        going = "" if planned is None or c["evaluations"] >= planned else f" (of {planned})"
        return f"{c['evaluations']}{going}"

    columns: Columns = {
        "task": lambda c: c["task"],
        "seed": lambda c: str(c["seed"]),
        "env steps": lambda c: count(c["env_steps"]),
        "evaluations": evaluations,
        "minutes": lambda c: number(c["minutes"], 1),
        "env steps/s": lambda c: count(c["steps_per_second"]),
        "final, sampled": lambda c: number(c["final"]),
        "best, sampled": lambda c: f"{number(c['best'])} at {c['best_at'] / 1e6:.2f} M",
        "final, greedy": lambda c: number(c["greedy"]),
        "untrained": lambda c: number(c["untrained"]),
    }
    note = (
        f"Returns per episode. Sampled: actions are {acting}; greedy: the most probable or most valuable ones. "
        "Untrained: sampled return before the first update, when play is close to random."
    )
    return Table.of("Online training", found, columns, note)
