"""Weights & Biases and Trackio. Both have the same interface."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from mtmarl.sinks import Sink
from mtmarl.sinks.summary import summarise

PROJECT = "mtmarl"


class Tracker(Sink):
    """Logs with `write(metrics, step=…)` and closes with `finish()`."""

    def __init__(self, write: Callable[..., Any], finish: Callable[[], Any]):
        self._write, self._finish = write, finish

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        self._write({name: float(value) for name, value in metrics.items()}, step=step)

    def log_evaluation(
        self, step: int, results: Mapping[str, Mapping[str, Any]], final: bool = False
    ) -> None:
        self.log(step, summarise(results, final))

    def close(self) -> None:
        self._finish()


def _name(run: Mapping[str, Any]) -> str:
    return f"{run.get('algo', '')}-{run.get('tasks', '')}-{run.get('seed', 0)}"


def make_wandb(run_dir: Path, run: Mapping[str, Any]) -> Tracker:
    """Records offline in the run directory unless WANDB_MODE is set; `wandb sync` uploads the records."""
    import wandb

    mode: Any = os.environ.get("WANDB_MODE", "offline")
    config = dict(run.get("config", {}))
    # The seeds of one program have separate runs that are open at the same time.
    live = wandb.init(
        project=PROJECT, name=_name(run), dir=str(run_dir), config=config, mode=mode, reinit="create_new"
    )
    return Tracker(live.log, live.finish)


def make_trackio(run_dir: Path, run: Mapping[str, Any]) -> Tracker:
    """Records in Trackio's local database; `trackio show` opens it."""
    import trackio

    live = trackio.init(project=PROJECT, name=_name(run), config=dict(run.get("config", {})))
    return Tracker(live.log, live.finish)
