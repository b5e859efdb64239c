"""TensorBoard event files, written by tensorboardX."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from mtmarl.sinks import Sink
from mtmarl.sinks.summary import summarise


class TensorBoard(Sink):
    """resume_step: plots hide later steps of an earlier process."""

    def __init__(self, directory: Path, resume_step: int | None = None):
        from tensorboardX import SummaryWriter

        purge = None if resume_step is None else resume_step + 1
        self._writer = SummaryWriter(str(directory), purge_step=purge)

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, float(value), step)

    def log_evaluation(
        self, step: int, results: Mapping[str, Mapping[str, Any]], final: bool = False
    ) -> None:
        self.log(step, summarise(results, final))
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
