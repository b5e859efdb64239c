"""marl_eval.json: every episode of every evaluation, in the exchange format of the marl-eval tools.

env -> task -> algorithm -> seed_k -> {step_i: {step_count, elapsed_time, metric: [per episode]},
absolute_metrics: {metric: [per episode of the final score]}}

Readers take the metrics of the first task for those of all, so a file holds only what every task has.
"""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtmarl.files import write_json

# What some tasks lack, as results and as marl-eval name it: a reference return to divide by, battles to win.
OPTIONAL = {"normalised": "normalised_return", "win_rate": "win_rate"}


class MarlEval:
    """`resume_step`: evaluations of later steps are dropped from an existing file; None keeps all of them."""

    def __init__(self, path: Path, algo: str, seed: int, resume_step: int | None = None):
        self._path, self._algo, self._seed = path, algo, f"seed_{seed}"
        self._data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        elapsed = 0.0
        for tasks in self._data.values():
            for task in tasks.values():
                record = task.get(algo, {}).get(self._seed, {})
                if resume_step is not None:
                    record.pop("absolute_metrics", None)
                    for key in [k for k, v in record.items() if v["step_count"] > resume_step]:
                        del record[key]
                steps = [v for k, v in record.items() if k != "absolute_metrics"]
                elapsed = max([elapsed, *(v["elapsed_time"] for v in steps)])
        self._started = time.monotonic() - elapsed
        write_json(self._path, self._data)

    def start(self, total: int, done: int = 0) -> None:
        pass

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        pass

    def log_evaluation(
        self, step: int, results: Mapping[str, Mapping[str, Any]], final: bool = False
    ) -> None:
        for name, result in results.items():
            env, _, task = name.partition("/")
            record = self._data.setdefault(env, {}).setdefault(task or env, {})
            record = record.setdefault(self._algo, {}).setdefault(self._seed, {})
            values = {
                "episode_return": _floats(result["return"]),
                "episode_length": _floats(result["length"]),
            }
            for key, metric in OPTIONAL.items():
                if _known(result.get(key)):
                    values[metric] = [float(result[key])]
            if final:
                record["absolute_metrics"] = values
            else:
                evaluations = {k: v for k, v in record.items() if k != "absolute_metrics"}
                same = [k for k, v in evaluations.items() if v["step_count"] == int(step)]
                key = same[0] if same else f"step_{len(evaluations)}"
                elapsed = time.monotonic() - self._started
                record[key] = {"step_count": int(step), "elapsed_time": elapsed, **values}
        self._drop_partial()
        write_json(self._path, self._data)

    def _drop_partial(self) -> None:
        """Removes the metrics that some task, seed or evaluation of the file lacks."""
        entries = [
            entry
            for tasks in self._data.values()
            for algos in tasks.values()
            for seeds in algos.values()
            for record in seeds.values()
            for entry in record.values()
        ]
        for metric in OPTIONAL.values():
            if not all(metric in entry for entry in entries):
                for entry in entries:
                    entry.pop(metric, None)

    def close(self) -> None:
        pass


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _floats(values: Any) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in values]
