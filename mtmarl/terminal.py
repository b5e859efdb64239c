"""What is printed arrives on every terminal, pipe and file, whatever its encoding."""

import codecs
import sys
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
