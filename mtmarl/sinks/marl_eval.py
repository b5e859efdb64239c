"""marl_eval.json: the episodes of all evaluations, in the exchange format of the marl-eval tools.

env -> task -> algorithm -> seed_k -> {step_i: {step_count, elapsed_time, metric: [per episode]},
absolute_metrics: {metric: [per episode of the final score]}}

marl-eval assumes that all tasks have the metrics of the first one, so a file holds only metrics that all tasks have.
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
from mtmarl.sinks import Sink

# Metrics that some tasks lack: name in our results -> name in marl-eval.
OPTIONAL = {"normalised": "normalised_return", "win_rate": "win_rate"}


class MarlEval(Sink):
    """resume_step: evaluations of later steps are removed from an existing file; None keeps all.

    An evaluation is appended to a log (marl_eval.jsonl). The log is merged into the file when both have the same
    number of evaluations, and when the run ends or restarts, so the bytes written stay linear in the number of
    evaluations.
    """

    def __init__(self, path: Path, algo: str, seed: int, resume_step: int | None = None):
        self._path, self._algo, self._seed = path, algo, f"seed_{seed}"
        self._log = path.with_name(f"{path.name}l")
        try:
            self._started = time.monotonic() - self._resume(resume_step)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            reason = line(f"{type(error).__name__}: {error}")
            raise UserError(
                f"{path}: cannot read these evaluations ({reason}); restore the file, or remove it to start a new one"
            ) from None

    def _resume(self, step: int | None) -> float:
        """Removes evaluations of later steps. Returns the elapsed seconds of the run."""
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
                if (value := result.get(key)) is not None and math.isfinite(value):
                    values[metric] = [float(value)]
            tasks[name] = values
        entry = {
            "step": int(step),
            "final": final,
            "elapsed": time.monotonic() - self._started,
            "tasks": tasks,
        }
        with self._log.open("ab") as file:
            # Remove the partial line of a failed write, as on a full disk.
            file.truncate(min(self._size, file.tell()))
            file.write((json.dumps(entry) + "\n").encode())
            file.flush()
            self._size = file.tell()
        self._logged += 1
        if final or self._logged >= self._merged_count:
            self._write(self._merged())

    def close(self) -> None:
        if self._logged:
            self._write(self._merged())

    def _merged(self) -> dict[str, Any]:
        """Returns the contents of the file and the log."""
        data = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
        for row in self._log.read_bytes().splitlines() if self._log.exists() else ():
            try:
                entry = json.loads(row)
            except ValueError:
                continue  # A killed process leaves a partial last line.
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
        self._size = self._logged = 0
        self._merged_count = max(map(len, _records(data, self._algo, self._seed)), default=0)


def _records(data: Mapping[str, Any], algo: str, seed: str) -> list[dict[str, Any]]:
    """Returns the evaluations of each task."""
    return [task.get(algo, {}).get(seed, {}) for tasks in data.values() for task in tasks.values()]


def _drop_partial(data: Mapping[str, Any]) -> None:
    """Removes metrics that a task, seed or evaluation of the file lacks."""
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


def _floats(values: Any) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in values]
