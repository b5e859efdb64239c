"""What is printed arrives on every terminal, pipe and file, whatever its encoding."""

import codecs
import sys
import time
from collections.abc import Callable
from typing import Any

# What stands for our own signs where an encoding lacks them; for any other character "?" does.
_PLAIN = {
    "…": "...", "–": "-", "—": "-", "−": "-", "→": "->", "±": "+-", "×": "x", "·": ".", "∞": "inf", "τ": "tau",
    "█": "#",
}  # fmt: skip


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(c, "?") for c in error.object[error.start : error.end]), error.end


codecs.register_error("mtmarl.plain", _plainly)


def print_anything() -> None:
    """From now on a character that an output cannot encode is replaced; to print one raised UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="mtmarl.plain")


def transfer_progress() -> Callable[[int, int], None] | None:
    """A function of bytes done and in total that keeps a progress line on a terminal; None elsewhere."""
    if not sys.stderr.isatty():
        return None
    began = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.2 or done == total:
            last = now
            rate = done / max(now - began, 1e-3)
            end = "\n" if done == total else ""
            line = f"\r{done / 1e6:,.1f} of {total / 1e6:,.1f} MB, {rate / 1e6:.1f} MB/s "
            print(line, end=end, file=sys.stderr, flush=True)

    return show
