"""Words for command lines: what a message advises means the same once it is pasted into a shell.

A word passes two readers, the shell and Hydra. `word` quotes a value for Hydra, `line` quotes words for the shell.
"""

import json
import math
import re
import shlex
from typing import Any

# `config` takes the values of these keys as they stand, but for quotes around the whole: to Hydra, "=", ",", "$", "\\",
# blanks and digits mean something else.
AS_THEY_STAND = ("run_dir", "run", "init_from", "data.vault_dir", "data.quality", "hub.url", "tasks.hub")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
_NOT_TEXT = re.compile(r"null|true|false|inf|nan", re.IGNORECASE)


def word(key: str, value: Any) -> str:
    """`key=value`, not yet quoted for a shell, from which `config` reads exactly this value."""
    if key in AS_THEY_STAND and isinstance(value, str):
        quoted = value == "null" or (value[:1] in ("'", '"') and value[-1:] == value[:1])
        return f"{key}='{value}'" if quoted else f"{key}={value}"
    return f"{key}={_spelled(value)}"


def line(*words: Any) -> str:
    """Words as one piece of a command line, quoted for a shell."""
    return shlex.join(map(str, words))


def command(program: str, *words: Any) -> str:
    """The command `python -m mtmarl.program` with these words, quoted for a shell."""
    return line("python", "-m", f"mtmarl.{program}", *words)


def _spelled(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_spelled, value))}]"
    if not isinstance(value, str):
        # JSON has other names for what is not finite.
        return str(value) if isinstance(value, float) and not math.isfinite(value) else json.dumps(value)
    if _PLAIN.fullmatch(value) and not _NOT_TEXT.fullmatch(value):
        return value
    value = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    # Of backslashes, Hydra reads only those before a quote as escapes.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"
