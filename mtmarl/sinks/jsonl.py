"""metrics.jsonl: one JSON object per line, append-only. Every line is flushed immediately."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from mtmarl.files import write_whole
from mtmarl.sinks import Sink
from mtmarl.sinks.summary import summarise


class Jsonl(Sink):
    """resume_step: lines of later steps are removed at the start; None keeps all. Truncated lines are removed too."""

    def __init__(self, path: Path, resume_step: int | None = None):
        if path.exists():
            _trim(path, resume_step)
        path.touch()
        self._path, self._size = path, path.stat().st_size

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        row: dict[str, Any] = {"step": int(step)}
        for name, value in metrics.items():
            number = float(value)
            row[name] = number if math.isfinite(number) else None  # JSON knows no NaN
        with self._path.open("ab") as file:
            # Remove the partial line of a failed write, as on a full disk.
            file.truncate(min(self._size, file.tell()))
            file.write((json.dumps(row) + "\n").encode())
            file.flush()
            self._size = file.seek(0, 2)

    def log_evaluation(
        self, step: int, results: Mapping[str, Mapping[str, Any]], final: bool = False
    ) -> None:
        self.log(step, summarise(results, final))


def _trim(path: Path, resume_step: int | None) -> None:
    kept = []
    for line in path.read_bytes().splitlines():
        try:
            step = json.loads(line)["step"]
            if resume_step is None or step <= resume_step:
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    write_whole(path, b"".join(kept))
