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

from mtmarl.errors import UserError
from mtmarl.files import write_json
from mtmarl.foreign import line

# What some tasks lack, as results and as marl-eval name it: a reference return to divide by, battles to win.
OPTIONAL = {"normalised": "normalised_return", "win_rate": "win_rate"}


class MarlEval:
    """`resume_step`: evaluations of later steps are dropped from an existing file; None keeps all of them.

    An evaluation is appended to a log beside the file. The log is folded into the file when it has as many evaluations
    as that, at the end of the run and at its next start: what is written, and what is held in memory, does not grow
    with the square of the number of evaluations.
    """

    def __init__(self, path: Path, algo: str, seed: int, resume_step: int | None = None):
        self._path, self._algo, self._seed = path, algo, f"seed_{seed}"
        self._log = path.with_name(f"{path.name}l")
        try:
            self._started = time.monotonic() - self._resume(resume_step)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            reason = line(f"{type(error).__name__}: {error}")
            raise UserError(
                f"{path}: not the evaluations of a run ({reason}); restore it, or remove it to keep only new ones"
            ) from None

    def _resume(self, step: int | None) -> float:
        """Drops evaluations of later steps; returns the seconds that the run has taken."""
        data, elapsed = self._merged(), 0.0
        for record in _records(data, self._algo, self._seed):
            if step is not None:
                record.pop("absolute_metrics", None)
                for key in [k for k, v in record.items() if v["step_count"] > step]:
                    del record[key]
            steps = [v for k, v in record.items() if k != "absolute_metrics"]
            elapsed = max([elapsed, *(v["elapsed_time"] for v in steps)])
        self._write(data)
        return elapsed

    def start(self, total: int, done: int = 0) -> None:
        pass

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        pass

    def log_evaluation(
        self, step: int, results: Mapping[str, Mapping[str, Any]], final: bool = False
    ) -> None:
        tasks = {}
        for name, result in results.items():
            values = {
                "episode_return": _floats(result["return"]),
                "episode_length": _floats(result["length"]),
            }
            for key, metric in OPTIONAL.items():
                if _known(result.get(key)):
                    values[metric] = [float(result[key])]
            tasks[name] = values
        entry = {
            "step": int(step),
            "final": final,
            "elapsed": time.monotonic() - self._started,
            "tasks": tasks,
        }
        with self._log.open("ab") as file:
            # Without what a write that failed, as on a full disk, has left of its line.
            file.truncate(min(self._size, file.tell()))
            file.write((json.dumps(entry) + "\n").encode())
            file.flush()
            self._size = file.tell()
        self._waiting += 1
        if final or self._waiting >= self._folded:
            self._write(self._merged())

    def close(self) -> None:
        if self._waiting:
            self._write(self._merged())

    def _merged(self) -> dict[str, Any]:
        """What the file and the log hold together."""
        data = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
        for row in self._log.read_bytes().splitlines() if self._log.exists() else ():
            try:
                entry = json.loads(row)
            except ValueError:
                continue  # The last line of a process that was killed.
            for name, values in entry["tasks"].items():
                env, _, task = name.partition("/")
                record = data.setdefault(env, {}).setdefault(task or env, {})
                record = record.setdefault(self._algo, {}).setdefault(self._seed, {})
                if entry["final"]:
                    record["absolute_metrics"] = values
                    continue
                evaluations = {k: v for k, v in record.items() if k != "absolute_metrics"}
                same = [k for k, v in evaluations.items() if v["step_count"] == entry["step"]]
                key = same[0] if same else f"step_{len(evaluations)}"
                record[key] = {"step_count": entry["step"], "elapsed_time": entry["elapsed"], **values}
        return data

    def _write(self, data: dict[str, Any]) -> None:
        _drop_partial(data)
        write_json(self._path, data)
        self._log.unlink(missing_ok=True)
        self._size = self._waiting = 0
        self._folded = max(map(len, _records(data, self._algo, self._seed)), default=0)


def _records(data: Mapping[str, Any], algo: str, seed: str) -> list[dict[str, Any]]:
    """The evaluations of each task."""
    return [task.get(algo, {}).get(seed, {}) for tasks in data.values() for task in tasks.values()]


def _drop_partial(data: Mapping[str, Any]) -> None:
    """Removes the metrics that some task, seed or evaluation of the file lacks."""
    entries = [
        entry
        for tasks in data.values()
        for algos in tasks.values()
        for seeds in algos.values()
        for record in seeds.values()
        for entry in record.values()
    ]
    for metric in OPTIONAL.values():
        if not all(metric in entry for entry in entries):
            for entry in entries:
                entry.pop(metric, None)


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _floats(values: Any) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in values]
