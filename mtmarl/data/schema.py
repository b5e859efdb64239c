"""The types of what JSON files say of vaults. They are checked, not converted: what passes is used as it stands."""

import json
import math
import re
from ast import literal_eval
from collections.abc import Callable, Mapping
from typing import Any

from mtmarl.task_names import vault_parts

_WHOLE = 2**63
_LONGEST = 1000  # bytes of a path below a root; file systems take some 4000 with what is above it


def load(content: str | bytes) -> dict[str, Any]:
    """A JSON object from its text. Raises ValueError."""
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return expect("the file", value, _object, "an object")


def expect(name: str, value: Any, fits: Callable[[Any], bool], expected: str) -> Any:
    """The value, if it fits. Raises ValueError."""
    if not fits(value):
        raise ValueError(f"{name} is {str(value)[:40]!r}, expected {expected}")
    return value


def count(value: Any) -> bool:
    """Whether a value is a whole number of at least 0."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _WHOLE


def positive(value: Any) -> bool:
    return count(value) and value > 0


def number(value: Any) -> bool:
    """Whether a value is a finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < _WHOLE if isinstance(value, int) else math.isfinite(value)


def numbers(value: Any) -> bool:
    """Whether a value maps names to finite numbers, or to nothing."""
    return _object(value) and all(x is None or number(x) for x in value.values())


def digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _object(value: Any) -> bool:
    return isinstance(value, Mapping)


def _task(value: Any) -> bool:
    return isinstance(value, str) and len(value.split("/")) == 2 and all(value.split("/"))


def _texts(value: Any) -> bool:
    return _object(value) and all(isinstance(x, str) for x in value.values())


def _shape(text: str) -> bool:
    try:
        shape = literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return isinstance(shape, tuple) and len(shape) >= 2 and all(map(count, shape))


def metadata(found: Mapping[str, Any], layout: float, version: int) -> None:
    """Checks the metadata of a vault. Raises KeyError for what is missing and ValueError for what is wrong."""
    of = expect("version", found["version"], number, "a number")
    expect(
        "version", of, lambda x: int(x) == int(layout), f"{layout}, the vault layout that this library reads"
    )
    schema_version(found["schema_version"], version)
    for key, fits, expected in (
        ("structure_shape", lambda x: _texts(x) and all(map(_shape, x.values())), "shapes by name"),
        ("structure_dtype", _texts, "types by name"),
        ("task", _task, "family/scenario"),
        ("obs_scale", lambda x: isinstance(x, list) and all(map(number, x)), "a list of numbers"),
        ("dims", lambda x: _object(x) and all(map(positive, x.values())), "positive whole numbers by name"),
        ("steps", positive, "a positive whole number"),
        ("episodes", count, "a whole number"),
        ("episode_return", numbers, "numbers by name"),
    ):
        expect(key, found[key], fits, expected)
    for key in ("agents", "obs", "actions", "horizon"):
        found["dims"][key]
    for key, fits, expected in (
        ("contents", digest, "a SHA-256"),
        ("returns", numbers, "numbers by name"),
        ("provenance", _object, "an object"),
    ):
        if key in found:
            expect(key, found[key], fits, expected)


def schema_version(value: Any, newest: int) -> None:
    expect("schema_version", value, positive, "a positive whole number")
    expect("schema_version", value, lambda x: x <= newest, f"{newest} or less; update mtmarl")


def manifest(found: Mapping[str, Any], newest: int, metadata_file: str) -> None:
    """Checks a manifest: names, sizes, hashes, places below the root. Raises KeyError, ValueError and UserError."""
    schema_version(found["schema_version"], newest)
    for name, entry in expect("vaults", found["vaults"], _object, "an object").items():
        family, scenario, quality = vault_parts(name)
        expect(name, entry, _object, "an object")
        expect(
            f"task of {name}", entry["task"], lambda x, t=f"{family}/{scenario}": x == t, "that of its name"
        )
        expect(f"steps of {name}", entry["steps"], count, "a whole number")
        expect(f"episodes of {name}", entry["episodes"], count, "a whole number")
        expect(f"returns of {name}", entry["returns"], numbers, "numbers by name")
        folder = f"{family}/{scenario}.vlt/{quality}/"
        files(entry["files"])
        if (
            not all(f.startswith(folder) for f in entry["files"])
            or f"{folder}{metadata_file}" not in entry["files"]
        ):
            raise ValueError(f"{name} lists files that are not its own")
    files(found.get("references", {}))


def files(found: Any) -> None:
    """Checks places, sizes and hashes of files. Raises KeyError and ValueError."""
    for place, of in expect("files", found, _object, "an object").items():
        parts = place.split("/")
        # A manifest may come from anywhere: each place must lie below the root.
        plain = all(part not in ("", ".", "..") for part in parts) and not any(c in place for c in "\\:\0")
        plain = plain and len(place.encode(errors="replace")) <= _LONGEST
        if not plain or not _object(of) or not digest(of["sha256"]) or not count(of["size"]):
            raise ValueError(f"file {place[:80]!r} has no legal place, size or hash")


def reference(found: Mapping[str, Any]) -> None:
    """Checks reference figures of a task. Raises ValueError."""
    for key, value in found.items():
        if key.startswith(("reference", "random")) or key in ("final", "max_evaluation"):
            expect(key, value, lambda x: x is None or number(x), "a number")
