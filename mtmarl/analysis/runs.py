"""Runs as they lie on disk. What is half-written, foreign or broken is named and left out; the rest is read."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Run:
    """One training run. `final` is empty until it has finished; `metrics` are the lines of metrics.jsonl."""

    path: Path
    record: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    final: Mapping[str, Any]

    @property
    def label(self) -> str:
        """Runs with one label are seeds of one experiment."""
        return self.record.get("label") or f"{self.record['algo']} · {self.record['tasks']}"

    @property
    def seed(self) -> int:
        return int(self.record["seed"])

    def reference(self, task: str) -> Mapping[str, float]:
        return self.record.get("references", {}).get(task, {})

    def tasks(self, split: str) -> list[str]:
        return list(self.record[f"{split}_tasks"])

    def returns(self, task: str, which: str) -> np.ndarray:
        """Episode returns of the final score; `which`: best or last."""
        return np.asarray(self.final[which]["tasks"][task]["return"], float)

    def normalised(self, task: str, which: str) -> float:
        """Mean return / reference; NaN without a reference."""
        reference = self.reference(task).get("reference")
        return float(self.returns(task, which).mean() / reference) if reference else float("nan")

    def curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of a metric that was logged."""
        points = [(m["step"], m[metric]) for m in self.metrics if m.get(metric) is not None]
        return tuple(np.asarray(points, float).reshape(-1, 2).T)  # type: ignore[return-value]


def load(paths: Iterable[Path | str]) -> tuple[list[Run], list[tuple[Path, str]]]:
    """All runs at or below the paths, and what could not be read with the reason."""
    runs, refused = [], []
    files = [f for p in paths for f in sorted(Path(p).rglob("run.json"))]
    for file in dict.fromkeys(f.resolve() for f in files):
        try:
            run = _read(file.parent)
        except (OSError, ValueError, KeyError, TypeError) as error:
            refused.append((file.parent, f"{type(error).__name__}: {error}"))
            continue
        if run.record["kind"] == "train" and not run.final:
            refused.append((run.path, "not finished: it has no final.json yet"))
        runs.append(run)
    return runs, refused


def _read(directory: Path) -> Run:
    record = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    for key in ("kind", "algo", "tasks", "train_tasks", "test_tasks", "seed"):
        if key not in record:
            raise KeyError(f"run.json has no {key!r}")
    metrics = []
    if (directory / "metrics.jsonl").exists():
        for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            try:
                metrics.append(json.loads(line))
            except ValueError:
                break  # The last line of a run that is being written, or was killed.
    final_file = directory / "final.json"
    final = json.loads(final_file.read_text(encoding="utf-8")) if final_file.exists() else {}
    if final:
        for task in (*record["train_tasks"], *record["test_tasks"]):
            for which in ("best", "last"):
                np.asarray(final[which]["tasks"][task]["return"], float)
    return Run(directory, record, tuple(metrics), final)
