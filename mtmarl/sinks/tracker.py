"""Weights & Biases and Trackio, which share an interface."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from mtmarl.sinks.summary import summarise

PROJECT = "mtmarl"


class Tracker:
    """Logs through `write(metrics, step=…)` and ends with `finish()`."""

    def __init__(self, write: Callable[..., Any], finish: Callable[[], Any]):
        self._write, self._finish = write, finish

    def start(self, total: int, done: int = 0) -> None:
        pass

    def log(self, step: int, metrics: Mapping[str, SupportsFloat]) -> None:
        self._write({name: float(value) for name, value in metrics.items()}, step=step)

    def log_evaluation(
        self, step: int, results: Mapping[str, Mapping[str, Any]], final: bool = False
    ) -> None:
        summary = summarise(results)
        self.log(step, {k.replace("eval/", "final/", 1) if final else k: v for k, v in summary.items()})

    def close(self) -> None:
        self._finish()


def _name(run: Mapping[str, Any]) -> str:
    return f"{run.get('algo', '')}-{run.get('tasks', '')}-{run.get('seed', 0)}"


def make_wandb(run_dir: Path, run: Mapping[str, Any]) -> Tracker:
    """Writes offline below the run directory unless WANDB_MODE says otherwise; `wandb sync` uploads later."""
    import wandb

    mode: Any = os.environ.get("WANDB_MODE", "offline")
    config = dict(run.get("config", {}))
    # Several seeds of one program have a run each, open side by side.
    live = wandb.init(
        project=PROJECT, name=_name(run), dir=str(run_dir), config=config, mode=mode, reinit="create_new"
    )
    return Tracker(live.log, live.finish)


def make_trackio(run_dir: Path, run: Mapping[str, Any]) -> Tracker:
    """Writes to Trackio's local database; `trackio show` opens it."""
    import trackio

    live = trackio.init(project=PROJECT, name=_name(run), config=dict(run.get("config", {})))
    return Tracker(live.log, live.finish)
