"""One exception for everything a user can put right: bad options, missing or corrupt files."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn


class UserError(Exception):
    """A mistake at the border. The message is one line: what, where, how to fix.

    Command lines print it and exit with code 2.
    """


# What a stop leaves of a command that saves its state.
GOES_ON = "the same command goes on from its last checkpoint"


def failed(error: UserError | OSError) -> int:
    """Prints what stopped a command, in one line; the exit code. Raises an OSError again that is not about a file."""
    if isinstance(error, OSError):
        if error.filename is None:
            raise error
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
    else:
        print(f"error: {error}", file=sys.stderr)
    return 2


def exit_with(main: Callable[[], int], afterwards: str = "") -> NoReturn:
    """Runs a command; it may be stopped, and what it prints cut short. `afterwards`: what a stop leaves."""
    try:
        code = main()
        sys.stdout.flush()
        sys.exit(code)
    except KeyboardInterrupt:
        print("\nstopped" + (f"; {afterwards}" if afterwards else ""), file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # Who reads what is printed has had enough, as `head` has; nor is there more to flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
