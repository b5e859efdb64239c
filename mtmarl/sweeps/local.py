"""Runs of a sweep as processes of this machine."""

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtmarl import divergence, terminal
from mtmarl.files import is_written
from mtmarl.sweeps import outcome

TRAIN = (sys.executable, "-m", "mtmarl.train")
POLL_SECONDS = 0.2
# What a run that is asked to stop gets, to save its state, before it is killed.
GRACE_SECONDS = 30.0
# What comes before a command that gets SIGTERM when the sweep has gone, however that ended (prctl 1: PR_SET_PDEATHSIG).
_ENDS_WITH_US = (
    sys.executable, "-S", "-c",
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); os.execv(sys.argv[1], sys.argv[1:])",
) if sys.platform == "linux" else ()  # fmt: skip


def execute(runs: Sequence[Mapping[str, Any]], out: Path, jobs: int) -> list[str]:
    """Runs those that have not ended, `jobs` at a time; returns a line on each that failed or diverged.

    However it is left, no child stays behind. A run that another process is writing, such as one that a killed sweep
    left, is waited for.
    """
    waiting = deque(r for r in runs if not divergence.ended(out / r["dir"]))
    places = deque(shares_of_cores(jobs))
    total, ended = len(runs), len(runs) - len(waiting)
    running: dict[subprocess.Popen, tuple[Mapping[str, Any], float, frozenset[int]]] = {}
    minutes: list[float] = []
    failures = [line for r in runs if r not in waiting and (line := outcome.diverged(r, out))]
    environment = dict(os.environ)
    if jobs > 1:
        # Each process would claim most of an accelerator's memory for itself.
        environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    say = lambda number, text: terminal.say(f"[{number:{len(str(total))}}/{total}] {text}")
    told: set[str] = set()

    def busy(run: Mapping[str, Any]) -> bool:
        held = is_written(out / run["dir"])
        if held and run["dir"] not in told:
            told.add(run["dir"])
            say(ended, f"waiting   {run['dir']}: another process is writing it")
        return held

    def close(run: Mapping[str, Any], code: int = 0, took: float | None = None) -> None:
        nonlocal ended
        ended += 1
        parts, failure = outcome.of(run, out, code)
        if failure:
            failures.append(failure)
        if took is not None:
            parts.insert(1, f"{took:.1f} min")
            minutes.extend([took] if failure is None else [])
        if ended < total and minutes:
            left = sum(minutes) / len(minutes) * (total - ended) / min(jobs, total - ended)
            parts.append(f"about {_span(left)} left")
        say(ended, ", ".join(parts))

    try:
        while waiting or running:
            while len(running) < jobs and (run := next((r for r in waiting if not busy(r)), None)):
                waiting.remove(run)
                if divergence.ended(out / run["dir"]):  # By the process that was waited for.
                    close(run)
                    continue
                cores = places.popleft()
                running[_start(run, out, environment, cores)] = (run, time.monotonic(), cores)
                say(total - len(waiting), f"started   {run['dir']}")
            time.sleep(POLL_SECONDS)
            for process in [p for p in running if p.poll() is not None]:
                run, began, cores = running.pop(process)
                places.append(cores)
                close(run, process.returncode, (time.monotonic() - began) / 60)
    finally:
        _stop(list(running))
    return failures


def shares_of_cores(jobs: int) -> list[frozenset[int]]:
    """The cores of each of `jobs` processes; empty (any) where there are too few, or where none can be chosen.

    Processes that share cores spend much of them waiting for each other's threads.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [frozenset(cores[i::jobs] if len(cores) >= jobs else ()) for i in range(jobs)]


def _start(
    run: Mapping[str, Any], out: Path, environment: Mapping[str, str], cores: frozenset[int]
) -> subprocess.Popen:
    directory = out / run["dir"]
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "log.txt").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*_ENDS_WITH_US, *TRAIN, *run["argv"]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    if cores:
        os.sched_setaffinity(process.pid, cores)
    return process


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _span(minutes: float) -> str:
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
