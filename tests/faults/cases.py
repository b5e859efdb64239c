"""One fault, what the library said about it, and what came of it."""

import contextlib
import io
import resource
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mtmarl.errors import UserError, failed

# What may come of a fault; those in FAILURES are failures of the library.
UNCHANGED = "unchanged"  # it had no effect: what is used is what was there before
REPAIRED = "repaired"  # what is used differs, and a line says so
REFUSED = "refused"  # one clear line, exit code 2
SILENT = "silent change"  # what is used differs, or a wrong value is taken, and nothing says so
TRACEBACK = "traceback"  # any other exception, the end of the process, or a refusal that is not one line
SLOW = "hang"  # no answer within the time that a case has
UNNAMED = "key not named"  # a refusal that does not name the setting that is wrong
OUTCOMES = (UNCHANGED, REPAIRED, REFUSED, UNNAMED, SILENT, TRACEBACK, SLOW)
FAILURES = (UNNAMED, SILENT, TRACEBACK, SLOW)

SLOW_SECONDS = 20.0  # of computing; six times as long by the clock, on which others may compute as well
LONGEST_LINE = 1500
MEMORY = 24 * 2**30  # of a worker: more is an error in it, not the end of the machine


class Door(NamedTuple):
    """One way into the library. `use()` returns what would be used, or the exit code of a command.

    `fits(value)`: whether that is right as if there were no fault. None: any answer but a traceback is right.
    `key`: what a refusal must name.
    """

    name: str
    use: Callable[[], Any]
    fits: Callable[[Any], bool] | None = None
    key: str = ""


@dataclass(frozen=True)
class Case:
    """One fault. `recipe`: how to make it by hand, in one line. `undo` runs at the end."""

    group: str
    recipe: str
    doors: Sequence[Door]
    undo: Callable[[], None] = lambda: None


class Kind(NamedTuple):
    """A kind of fault. `case(scratch, index)` makes the one of that number, always the same; `count`: how many."""

    name: str
    count: int
    case: Callable[[Path, int], Case]


class Result(NamedTuple):
    outcome: str
    door: str
    detail: str


def attempt(door: Door) -> Result:
    """Uses a door as a command line does: UserError and OSError of a file are refusals."""
    out, err, began, computed = io.StringIO(), io.StringIO(), time.monotonic(), time.process_time()
    value, trace, code = None, "", 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(record=True) as told,
    ):
        warnings.simplefilter("always")
        try:
            value = door.use()
            code = value if door.fits is None and isinstance(value, int) else 0
        except (UserError, OSError) as error:
            try:
                code = failed(error)
            except OSError:
                trace = traceback.format_exc()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 2
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            trace = traceback.format_exc()
    lines = [line for line in err.getvalue().splitlines() if line.strip()]
    lines += [str(w.message) for w in told if issubclass(w.category, UserWarning)]
    if trace:
        return Result(TRACEBACK, door.name, trace.strip().splitlines()[-1] + _place(trace))
    took = max(time.process_time() - computed, (time.monotonic() - began) / 6)
    if took > SLOW_SECONDS:
        return Result(SLOW, door.name, f"{took:.0f} s")
    said = " | ".join(lines)
    if code:
        errors = [line for line in lines if "error:" in line]
        clear = len(errors) == 1 and len(errors[0]) <= LONGEST_LINE and "Traceback" not in said
        outcome = TRACEBACK if not clear else REFUSED if door.key in said else UNNAMED
        return Result(outcome, door.name, said or f"exit code {code} without a word")
    if door.fits is None or door.fits(value):
        return Result(UNCHANGED, door.name, said)
    return Result(REPAIRED if said or out.getvalue().strip() else SILENT, door.name, said or out.getvalue())


def _place(trace: str) -> str:
    """The last line of a traceback that is ours."""
    ours = [line.strip() for line in trace.splitlines() if "/mtmarl/" in line]
    return f"  at {ours[-1]}" if ours else ""


def run(case: Case) -> Result:
    """The worst that any of the doors made of it; of those that are right, that of the first."""
    results = [attempt(door) for door in case.doors]
    case.undo()
    return max(results, key=lambda r: OUTCOMES.index(r.outcome) if r.outcome in FAILURES else -1)


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
