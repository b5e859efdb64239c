"""metrics.jsonl: one JSON object per line, append-only, written at once and whole."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from mtmarl.files import write_whole
from mtmarl.sinks.summary import summarise


class Jsonl:
    """`resume_step`: lines of later steps are removed first; None keeps all. A half-written line goes."""

    def __init__(self, path: Path, resume_step: int | None = None):
        if path.exists():
            _trim(path, resume_step)
        path.touch()
        self._path, self._size = path, path.stat().st_size

    def start(self, total: int, done: int = 0) -> None:
        pass

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        row: dict[str, Any] = {"step": int(step)}
        for name, value in metrics.items():
            number = float(value)
            row[name] = number if math.isfinite(number) else None  # JSON knows no NaN
        with self._path.open("ab") as file:
            # Without what a write that failed, as on a full disk, has left of its line.
            file.truncate(min(self._size, file.tell()))
            file.write((json.dumps(row) + "\n").encode())
            file.flush()
            self._size = file.seek(0, 2)

    def log_evaluation(
        self, step: int, results: Mapping[str, Mapping[str, Any]], final: bool = False
    ) -> None:
        row = summarise(results)
        self.log(step, {name.replace("eval/", "final/", 1): v for name, v in row.items()} if final else row)

    def close(self) -> None:
        pass


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
