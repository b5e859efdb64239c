"""The records of a run: one typed reader. What is known of a file is checked; keys of other versions are left alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from mtmarl.errors import UserError
from mtmarl.parsing import convert
from mtmarl.ranges import Natural, Range

_Counts = Mapping[str, Annotated[int, Range(0)]]
_Axis = Annotated[int, Range(0, 2**16)]
_LAYOUT = {
    "families": tuple[str, ...], "features": _Axis, "actions": _Axis, "ids": _Axis, "random_ids": bool,
    "tasks": Mapping[str, tuple[Any, ...]] | None,
}  # fmt: skip
_RUN = {
    "config": Mapping[str, Any], "kind": str, "seed": int, "algo": str, "tasks": str, "train_tasks": tuple[str, ...],
    "test_tasks": tuple[str, ...], "minutes": float, "updates": Natural, "counts": _Counts | None,
    "counts_at": Mapping[str, _Counts] | None, "references": Mapping[str, Mapping[str, Any]],
    "origins": Mapping[str, str] | None, "start": Mapping[str, Any] | None, "dims": Mapping[str, Any],
    "layout": Mapping[str, Any] | None, "value_range": tuple[float, float] | None, "streams": int,
    "title": str, "acting": str,
}  # fmt: skip
_BEST = {"score": float, "update": int, "counts": _Counts | None}
_PROGRESS = {"minutes": float, "evaluations": tuple[Mapping[str, Any], ...], "written": bool}
# By file: the types of keys, and those that it cannot do without.
_FILES: dict[str, tuple[Mapping[str, Any], tuple[str, ...]]] = {
    "run.json": (_RUN, ("config",)),
    "best.json": (_BEST, ("update",)),
    "progress.json": (_PROGRESS, ("evaluations",)),
    "final.json": ({"best": Mapping[str, Any], "last": Mapping[str, Any]}, ("best", "last")),
}


def read(path: Path) -> Any:
    """The record at `path`, checked; None where there is none. Raises UserError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error}); restore or remove it") from None
    if path.name in _FILES:
        _check(*_FILES[path.name], value, path)
        for evaluation in value.get("evaluations", ()) if path.name == "progress.json" else ():
            _check(
                {"return": float, "update": Natural}, ("return", "update"), evaluation, path, "evaluations."
            )
        if value.get("layout") is not None:
            _check(_LAYOUT, ("families", "features", "actions"), value["layout"], path, "layout.")
        for name, size in (value.get("dims") or {}).items():
            if (
                isinstance(size, bool)
                or not isinstance(size, list)
                and not (isinstance(size, int) and 0 <= size < 2**16)
            ):
                raise _wrong(path, f"dims.{name} must be a size below {2**16}, not {size!r}"[:200])
    return value


def _check(
    hints: Mapping[str, Any], needs: tuple[str, ...], value: Any, path: Path, within: str = ""
) -> None:
    if not isinstance(value, Mapping) or not all(key in value for key in needs):
        raise _wrong(path, f"{within}{' and '.join(needs)} missing")
    for key in hints.keys() & value.keys():
        try:
            convert(hints[key], value[key], str(path), within + key)
        except UserError as error:
            raise UserError(f"{error}: not the record of a run; restore or remove it") from None


def _wrong(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}: not the record of a run; restore or remove it")
