"""The one reader of JSON records: types and ranges are checked, values converted, keys that no type names kept."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from mtmarl.errors import UserError
from mtmarl.parsing import convert


def loads(content: str | bytes, where: str) -> dict[str, Any]:
    """A JSON object from its text. Raises UserError."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{where}: not a readable JSON file ({reason}); restore or remove it") from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: holds no object of keys and values; restore or remove it")
    return value


def check(kind: type, value: Any, where: str, needs: Sequence[str] = ()) -> dict[str, Any]:
    """The values as the TypedDict `kind`, which must have the keys `needs`. Raises UserError that names the key."""
    try:
        found = convert(kind, value, where, "")
        if missing := [key for key in needs if found.get(key) is None]:
            raise UserError(f"{where}: missing key {missing[0]}")
    except UserError as error:
        raise UserError(f"{error}; restore or remove it") from None
    return found


def read(file: Path, kind: type, needs: Sequence[str] = (), where: str = "") -> dict[str, Any] | None:
    """The record in a file, see `check`; None where there is no file. Errors call the file `where`."""
    where = where or str(file)
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{where}: {error.strerror or error}; restore or remove it") from None
    return check(kind, loads(content, where), where, needs)


def read_lines(file: Path, where: str = "") -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, up to one that is being written; None stands for what was not finite. [] without it.

    Raises UserError of a value that is no number.
    """
    rows = []
    for line in file.read_bytes().splitlines() if file.exists() else ():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    check_lines(rows, where or str(file))
    return rows


def check_lines(rows: Sequence[dict[str, Any]], where: str) -> None:
    """Raises UserError of a metric that is no number."""
    for row in rows:
        convert(float, row.get("step"), where, "step")
        for name, value in row.items():
            # A number or None, as `convert` takes it: there may be a million of them.
            if value is not None and not (type(value) in (int, float) and abs(value) < 3e38):
                convert(cast(Any, float | None), value, where, name)
