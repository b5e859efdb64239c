"""From plain values, as YAML and JSON hold them, to the types of Python: checked and converted."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from mtmarl.errors import UserError
from mtmarl.ranges import FLOAT32_MAX, Distinct, Matching, Range

T = TypeVar("T")


class _OutOfRange(UserError):
    """A value of the right type; of several types, the one that was meant."""


def parse(cls: type[T], mapping: Any, where: str, path: str = "") -> T:
    """Builds the frozen dataclass `cls` from a nested mapping, strictly.

    `where` is the file that the values came from, `path` the section of it that `mapping` is. Raises UserError naming
    file and key when a key is unknown or missing, a value has the wrong type or is out of its range (`ranges`), or the
    dataclass refuses them.
    """
    if not isinstance(mapping, Mapping):
        raise UserError(f"{where}: {path or 'the file'} must hold keys and values, not {shown(mapping)}")
    prefix = f"{path}." if path else ""
    fields = {f.name: f for f in dataclasses.fields(typing.cast(Any, cls)) if f.init}
    for key in mapping:
        if key not in fields:
            raise UserError(f"{where}: unknown key {prefix}{key}{suggest(str(key), fields)}")
    hints = typing.get_type_hints(cls, include_extras=True)
    values = {}
    for name, f in fields.items():
        if name in mapping:
            values[name] = convert(hints[name], mapping[name], where, prefix + name)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}: missing key {prefix}{name} ({_describe(hints[name])})")
    try:
        return cls(**values)
    except UserError as error:
        raise UserError(f"{where}: {prefix}{error}") from None


def convert(hint: Any, value: Any, where: str, path: str) -> Any:
    """One value as the type, and within the ranges, of `hint`. Raises UserError.

    A TypedDict keeps keys that it does not name.
    """
    if hint is Any or (hint is float and type(value) is float and -FLOAT32_MAX <= value <= FLOAT32_MAX):
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    inner = lambda hint, value, key: convert(hint, value, where, f"{path}{key}")
    if origin is Annotated:
        value = convert(args[0], value, where, path)
        for bounds in (extra for extra in args[1:] if isinstance(extra, Range | Distinct | Matching)):
            if value not in bounds:
                raise _OutOfRange(f"{where}: {path} must {bounds}, not {shown(value)}")
        return value
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return parse(hint, value, where, path)
    if origin is typing.Required:
        return convert(args[0], value, where, path)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, where, path)
    if origin is Literal and any(value == a and type(value) is type(a) for a in args):
        return value
    if origin in (tuple, list) and isinstance(value, list | tuple):
        if len(args) == len(value) and args[-1] is not Ellipsis and origin is tuple:
            return tuple(inner(a, v, f"[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))
        if origin is list or args[-1] is Ellipsis:
            return origin(inner(args[0], v, f"[{i}]") for i, v in enumerate(value))
    if typing.is_typeddict(hint) and isinstance(value, Mapping):
        hints = typing.get_type_hints(hint, include_extras=True)
        if missing := sorted(typing.cast(Any, hint).__required_keys__.difference(value)):
            raise UserError(f"{where}: missing key {f'{path}.{missing[0]}'.lstrip('.')}")
        return {k: inner(hints.get(k, Any), v, f".{_key(k)}" if path else _key(k)) for k, v in value.items()}
    if (origin or hint) in (dict, Mapping) and isinstance(value, Mapping):
        item = args[1] if args else Any
        return {k: inner(item, v, f".{_key(k)}") for k, v in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not -FLOAT32_MAX <= value <= FLOAT32_MAX:
            raise _OutOfRange(f"{where}: {path} must be a finite number (of float32), not {shown(value)}")
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)  # 2e6
    if type(hint) is type and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise UserError(f"{where}: {path or 'the file'} must be {_describe(hint)}, not {shown(value)}")


def _convert_union(options: tuple[Any, ...], value: Any, where: str, path: str) -> Any:
    if value is None and type(None) in options:
        return None
    options = tuple(a for a in options if a is not type(None))
    if len(options) == 1:
        return convert(options[0], value, where, path)
    wrong = UserError(f"{where}: {path} must be {' or '.join(map(_describe, options))}, not {shown(value)}")
    for option in options:
        try:
            return convert(option, value, where, path)
        except _OutOfRange as error:
            wrong = error
        except UserError:
            continue
    raise wrong


def shown(value: Any) -> str:
    """A value as a message of one line shows it, whatever its size."""
    try:
        text = repr(value)
    except ValueError:  # Python spells no integers of more than some thousand digits.
        return "a number of thousands of digits"
    return text if len(text) <= 120 else f"{text[:120]}…"


def _key(key: Any) -> str:
    return str(key) if str(key).isprintable() and len(str(key)) <= 120 else shown(key)


def _describe(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _describe(args[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(a) for a in args)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    if origin in (tuple, list):
        return f"a list of {_describe(args[0])}"
    if (origin or hint) in (dict, Mapping) or dataclasses.is_dataclass(hint) or typing.is_typeddict(hint):
        return "keys and values"
    names = {int: "int", float: "float", str: "str", bool: "true or false", type(None): "null"}
    return names.get(hint, str(hint))


def suggest(name: str, known: Iterable[str]) -> str:
    """The tail of an error message: close matches to `name`, or all that is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(close) + "?"
    return "; known: " + (", ".join(known) or "none")
