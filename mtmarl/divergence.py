"""Detection and records of diverged runs: a loss, gradient norm, reward or parameter is not finite.

<run>/diverged.json   seed, update, metric, value and task; `key`: the data of the random key of the batch;
                      `checkpoint`: the update of the newest checkpoint, or None
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtmarl.files import write_json

FILE = "diverged.json"
ADVICE = (
    "the same settings diverge again: lower algo.learning_rate or algo.max_grad_norm, or correct the data, and use "
    f"another run_dir; to resume from the last checkpoint anyway, remove {FILE}"
)
# Squares of larger rewards overflow float32, so they explain a loss that is not finite.
LARGEST = float(np.sqrt(np.finfo(np.float32).max))


class Trace(NamedTuple):
    """Values of every update in a chunk of U updates, fetched only if one is not finite.

    metrics: [U], or [U, K] per task. reward: largest absolute reward of the batch [U]. reward_task: its task [U].
    leaves: whether each array of the learner is finite after the chunk [].
    """

    metrics: Mapping[str, Any]
    reward: Any
    reward_task: Any
    leaves: Mapping[str, Any]


class Divergence(NamedTuple):
    """update: counts from 1. task: None if no single task is the cause."""

    update: int
    metric: str
    value: float
    task: str | None = None

    @property
    def line(self) -> str:
        of = f" of {self.task}" if self.task else ""
        return f"diverged at update {self.update:,}: {self.metric}{of} is {self.value:g}"


def watched(metric: str) -> bool:
    """Returns whether a metric must be finite: losses and gradient norms."""
    return metric.endswith(("loss", "grad_norm"))


def find(trace: Trace, begin: int, task_names: Sequence[str]) -> Divergence:
    """Returns the first value that is not finite in a chunk that began after `begin` updates.

    Rewards that are not finite, or whose squares overflow, are reported before the losses that they cause.
    """
    series = {name: x for name, x in trace.metrics.items() if watched(name)}
    wrong = {name: ~np.isfinite(x).reshape(len(x), -1).all(1) for name, x in series.items()}
    bad = np.any([~np.isfinite(trace.reward), *wrong.values()], axis=0)
    if not bad.any():
        arrays = [name for name, finite in trace.leaves.items() if not finite]
        return Divergence(begin + len(bad), arrays[0], float("nan"))
    at = int(bad.argmax())
    task = lambda k: str(task_names[k] if k < len(task_names) else k)
    if not trace.reward[at] <= LARGEST:
        return Divergence(begin + at + 1, "reward", float(trace.reward[at]), task(int(trace.reward_task[at])))
    metric = next(name for name in series if wrong[name][at])
    values = np.ravel(series[metric][at])
    tasks = ", ".join(task(k) for k in _failing_tasks(trace, at))
    return Divergence(begin + at + 1, metric, float(values[~np.isfinite(values)][0]), tasks or None)


def _failing_tasks(trace: Trace, at: int) -> list[int]:
    """Returns the tasks with a per-task metric that is not finite; empty if that holds for all of several tasks."""
    for x in trace.metrics.values():
        wrong = ~np.isfinite(x[at])
        if np.ndim(wrong) == 1 and wrong.any() and (not wrong.all() or wrong.size == 1):
            return np.flatnonzero(wrong).tolist()
    return []


def write(
    run_dir: Path, divergence: Divergence, seed: int, key: Sequence[int], checkpoint: int | None
) -> None:
    """Writes diverged.json. `seed`, `key` and `checkpoint` allow to draw the batch again."""
    record = {
        "seed": seed,
        **divergence._asdict(),
        "value": str(divergence.value),
        "key": list(map(int, key)),
    }
    write_json(run_dir / FILE, {**record, "checkpoint": checkpoint, "line": divergence.line})


def read(run_dir: Path) -> str | None:
    """Returns one line on how the run diverged, or None."""
    file = run_dir / FILE
    if not file.exists():
        return None
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["line"])
    except (OSError, ValueError, KeyError, TypeError):
        return "diverged"


def lost(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """Returns one line on how a run diverged according to its last metrics (null: not finite), or None."""
    last: dict[str, tuple[Any, Any]] = {}
    for row in rows:
        last |= {name: (row["step"], value) for name, value in row.items() if watched(name)}
    for name, (step, value) in last.items():
        if value is None:
            return f"diverged: {name} is not finite at update {step:,}"
    return None


def ended(run_dir: Path) -> bool:
    """Returns whether a run has its final scores or has diverged, so that there is nothing left to do."""
    return (run_dir / "final.json").exists() or (run_dir / FILE).exists()
