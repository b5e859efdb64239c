"""How soon a policy that goes on learning is good: its curve over env steps, its start and when it is good enough.

Jump point: the return of the policy when it is first put to work. Time to threshold: the env steps that it then takes
until the return of an evaluation reaches a share of the largest return there is or, where that is not known, of the
task's reference return (Meng et al. 2023, section 5).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtmarl.analysis.runs import Run
from mtmarl.analysis.sweeps import Sweep

# Of the largest return or the reference, by default.
SHARE = 0.9


def applies(run: Run) -> bool:
    """Whether a run began with an earlier policy, or learned by acting what it is judged by: held-out tasks are not."""
    played = (run.record.get("counts") or {}).get("env_steps")
    return run.kind == "train" and bool(run.record.get("start") or (played and not run.tasks("test")))


def unit(run: Run) -> str:
    """What its curves are drawn over."""
    return "env steps" if (run.record.get("counts") or {}).get("env_steps") else "updates"


def curve(run: Run, task: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, mean returns) of the evaluations on a task, in env steps where any were taken, else in updates.

    Of evaluations after equally many env steps the last one counts: the others saw a policy that had yet to be put to
    work.
    """
    if unit(run) == "updates":
        return run.curve(f"eval/{task}/return")
    at = dict(zip(*run.curve("env_steps"), strict=True))
    points = {at[s]: value for s, value in zip(*run.curve(f"eval/{task}/return"), strict=True) if s in at}
    return np.asarray(list(points), float), np.asarray(list(points.values()), float)


def jump_point(steps: np.ndarray, returns: np.ndarray) -> float:
    """The return at step 0; NaN where it was not evaluated there."""
    return float(returns[0]) if steps.size and steps[0] == 0 else float("nan")


def time_to_threshold(steps: np.ndarray, returns: np.ndarray, threshold: float) -> float:
    """The first step at which the return is at least the threshold; infinite where it never is."""
    reached = np.flatnonzero(returns >= threshold)
    return float(steps[reached[0]]) if reached.size else float("inf")


def groups(sweep: Sweep) -> dict[str, list[Run]]:
    """The runs of a sweep by cell or, where every panel is a cell of a series and has tasks of its own, by series."""
    tasks = [
        {
            t
            for c in sweep.in_panel(p)
            for run in sweep.runs(c)
            for s in ("train", "test")
            for t in run.tasks(s)
        }
        for p in sweep.panels()
    ]
    apart = sweep.x is None and sum(map(len, tasks)) == len(set().union(*tasks))
    out: dict[str, list[Run]] = {}
    for cell in sweep.cells():
        label = (sweep.spell(sweep.series(cell)) or sweep.title) if apart else sweep.label(cell)
        out.setdefault(label, []).extend(sweep.runs(cell))
    return out


def figures(groups: Mapping[str, Sequence[Run]], share: float = SHARE) -> list[dict[str, Any]]:
    """One entry per group of runs, which are seeds of each other, and task; a task without a reference has no times.

    Medians are taken over seeds: one that never reaches the threshold takes infinitely long.
    """
    out = []
    for label, runs in groups.items():
        runs = [run for run in runs if applies(run)]
        tasks = dict.fromkeys(t for run in runs for split in ("train", "test") for t in run.tasks(split))
        for task in tasks:
            own = [run for run in runs if curve(run, task)[0].size]
            if not own:
                continue
            curves = [curve(run, task) for run in own]
            aim = own[0].aim(task)
            threshold = None if aim is None else share * aim
            times = None if threshold is None else [time_to_threshold(*c, threshold) for c in curves]
            out.append(
                {
                    "label": label,
                    "task": task,
                    "unit": unit(own[0]),
                    "jump_points": [jump_point(*c) for c in curves],
                    "aim": aim,
                    "threshold": threshold,
                    "times": times,
                    "median_time": None if times is None else float(np.median(times)),
                    "reached": None if times is None else int(np.isfinite(times).sum()),
                    "played_before": float(
                        np.mean([(r.record.get("start") or {}).get("env_steps", 0) for r in own])
                    ),
                    "last_step": float(min(c[0][-1] for c in curves)),
                }
            )
    return out
