"""A run whose numbers are no longer finite: how it is found, what is kept of it, what is said. It is no result.

<run>/diverged.json   seed, update, metric, value and task; `key`: the data of the key that the batch was drawn with;
                      `checkpoint`: the update of the newest saved state, None where there is none
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtmarl.files import write_json

FILE = "diverged.json"
ADVICE = (
    "the same settings diverge again: lower algo.learning_rate or algo.max_grad_norm, or mend the data, and give "
    f"another run_dir; to go on from the last checkpoint all the same, remove {FILE}"
)
# The square of a larger number is no float32: rewards beyond it are the cause of a loss that is not finite.
LARGEST = float(np.sqrt(np.finfo(np.float32).max))


class Trace(NamedTuple):
    """What a chunk of U updates leaves of every update: looked at only if something in it is not finite.

    metrics: [U], those per task [U, K]; reward: the largest of the batch without its sign [U]; reward_task: the task
    that paid it [U]; leaves: whether each array of the learner is finite after the chunk [].
    """

    metrics: Mapping[str, Any]
    reward: Any
    reward_task: Any
    leaves: Mapping[str, Any]


class Divergence(NamedTuple):
    """`update` counts from 1. `task` is None where no task can be told from the others."""

    update: int
    metric: str
    value: float
    task: str | None = None

    @property
    def line(self) -> str:
        of = f" of {self.task}" if self.task else ""
        return f"diverged at update {self.update:,}: {self.metric}{of} is {self.value:g}"


def watched(metric: str) -> bool:
    """Whether a metric must be finite: losses and norms of gradients."""
    return metric.endswith(("loss", "grad_norm"))


def find(trace: Trace, begin: int, task_names: Sequence[str]) -> Divergence:
    """The first value of a chunk that is not finite; the chunk began after `begin` updates.

    Rewards that are not finite, or so large that their squares are not, are named before the losses made of them.
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
    tasks = ", ".join(task(k) for k in _accused(trace, at))
    return Divergence(begin + at + 1, metric, float(values[~np.isfinite(values)][0]), tasks or None)


def _accused(trace: Trace, at: int) -> list[int]:
    """The tasks with a metric of their own that is not finite, where others have one that is or there are none."""
    for x in trace.metrics.values():
        wrong = ~np.isfinite(x[at])
        if np.ndim(wrong) == 1 and wrong.any() and (not wrong.all() or wrong.size == 1):
            return np.flatnonzero(wrong).tolist()
    return []


def write(run_dir: Path, found: Divergence, seed: int, key: Sequence[int], checkpoint: int | None) -> None:
    """Leaves diverged.json: with `seed` and `key` the batch can be drawn again from the state at `checkpoint`."""
    told = {"seed": seed, **found._asdict(), "value": str(found.value), "key": list(map(int, key))}
    write_json(run_dir / FILE, {**told, "checkpoint": checkpoint, "line": found.line})


def read(run_dir: Path) -> str | None:
    """How the run diverged, in one line; None if it did not."""
    file = run_dir / FILE
    if not file.exists():
        return None
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["line"])
    except (OSError, ValueError, KeyError, TypeError):
        return "diverged"


def lost(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """How a run diverged, by its last metrics: a loss that was not finite was logged as null. None if it did not."""
    last: dict[str, tuple[Any, Any]] = {}
    for row in rows:
        last |= {name: (row["step"], value) for name, value in row.items() if watched(name)}
    for name, (step, value) in last.items():
        if value is None:
            return f"diverged: {name} is not finite at update {step:,}"
    return None


def ended(run_dir: Path) -> bool:
    """Whether a run is over: it has its final scores, or it diverged and would again."""
    return (run_dir / "final.json").exists() or (run_dir / FILE).exists()
