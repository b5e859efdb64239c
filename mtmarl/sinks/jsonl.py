"""metrics.jsonl: one JSON object per line, append-only, flushed at once."""

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
        self._file = path.open("a", encoding="utf-8")

    def start(self, total: int, done: int = 0) -> None:
        pass

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        row: dict[str, Any] = {"step": int(step)}
        for name, value in metrics.items():
            number = float(value)
            row[name] = number if math.isfinite(number) else None  # JSON knows no NaN
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def log_evaluation(
        self, step: int, results: Mapping[str, Mapping[str, Any]], final: bool = False
    ) -> None:
        row = summarise(results)
        self.log(step, {name.replace("eval/", "final/", 1): v for name, v in row.items()} if final else row)

    def close(self) -> None:
        self._file.close()


def _trim(path: Path, resume_step: int | None) -> None:
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            step = json.loads(line)["step"]
        except (ValueError, KeyError, TypeError):
            continue
        if resume_step is None or step <= resume_step:
            kept.append(line + "\n")
    write_whole(path, "".join(kept))
