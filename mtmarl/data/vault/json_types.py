"""Types of the JSON that describes vaults: metadata, manifests, references. Values are checked, never converted."""

import json
import math
import re
from ast import literal_eval
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from mtmarl.task_names import vault_parts

_MAX_INT = 2**63
_MAX_PATH = 1000  # bytes below a root; file systems take about 4000 with the path of the root
_FORBIDDEN = "\\:\0"  # in paths of a manifest


class Kind(NamedTuple):
    """A type of values: how messages call it, and the test."""

    name: str
    fits: Callable[[Any], bool]

    def check(self, key: str, value: Any) -> Any:
        """The value itself. Raises ValueError if it is of another type."""
        if not self.fits(value):
            raise ValueError(f"{key} is {str(value)[:40]!r}, expected {self.name}")
        return value


def _is_count(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and 0 <= x < _MAX_INT


def _is_number(x: Any) -> bool:
    if not isinstance(x, int | float) or isinstance(x, bool):
        return False
    return abs(x) < _MAX_INT if isinstance(x, int) else math.isfinite(x)


def _is_mapping_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, Mapping) and all(map(fits, x.values()))


def _is_shape(text: Any) -> bool:
    try:
        shape = literal_eval(text) if isinstance(text, str) else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
    return isinstance(shape, tuple) and len(shape) >= 2 and all(map(_is_count, shape))


def _is_task(x: Any) -> bool:
    return isinstance(x, str) and len(x.split("/")) == 2 and all(x.split("/"))


OBJECT = Kind("an object", lambda x: isinstance(x, Mapping))
COUNT = Kind("a whole number", _is_count)
POSITIVE = Kind("a positive whole number", lambda x: _is_count(x) and x > 0)
NUMBER = Kind("a number", _is_number)
OPTIONAL_NUMBER = Kind("a number", lambda x: x is None or _is_number(x))
NUMBERS = Kind("numbers by name", _is_mapping_of(OPTIONAL_NUMBER.fits))
NUMBER_LIST = Kind("a list of numbers", lambda x: isinstance(x, list) and all(map(_is_number, x)))
SIZES = Kind("positive whole numbers by name", _is_mapping_of(POSITIVE.fits))
SHAPES = Kind("shapes by name", _is_mapping_of(_is_shape))
TEXTS = Kind("text by name", _is_mapping_of(lambda x: isinstance(x, str)))
TASK = Kind("family/scenario", _is_task)
SHA256 = Kind("a SHA-256", lambda x: isinstance(x, str) and re.fullmatch("[0-9a-f]{64}", x) is not None)


def load(content: str | bytes) -> dict[str, Any]:
    """A JSON object from its text. Raises ValueError."""
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return OBJECT.check("the file", value)


def check_fields(found: Mapping[str, Any], kinds: Mapping[str, Kind], optional: Collection[str] = ()) -> None:
    """Raises KeyError for a missing field and ValueError for one of another type."""
    for key, kind in kinds.items():
        if key in found or key not in optional:
            kind.check(key, found[key])


def check_schema_version(value: Any, newest: int) -> None:
    POSITIVE.check("schema_version", value)
    Kind(f"{newest} or less; update mtmarl", lambda x: x <= newest).check("schema_version", value)


def check_manifest(found: Mapping[str, Any], newest: int, metadata_file: str) -> None:
    """Checks names, paths, sizes and hashes of a manifest. Raises KeyError, ValueError and UserError."""
    check_schema_version(found["schema_version"], newest)
    for name, entry in OBJECT.check("vaults", found["vaults"]).items():
        family, scenario, dataset = vault_parts(name)
        own_task = Kind("the task of its name", lambda x, task=f"{family}/{scenario}": x == task)
        kinds = {"task": own_task, "steps": COUNT, "episodes": COUNT, "returns": NUMBERS, "files": OBJECT}
        try:
            check_fields(OBJECT.check("entry", entry), kinds)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        _check_files(entry["files"])
        folder = f"{family}/{scenario}.vlt/{dataset}/"
        own_files = all(f.startswith(folder) for f in entry["files"])
        if not own_files or f"{folder}{metadata_file}" not in entry["files"]:
            raise ValueError(f"{name} lists files that are not its own")
    _check_files(OBJECT.check("references", found.get("references", {})))


def _check_files(files: Mapping[str, Any]) -> None:
    for path, of in files.items():
        # A manifest may come from anywhere: each path must lie below the root.
        inside = all(part not in ("", ".", "..") for part in path.split("/")) and not set(path) & set(
            _FORBIDDEN
        )
        short = len(path.encode(errors="replace")) <= _MAX_PATH
        if not (
            inside and short and OBJECT.fits(of) and SHA256.fits(of["sha256"]) and COUNT.fits(of["size"])
        ):
            raise ValueError(f"file {path[:80]!r} has no legal path, size or hash")


def check_reference(found: Mapping[str, Any]) -> None:
    """Checks the reference returns of a task. Raises ValueError."""
    for key, value in found.items():
        if key.startswith(("reference", "random")) or key in ("final", "max_evaluation"):
            OPTIONAL_NUMBER.check(key, value)
