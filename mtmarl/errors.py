"""One exception for everything a user can put right: bad options, missing or corrupt files."""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from mtmarl import stops, terminal
from mtmarl.foreign import shown
from mtmarl.terminal import print_anything


class UserError(Exception):
    """A mistake at the border. The message is one line: what, where, how to fix.

    Command lines print it and exit with `code`.
    """

    code = 2


class Diverged(UserError):
    """Training came to numbers that are not finite. What it had saved before stays; there is no score."""

    code = 3


class SimulatorError(UserError):
    """A simulator outside of this library failed, or gave what its spaces do not allow. The run ends."""


# What a stop leaves of a command that saves its state.
GOES_ON = "the same command goes on from its last checkpoint"


_REMEDIES = {
    errno.ENOSPC: "make room, then give the same command again",
    errno.EDQUOT: "make room, then give the same command again",
    errno.EACCES: "give a place that you may read and write",
    errno.EPERM: "give a place that you may read and write",
    errno.EROFS: "give a place that can be written to",
}


def described(error: UserError | OSError) -> str:
    """What went wrong, as text for a terminal; of an OSError with the file and what to do, where they are known."""
    if isinstance(error, UserError):
        return shown(error)
    what = error.strerror or " ".join(str(error).split()) or type(error).__name__
    return shown(
        ": ".join(str(part) for part in (error.filename, what, _REMEDIES.get(error.errno or 0)) if part)
    )


def failed(error: UserError | OSError) -> int:
    """Prints what stopped a command; the exit code. A closed output is no error of a file: it is raised again."""
    if isinstance(error, BrokenPipeError):
        raise error
    terminal.say(f"error: {described(error)}", error=True)
    return error.code if isinstance(error, UserError) else 2


def each_of(
    items: Sequence[Any], work: Callable[[Any], object], source: object, kind: str, done: str
) -> None:
    """Calls `work` on each item; one that fails is named and does not stop the others.

    Raises UserError at the end if any failed, of one item its own: `{source}: 1 of 3 {kind} not {done}, …`.
    """
    failures = 0
    for item in items:
        try:
            work(item)
        except (UserError, OSError) as error:
            if len(items) == 1:
                raise
            failures += 1
            failed(error)
    if failures:
        raise UserError(
            f"{source}: {failures} of {len(items)} {kind} not {done}, see above; the same command does the rest"
        )


def exit_with(main: Callable[[], int], afterwards: str = "") -> NoReturn:
    """Runs a command; it may be stopped, and what it prints cut short. `afterwards`: what a stop leaves.

    The exit code after a signal is 128 and its number, as shells count: 130 (SIGINT), 143 (SIGTERM), 129 (SIGHUP).
    """
    print_anything()
    try:
        stops.raise_stopped()
        code = main()
        if sys.stdout is not None:  # As where it was closed.
            sys.stdout.flush()
        sys.exit(code)
    except KeyboardInterrupt as stop:
        stops.die_of_signals()
        said = ["stopped", stop.saved if isinstance(stop, stops.Stopped) else "", afterwards]
        with suppress(OSError):  # The terminal may have gone, as after SIGHUP.
            terminal.say("", "; ".join(part for part in said if part), error=True)
        sys.exit(128 + (stop.signum if isinstance(stop, stops.Stopped) else signal.SIGINT))
    except BrokenPipeError:
        # Who reads what is printed has had enough, as `head` has; nor is there more to flush.
        _drop_output()
        sys.exit(1)
    except RuntimeError as error:  # Of a compiled program, which wraps what a host call raised.
        found = re.search(rf"{SimulatorError.__name__}: (.*)", str(error))
        if found is None:
            raise
        sys.exit(failed(SimulatorError(found[1])))
    except OSError as error:  # Of the output itself, as where it goes to a file on a full disk.
        _drop_output()
        sys.exit(failed(error))


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
