"""Flashbax vaults as other libraries write them: where they lie, and their arrays, held against their own metadata."""

import json
import os
import re
from ast import literal_eval
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from mtmarl.data import vault as vaults
from mtmarl.data.archives import MAX_BYTES, is_archive, unpack
from mtmarl.data.vault import METADATA
from mtmarl.errors import UserError
from mtmarl.files import scratch_folder

# Where an archive is unpacked: not a name of a family.
ARCHIVE = ".archive"


@contextmanager
def found_vaults(source: Path, max_bytes: int = MAX_BYTES) -> Iterator[list[Path]]:
    """The Flashbax vaults in a folder or an archive, in order of path; an archive is unpacked for the time being.

    Links in a folder are followed. What looks like a vault and cannot be entered is listed too: reading it fails.
    """
    source = source.expanduser().resolve()
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    with scratch_folder() as scratch:
        root = unpack(source, scratch / ARCHIVE, max_bytes) if is_archive(source) else source
        if not root.is_dir():
            raise UserError(f"{source}: neither a folder nor a zip or tar archive")
        found = list(_below(root))
        if not found:
            raise UserError(f"{source}: no Flashbax vault in it (no {METADATA})")
        yield found


def _below(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    real = folder.resolve()
    if real in above:  # A link leads back.
        return
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        yield folder
        return
    if folder / METADATA in inside:
        yield folder
    for entry in inside:
        if entry.is_dir():
            yield from _below(entry, above | {real})
        elif not entry.exists() and ".vlt" in (entry.suffix, folder.suffix):  # A link to what is not there.
            yield entry


def read_flashbax(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All leaves of a Flashbax vault by dotted name, [B, T, …], and its metadata; NumPy only, no device.

    Raises UserError where the files are damaged, or the metadata and the arrays differ.
    """
    try:
        # JSON knows no NaN: as text it can be recorded again.
        metadata = json.loads((path / METADATA).read_bytes(), parse_constant=str)
        shapes = {name: _shape(text) for name, text in _flat(metadata["structure_shape"])}
        dtypes = dict(_flat(metadata.get("structure_dtype", {})))
        version = int(float(metadata["version"]))
    except (
        OSError, ValueError, LookupError, TypeError, AttributeError, SyntaxError, MemoryError, RecursionError,
        ArithmeticError,
    ) as error:  # fmt: skip
        reason = " ".join(repr(error).split())[:200]
        raise UserError(f"{path}/{METADATA}: not that of a Flashbax vault ({reason})") from None
    if version != 1:
        raise UserError(f"{path}: vault layout {version}; layout 1 can be read")
    if not shapes:
        raise UserError(f"{path}/{METADATA}: names no arrays")
    try:
        steps = int(vaults.open_leaf(path, "vault_index").read().result()[0])
        stores = {name: vaults.open_leaf(path, f"{name}.") for name in shapes}
        _check_sizes(path, stores, shapes, dtypes, steps)
        pending = {name: store[:, 0:steps].read() for name, store in stores.items()}
        leaves = {name: np.asarray(future.result()) for name, future in pending.items()}
    except (ValueError, OSError, IndexError) as error:
        raise UserError(
            f"{path}: cannot be read ({' '.join(str(error).split()).split(' [')[0][:200]})"
        ) from None
    return leaves, vaults.own_metadata(metadata)


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def _shape(text: str) -> tuple[int, ...]:
    shape = literal_eval(text[:1000])
    if not isinstance(shape, tuple) or len(shape) < 2 or not all(type(n) is int and n > 0 for n in shape):
        raise ValueError(f"shape {text[:100]!r}")
    return shape


def _check_sizes(
    path: Path,
    stores: Mapping[str, ts.TensorStore],
    shapes: Mapping[str, tuple[int, ...]],
    dtypes: Mapping[str, Any],
    steps: int,
) -> None:
    """The arrays are those that the metadata tells of, hold so many steps, and fit into memory."""
    if steps < 1:
        raise UserError(f"{path}: is empty")
    for name, store in stores.items():
        told = (*shapes[name][:1], *shapes[name][2:])
        found = (*store.shape[:1], *store.shape[2:])
        dtype = store.dtype.numpy_dtype.name
        if found != told or dtypes.get(name, dtype) != dtype:
            raise UserError(
                f"{path}: {name} is {dtype}, {found} per step; {METADATA} says {dtypes.get(name)}, {told}"
            )
    size = sum(
        prod(s.shape[:1] + s.shape[2:]) * steps * s.dtype.numpy_dtype.itemsize for s in stores.values()
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise UserError(
            f"{path}: takes {size / 1e9:,.0f} GB, this machine has {memory / 1e9:,.0f}; convert it in parts"
        )
    if steps > (stored := _stored_steps(stores)):
        raise UserError(f"{path}: vault_index says {steps:,} steps, the arrays hold {stored:,} at most")


def _stored_steps(stores: Mapping[str, ts.TensorStore]) -> int:
    """Up to where some array has data. What was never written reads as zeros, and a chunk of zeros is not written."""
    spans = set()
    for store in stores.values():
        size: Any = store.chunk_layout.read_chunk.shape
        size = size[1]
        files: Any = store.kvstore
        for key in files.list().result():  # such as 0.12.0.0
            if re.fullmatch(rb"\d+([./]\d+)+", key):
                spans.add((int(re.split(rb"[./]", key)[1]) * size, size))
    stored = 0
    for start, size in sorted(spans):
        if start > stored:
            break
        stored = max(stored, start + size)
    return stored
