"""Loggers. They get host floats, never device arrays, and run on process 0 only.

A sink that cannot start is an error at launch. One that fails later gets the missed entries when it works again.
"""

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, SupportsFloat, runtime_checkable

from mtmarl.errors import UserError

Metrics = Mapping[str, SupportsFloat]
# task name -> {"return": per episode, "length": per episode, "win_rate": 0 … 1 or None, "split": "train" or "test",
#               "normalised": win_rate or, where nothing is won, mean return / reference, or None}
Evaluation = Mapping[str, Mapping[str, Any]]

_log = logging.getLogger("mtmarl.sinks")

# Queue length per failing sink; beyond it the oldest entries are dropped.
QUEUE_SIZE = 100_000
# Errors of an invalid entry: retrying does not help.
_PERMANENT = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError)


@runtime_checkable
class Sink(Protocol):
    """total, done: numbers of updates. final: marks the reported score."""

    def start(self, total: int, done: int = 0) -> None:
        pass

    def log(self, step: int, metrics: Metrics) -> None:
        pass

    def log_evaluation(self, step: int, results: Evaluation, final: bool = False) -> None:
        pass

    def close(self) -> None:
        pass


# `run` holds algo, tasks and seed. Optional: config (plain values), quiet and resume_step: the update to resume
# from. For a new run it is -1, which removes the records of an attempt that saved no checkpoint.
Factory = Callable[[Path, Mapping[str, Any]], Sink]


def _console(run_dir: Path, run: Mapping[str, Any]) -> Sink:
    from mtmarl.sinks.console import Console

    return Console(quiet=bool(run.get("quiet", False)), unit=str(run.get("unit", "updates")))


def _jsonl(run_dir: Path, run: Mapping[str, Any]) -> Sink:
    from mtmarl.sinks.jsonl import Jsonl

    return Jsonl(run_dir / "metrics.jsonl", run.get("resume_step"))


def _marl_eval(run_dir: Path, run: Mapping[str, Any]) -> Sink:
    from mtmarl.sinks.marl_eval import MarlEval

    path = run_dir / "marl_eval.json"
    return MarlEval(path, str(run["algo"]), int(run["seed"]), run.get("resume_step"))


def _tensorboard(run_dir: Path, run: Mapping[str, Any]) -> Sink:
    from mtmarl.sinks.tensorboard import TensorBoard

    return TensorBoard(run_dir / "tensorboard", run.get("resume_step"))


def _wandb(run_dir: Path, run: Mapping[str, Any]) -> Sink:
    from mtmarl.sinks.tracker import make_wandb

    return make_wandb(run_dir, run)


def _trackio(run_dir: Path, run: Mapping[str, Any]) -> Sink:
    from mtmarl.sinks.tracker import make_trackio

    return make_trackio(run_dir, run)


def _neptune(run_dir: Path, run: Mapping[str, Any]) -> Sink:
    from mtmarl.sinks.neptune_offline import Neptune

    return Neptune(run_dir, run)


SINKS: dict[str, Factory] = {
    "console": _console,
    "jsonl": _jsonl,
    "marl_eval": _marl_eval,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
    "neptune": _neptune,
}


# The module that each extra installs.
_NEEDS = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio", "neptune": "neptune"}


def check_sinks(names: Iterable[str]) -> None:
    """Raises UserError if a sink is unknown or its extra is not installed."""
    for name in names:
        if name not in SINKS:
            raise UserError(f"sinks: unknown sink {name}; known: {', '.join(SINKS)}")
        module = _NEEDS.get(name)
        if module and not (sys.modules[module] if module in sys.modules else find_spec(module)):
            raise UserError(f"sink {name} needs its extra: pip install 'mtmarl[{name}]'")


class Sinks:
    """Several sinks as one. A failing sink never stops the run or the other sinks.

    An entry that failed (full disk, lost connection) is retried with the next one. An invalid entry is skipped.
    """

    def __init__(self, sinks: Mapping[str, Sink]):
        self._sinks = dict(sinks)
        self._waiting: dict[str, deque[Callable[[Sink], None]]] = {
            name: deque(maxlen=QUEUE_SIZE) for name in sinks
        }
        self._failing: set[str] = set()

    def start(self, total: int, done: int = 0) -> None:
        self._each(lambda sink: sink.start(total, done))

    def log(self, step: int, metrics: Metrics) -> None:
        self._each(lambda sink: sink.log(step, metrics))

    def log_evaluation(self, step: int, results: Evaluation, final: bool = False) -> None:
        self._each(lambda sink: sink.log_evaluation(step, results, final))

    def close(self) -> None:
        for name, sink in self._sinks.items():
            self._deliver(name)
            if lost := len(self._waiting[name]):
                _log.warning("sink %s still fails at the end of the run: %d entries are lost", name, lost)
                self._waiting[name].clear()
            self._waiting[name].append(lambda sink: sink.close())
            self._deliver(name)
        self._sinks.clear()

    def _each(self, call: Callable[[Sink], None]) -> None:
        for name in self._sinks:
            self._waiting[name].append(call)
            self._deliver(name)

    def _deliver(self, name: str) -> None:
        """Sends the queued entries in order until one fails. Logs one warning per outage."""
        waiting = self._waiting[name]
        while waiting:
            try:
                waiting[0](self._sinks[name])
            except _PERMANENT as error:
                self._warn(name, "invalid entries are skipped", error)
            except Exception as error:  # Tracker clients define their own connection errors.
                self._warn(name, "missed entries are kept and written later", error)
                return
            else:
                if name in self._failing:
                    self._failing.discard(name)
                    _log.warning("sink %s works again", name)
            waiting.popleft()

    def _warn(self, name: str, consequence: str, error: Exception) -> None:
        if name not in self._failing:
            self._failing.add(name)
            _log.warning("sink %s failed, the run continues; %s: %r", name, consequence, error)


def open_sinks(names: Iterable[str], run_dir: Path, run: Mapping[str, Any]) -> Sinks:
    """Opens the named sinks for a run. Raises UserError if one is unknown or cannot start."""
    opened: dict[str, Sink] = {}
    names = list(dict.fromkeys(names))
    check_sinks(names)
    for name in names:
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            opened[name] = SINKS[name](run_dir, run)
        except Exception as error:
            Sinks(opened).close()
            raise UserError(f"sink {name} could not start in {run_dir}: {error!r}") from error
    return Sinks(opened)
