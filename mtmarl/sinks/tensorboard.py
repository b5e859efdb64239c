"""TensorBoard event files, through tensorboardX."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from mtmarl.sinks.summary import summarise


class TensorBoard:
    """`resume_step`: later steps of an earlier process are hidden from plots."""

    def __init__(self, directory: Path, resume_step: int | None = None):
        from tensorboardX import SummaryWriter

        purge = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(directory), purge_step=purge)

    def start(self, total: int, done: int = 0) -> None:
        pass

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, float(value), step)

    def log_evaluation(
        self, step: int, results: Mapping[str, Mapping[str, Any]], final: bool = False
    ) -> None:
        for name, value in summarise(results).items():
            self._writer.add_scalar(name.replace("eval/", "final/", 1) if final else name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
