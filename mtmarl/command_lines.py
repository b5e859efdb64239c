"""Quoting, so that commands in messages can be pasted into a shell.

The shell and Hydra both parse a word. `word` quotes a value for Hydra, `line` quotes words for the shell.
"""

import json
import math
import re
import shlex
from typing import Any

# `config` reads the values of these keys verbatim (without enclosing quotes) because "=", ",", "$", "\\", blanks and
# digits are special to Hydra.
AS_THEY_STAND = ("run_dir", "run", "init_from", "data.vault_dir", "data.quality", "hub.url", "tasks.hub")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_NOT_TEXT = re.compile(r"null|true|false|inf|nan", re.IGNORECASE)


def word(key: str, value: Any) -> str:
    """Returns `key=value`, which `config` parses to exactly this value. It is not quoted for a shell."""
    if key in AS_THEY_STAND and isinstance(value, str):
        quoted = value == "null" or (value[:1] in ("'", '"') and value[-1:] == value[:1])
        return f"{key}='{value}'" if quoted else f"{key}={value}"
    return f"{key}={_quoted(value)}"


def line(*words: Any) -> str:
    """Returns the words joined and quoted for a shell."""
    return shlex.join(map(str, words))


def command(program: str, *words: Any) -> str:
    """Returns the command `python -m mtmarl.program` with these words, quoted for a shell."""
    return line("python", "-m", f"mtmarl.{program}", *words)


def _quoted(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_quoted, value))}]"
    if not isinstance(value, str):
        # JSON spells inf and nan differently.
        return str(value) if isinstance(value, float) and not math.isfinite(value) else json.dumps(value)
    if _PLAIN.fullmatch(value) and not _NOT_TEXT.fullmatch(value):
        return value
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    # Hydra treats a backslash as an escape only before a quote.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"
