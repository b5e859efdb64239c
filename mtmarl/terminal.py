"""What is printed arrives on every terminal, pipe and file, whatever its encoding, and no terminal obeys it."""

import codecs
import sys
import time
from collections.abc import Callable
from typing import Any

from mtmarl.foreign import shown

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


def say(*lines: object, error: bool = False) -> None:
    """Prints each value as one line, on stdout or stderr. All lines that this package prints go through it.

    Names from files and hubs may hold anything: control characters, line breaks too, are spelled out and credentials
    are left out.
    """
    stream = sys.stderr if error else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    text = "\n".join(shown(line).replace("\n", "\\n") for line in lines)
    print(text.encode(encoding, "mtmarl.plain").decode(encoding), file=stream, flush=True)


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
