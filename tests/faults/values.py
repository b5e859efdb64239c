"""Damage to files and to JSON, drawn from a generator."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar
from zlib import crc32

import numpy as np

T = TypeVar("T")
ODD = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**400, 0.5, 1e300, math.nan, math.inf, -math.inf,
    "", "x", "1",
    "１", "../../x", "\x1b[31mred", "a" * 5000, [], [1], [None], [[]], {}, {"a": 1}, {"": None},
)  # fmt: skip


def generator(kind: str, number: int) -> np.random.Generator:
    """The generator of one fault."""
    return np.random.default_rng([crc32(kind.encode()), number])


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def mangle_file(file: Path, rng: np.random.Generator) -> str:
    """Damages a file as disks, copies and editors do; returns what was done."""
    content = bytearray(file.read_bytes())
    size, how = (
        len(content),
        pick(rng, ["byte", "byte", "bytes", "cut", "empty", "gone", "longer", "zeros", "text", "folder"]),
    )
    at = int(rng.integers(max(1, size)))
    if how == "gone":
        file.unlink()
        return "deleted"
    if how == "folder":
        file.unlink()
        file.mkdir()
        return "a folder in its place"
    if how == "byte" and size:
        content[at] ^= int(rng.integers(1, 256))
    elif how == "bytes":
        for i in rng.integers(0, max(1, size), 20):
            content[i] = int(rng.integers(256))
    elif how == "cut":
        del content[at:]
    elif how == "empty":
        content.clear()
    elif how == "longer":
        content += rng.bytes(int(rng.integers(1, 5000)))
    elif how == "zeros":
        content[at : at + 512] = bytes(len(content[at : at + 512]))
    elif how == "text":
        content = bytearray("ünlesbar\n".encode("latin-1"))
    file.write_bytes(content)
    return f"{how} at {at} of {size}"


def flip(file: Path, rng: np.random.Generator) -> str:
    """Turns one bit over."""
    content = bytearray(file.read_bytes())
    at, bit = int(rng.integers(len(content))), int(rng.integers(8))
    content[at] ^= 1 << bit
    file.write_bytes(content)
    return f"bit {bit} of byte {at} flipped"


def places(tree: Any, path: tuple = ()) -> list[tuple]:
    """The paths to all values of a JSON tree, sections included."""
    found = []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:3]) if isinstance(tree, list) else ()
    for key, value in items:
        found += [(*path, key), *places(value, (*path, key))]
    return found


def wrong_json(tree: Any, rng: np.random.Generator) -> str:
    """Changes or removes one value of a JSON tree in place; returns what was done."""
    path = pick(rng, places(tree))
    inner = tree
    for key in path[:-1]:
        inner = inner[key]
    old, name = inner[path[-1]], ".".join(map(str, path))
    if rng.random() < 0.2:
        del inner[path[-1]]
        return f"{name} removed"
    options = [v for v in ODD if type(v) is not type(old) or v != old]
    number = isinstance(old, int | float) and not isinstance(old, bool)
    new = pick(rng, [old + 1, -old, *options] if number else options)
    inner[path[-1]] = new
    return f"{name} = {str(new)[:40]!r}"
