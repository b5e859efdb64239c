"""Neptune, offline only: its hosted service closed in March 2026."""

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from mtmarl.sinks import Sink
from mtmarl.sinks.summary import summarise

_log = logging.getLogger("mtmarl.sinks")


class Neptune(Sink):
    def __init__(self, run_dir: Path, run: Mapping[str, Any]):
        directory = run_dir / ".neptune"
        os.environ["NEPTUNE_DATA_DIRECTORY"] = str(directory)  # read when a run is opened
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecation warnings of the client
            import neptune

            self._run = neptune.init_run(
                mode="offline",
                name=f"{run.get('algo', '')}-{run.get('tasks', '')}-{run.get('seed', 0)}",
                source_files=[],
                git_ref=False,
                capture_stdout=False,
                capture_stderr=False,
                capture_hardware_metrics=False,
            )
        _log.warning("neptune: the hosted service is closed; this run is recorded offline in %s", directory)

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        for name, value in metrics.items():
            self._run[name].append(float(value), step=step)

    def log_evaluation(
        self, step: int, results: Mapping[str, Mapping[str, Any]], final: bool = False
    ) -> None:
        self.log(step, summarise(results, final))

    def close(self) -> None:
        self._run.stop()
