"""Where numbers go. Sinks get host floats, never device arrays in flight, and only on process 0.

A sink that cannot start is an error at launch; one that fails later gets what it missed once it works again.
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

# Entries that wait for a sink that fails; of more, the oldest go.
KEPT = 100_000
# What an entry raises that a sink cannot take, however often it is tried.
_REFUSALS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError)


@runtime_checkable
class Sink(Protocol):
    """`start` tells the number of updates in all and those already done; `final` marks the reported score."""

    def start(self, total: int, done: int = 0) -> None: ...

    def log(self, step: int, metrics: Metrics) -> None: ...

    def log_evaluation(self, step: int, results: Evaluation, final: bool = False) -> None: ...

    def close(self) -> None: ...


# `run` holds algo, tasks, seed, and may hold config (plain values), quiet, and resume_step: the update that
# the run goes on from; -1 where it starts anew, so that nothing stays of an attempt that saved nothing.
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


# The module of each extra.
_NEEDS = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio", "neptune": "neptune"}


def check_sinks(names: Iterable[str]) -> None:
    """Raises a UserError for a sink that is unknown or lacks its extra."""
    for name in names:
        if name not in SINKS:
            raise UserError(f"sinks: unknown sink {name}; known: {', '.join(SINKS)}")
        module = _NEEDS.get(name)
        if module and not (sys.modules[module] if module in sys.modules else find_spec(module)):
            raise UserError(f"sink {name} needs its extra: pip install 'mtmarl[{name}]'")


class Sinks:
    """Several sinks as one. A run outlives its loggers: what a full disk or a lost connection kept from being written
    is tried again with what follows; what a sink cannot take is left out. No sink keeps another from its entries.
    """

    def __init__(self, sinks: Mapping[str, Sink]):
        self._sinks = dict(sinks)
        self._waiting: dict[str, deque[Callable[[Sink], None]]] = {name: deque(maxlen=KEPT) for name in sinks}
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
                _log.warning("sink %s still fails at the end: %d entries are not written", name, lost)
                self._waiting[name].clear()
            self._waiting[name].append(lambda sink: sink.close())
            self._deliver(name)
        self._sinks.clear()

    def _each(self, call: Callable[[Sink], None]) -> None:
        for name in self._sinks:
            self._waiting[name].append(call)
            self._deliver(name)

    def _deliver(self, name: str) -> None:
        """Hands over what waits, in order, until it fails; one warning per failure, however long it lasts."""
        waiting = self._waiting[name]
        while waiting:
            try:
                waiting[0](self._sinks[name])
            except _REFUSALS as error:
                self._warn(name, "what it cannot take is left out", error)
            except Exception as error:  # Clients of trackers have errors of their own for a lost connection.
                self._warn(name, "what it misses is kept and written later", error)
                return
            else:
                if name in self._failing:
                    self._failing.discard(name)
                    _log.warning("sink %s works again", name)
            waiting.popleft()

    def _warn(self, name: str, then: str, error: Exception) -> None:
        if name not in self._failing:
            self._failing.add(name)
            _log.warning("sink %s failed, the run goes on; %s: %r", name, then, error)


def open_sinks(names: Iterable[str], run_dir: Path, run: Mapping[str, Any]) -> Sinks:
    """Opens the named sinks for a run. Raises UserError for an unknown one and for one that cannot start."""
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
