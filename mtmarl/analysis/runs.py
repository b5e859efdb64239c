"""Runs as a report sees them, and their scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

SPLITS = ("train", "test")


def rounded(value: float) -> float:
    """To the six digits that facts keep: a run folder and its facts give equal scores."""
    return float(f"{value:.6g}")


@dataclass(frozen=True)
class Run:
    """One run. `final` is empty until it has finished; `metrics` are the lines of metrics.jsonl.

    `diverged`: how it did, in words. Such a run has no scores.
    """

    path: Path
    record: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    final: Mapping[str, Any]
    diverged: str | None = None

    @property
    def label(self) -> str:
        """What is trained on what; runs with one label may still differ in settings, see `experiments`."""
        earlier = (self.record.get("start") or {}).get("algo")
        algo = f"{self.record['algo']} from {earlier}" if earlier else self.record["algo"]
        return self.record.get("label") or f"{algo} · {self.record['tasks']}"

    @property
    def title(self) -> str:
        """The name of its algorithm as people write it."""
        return str(self.record.get("title") or self.record["algo"])

    @property
    def seed(self) -> int:
        return int(self.record["seed"])

    @property
    def kind(self) -> str:
        return str(self.record["kind"])

    @property
    def started(self) -> str:
        return str(self.record.get("started") or "")

    def reference(self, task: str) -> Mapping[str, Any]:
        return (self.record.get("references") or {}).get(task) or {}

    def aim(self, task: str) -> float | None:
        """The largest return that an episode of the task can have or, where that is not known, its reference."""
        most = (self.record.get("max_returns") or {}).get(task)
        reference = self.reference(task).get("reference") or 0.0
        return most or (float(reference) if reference > 0 else None)

    def tasks(self, split: str) -> list[str]:
        return list(self.record[f"{split}_tasks"])

    def returns(self, task: str, which: str) -> np.ndarray:
        """Episode returns [episodes] of the final score; `which`: best or last. Facts have their mean: []."""
        return np.asarray(self.final[which]["tasks"][task]["return"], float)

    def mean_return(self, task: str, which: str) -> float:
        return rounded(float(self.returns(task, which).mean()))

    def episodes(self, task: str, which: str) -> int:
        """How many episodes the final score is of."""
        return int(self.final[which]["tasks"][task].get("episodes") or self.returns(task, which).size)

    def episode_error(self, task: str, which: str) -> float:
        """The standard error of the mean return over episodes; NaN where it was not kept."""
        returns = self.returns(task, which)
        if not returns.ndim:
            known = self.final[which]["tasks"][task].get("standard_error")
            return float("nan") if known is None else float(known)
        return float(returns.std(ddof=1) / np.sqrt(returns.size)) if returns.size > 1 else float("nan")

    def winnable(self, task: str) -> bool:
        """Whether episodes of the task are won or lost."""
        scored = (self.final.get("best") or {}).get("tasks") or {}
        logged = f"eval/{task}/win_rate"
        return (scored.get(task) or {}).get("win_rate") is not None or any(logged in m for m in self.metrics)

    def has_score(self, task: str) -> bool:
        return self.winnable(task) or (self.reference(task).get("reference") or 0.0) > 0

    def normalised(self, task: str, which: str) -> float:
        """The score: the share of won episodes or, where nothing is won, mean return / reference; NaN without one."""
        if self.winnable(task):
            return rounded(float(self.final[which]["tasks"][task]["win_rate"]))
        reference = self.reference(task).get("reference") or 0.0
        return self.mean_return(task, which) / reference if reference > 0 else float("nan")

    def greedily(self) -> "Run | None":
        """The run as it scored where it played greedily as well; None where that was not asked for.

        Of tasks that are won or lost only the return was kept.
        """
        final: dict[str, Any] = {}
        for which, scored in self.final.items():
            returns = {task: own.get("greedy_return") for task, own in scored["tasks"].items()}
            if None in returns.values() or any(map(self.winnable, returns)):
                return None
            final[which] = {**scored, "tasks": {task: {"return": value} for task, value in returns.items()}}
        return replace(self, final=final) if final else None

    def curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of a metric that was logged."""
        points = [(m["step"], m[metric]) for m in self.metrics if m.get(metric) is not None]
        steps, values = np.asarray(points, float).reshape(-1, 2).T
        return steps, values

    def score_curve(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """(updates, mean score over the tasks of a split) of the evaluations during training."""
        known = {}
        for task in filter(self.has_score, self.tasks(split)):
            if self.winnable(task):
                known[f"eval/{task}/win_rate"] = 1.0
            else:
                known[f"eval/{task}/return"] = float(self.reference(task)["reference"])
        rows = [m for m in self.metrics if known and all(m.get(k) is not None for k in known)]
        means = [np.mean([m[k] / whole for k, whole in known.items()]) for m in rows]
        return np.asarray([m["step"] for m in rows], float), np.asarray(means, float)


def scores(runs: Sequence[Run], tasks: Sequence[str], which: str) -> np.ndarray:
    """Scores, see `Run.normalised`: [seeds, tasks]."""
    return np.asarray([[run.normalised(t, which) for t in tasks] for run in runs], float).reshape(
        len(runs), len(tasks)
    )


def random_scores(run: Run, tasks: Sequence[str]) -> np.ndarray:
    """What random play scores on tasks: [tasks], below 1. NaN where that is unknown, as of tasks that are won."""
    found = []
    for task in tasks:
        known = run.reference(task)
        reference, played = known.get("reference") or 0.0, known.get("random")
        if played is None or not reference > max(0.0, float(played)) or run.winnable(task):
            found.append(float("nan"))
        else:
            found.append(float(played) / reference)
    return np.asarray(found, float)


def scored_tasks(runs: Sequence[Run], split: str) -> list[str]:
    """The tasks of a split that all runs were scored on: those that can be won or have a reference above 0."""
    if not runs:
        return []
    common = set.intersection(*(set(run.tasks(split)) for run in runs))
    return [t for t in runs[0].tasks(split) if t in common and runs[0].has_score(t)]


def own_tasks(runs: Sequence[Run]) -> bool:
    """Whether runs of one cell were trained on different tasks, as seeds with a `tasks.start` of their own are."""
    return len({frozenset(run.tasks("train")) for run in runs}) > 1


def split_scores(runs: Sequence[Run], split: str, which: str) -> np.ndarray:
    """Scores on the tasks that all runs share: [seeds, tasks]. Runs that were trained on different tasks have one
    training score each, the mean over their own tasks: [seeds, 1].
    """
    if split == "train" and own_tasks(runs):
        own = [scores([run], scored_tasks([run], split), which) for run in runs]
        return np.asarray([[x.mean()] for x in own if x.size]).reshape(-1, 1)
    return scores(runs, scored_tasks(runs, split), which)


def without_reference(runs: Sequence[Run]) -> list[str]:
    """The tasks that runs were scored on and that no normalised score can hold."""
    scored = {t: r for r in runs for split in ("train", "test") for t in r.tasks(split)}
    return sorted(t for t, r in scored.items() if not r.has_score(t))
