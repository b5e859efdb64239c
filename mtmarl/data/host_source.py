"""Vaults larger than memory: they are memory-mapped, and the host gathers the windows of each chunk of updates.

The windows are bitwise equal to those of a source on the device. The trainer prefetches the next chunk's windows while
the device runs the current chunk, so they cost no time if gathering is faster than the updates.
"""

import hashlib
import mmap
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.data import vault
from mtmarl.data.sampling import (
    TaskData,
    check_dims,
    gather,
    observation_scales,
    padded_columns,
    returns_to_go,
    write_padded,
)
from mtmarl.data.source import Source, Windows
from mtmarl.data.vault import Recording, Vault, checks, store, stored_bytes, verified
from mtmarl.errors import UserError
from mtmarl.files import files_below
from mtmarl.types import Dims, Params

BLOCK_BYTES = 2**22
# Reading one byte of a mapped file makes up to this many bytes resident, because the kernel maps cached neighbours.
FAULT_BYTES = 2**16
# Chunks of windows in memory at once: the one in use, the next one, and its copy for the device.
CHUNKS_AT_ONCE = 3
UNPACKING_SECONDS = 24 * 3600.0


def default_cache() -> Path:
    """Returns the folder of unpacked vaults in the user's cache."""
    return verified.cache_folder() / "vaults"


def map_vault(path: Path, cache: Path | None = None) -> Vault:
    """Returns a vault whose columns are read-only memory maps.

    The vault is unpacked into the cache at first use and after changes, block by block. It gets the same checks as in
    `read_vault`; a changed cache is checked again. Raises UserError.
    """
    path = Path(os.path.abspath(path))
    metadata = vault.read_metadata(path)
    digest = lambda text: hashlib.sha256(text.encode()).hexdigest()[:16]
    prefix = f"{digest(str(path.resolve()))}-"
    place = (cache or default_cache()) / f"{prefix}{digest(verified.stamp(files_below(path)))}"
    if place.is_dir():
        try:
            mapped = _mapped(place, metadata, path)
            store.check_contents(mapped, place, verified.stamp(files_below(place)))
            return mapped
        except (UserError, OSError, ValueError):  # The cached copy is damaged, not the vault.
            shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    room, need = shutil.disk_usage(place.parent).free, stored_bytes(metadata)
    if need > room:
        raise UserError(
            f"{path}: unpacking takes {need / 2**20:,.0f} MB, {place.parent} has {room / 2**20:,.0f} MB free; "
            "set $XDG_CACHE_HOME to a folder with more space"
        )
    part = place.with_name(f"{place.name}.{uuid4().hex}.part")
    part.mkdir()
    try:
        _unpack(path, metadata, part)
        mapped = _mapped(part, metadata, path)
        checks.validate(mapped)
        store.check_contents(mapped, part, "")
        part.rename(place)
        verified.remember(place, verified.stamp(files_below(place)))
        _remove_outdated(place.parent.glob(f"{prefix}*"), place)
    except OSError:
        if not place.is_dir():  # Another process may have finished first.
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return _mapped(place, metadata, path)


def _remove_outdated(places: Iterable[Path], newest: Path) -> None:
    """Removes unpacked copies of older versions of a vault and incomplete copies of killed processes."""
    for old in places:
        # Young .part folders may belong to a running process. Mapped files stay readable after removal.
        if old != newest and (old.suffix != ".part" or time.time() - old.stat().st_mtime > UNPACKING_SECONDS):
            shutil.rmtree(old, ignore_errors=True)


def _unpack(path: Path, metadata: dict[str, Any], to: Path) -> None:
    steps = metadata["steps"]
    for field, stored in store.open_columns(path, metadata).items():
        dtype, shape = stored.dtype.numpy_dtype, stored.shape[1:]
        block = max(1, BLOCK_BYTES // (dtype.itemsize * int(np.prod(shape))))
        column = np.lib.format.open_memmap(to / f"{field}.npy", "w+", dtype, (steps, *shape))
        for start in range(0, steps, block):
            rows = slice(start, min(start + block, steps))
            with store.reading(path):
                column[rows] = stored[rows].read().result()
        column.flush()


def _mapped(place: Path, metadata: dict[str, Any], path: Path) -> Vault:
    columns = Recording(*(np.load(place / f"{f}.npy", mmap_mode="r") for f in Recording._fields))
    return Vault(columns, vault.own_metadata(metadata), path)


def release(recording: Recording) -> None:
    """Frees the resident memory of mapped columns; later accesses read from disk again."""
    for column in recording:
        mapped = getattr(column, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


class _Gatherer:
    """Gathers windows of mapped vaults and frees mapped memory before it exceeds `resident` bytes."""

    def __init__(
        self, vaults: Sequence[Vault], dims: Dims, constants: Sequence[np.ndarray] | None, resident: int
    ):
        self.recordings, self.dims, self.constants = [v.recording for v in vaults], dims, constants
        self.dtype = np.result_type(*(r.obs.dtype for r in self.recordings))
        self.to_go = [returns_to_go(r) for r in self.recordings]
        for r in self.recordings:
            release(r)
        self.resident = resident

    def __call__(self, task_id: np.ndarray, start: np.ndarray, steps: int) -> dict[str, np.ndarray]:
        """Returns columns of `TaskData` for windows of `steps` steps, [rows * steps, …].

        `before` holds the actions before each window [rows, N].
        """
        rows = task_id.size
        before = np.zeros((rows, self.dims.agents), np.int8)
        obs, mask, action = padded_columns(rows * steps, self.dims, self.dtype)
        flat = lambda dtype: np.zeros(rows * steps, dtype)
        out = {name: flat(bool) for name in ("first", "terminated", "truncated")}
        out |= {name: flat(np.float32) for name in ("reward", "return_to_go")}
        span = np.arange(steps)
        for k, r in enumerate(self.recordings):
            per_row = _touched(r, steps)
            at_once = max(1, self.resident // per_row)
            task_rows = np.flatnonzero(task_id == k)
            for some in (task_rows[i : i + at_once] for i in range(0, len(task_rows), at_once)):
                target = (some[:, None] * steps + span).ravel()
                source = (start[some][:, None] + span).ravel()
                constant = None if self.constants is None else self.constants[k]
                wide = (r.obs[source], r.mask[source], r.action[source])
                write_padded((obs, mask, action), target, wide, constant)
                columns = {
                    "reward": r.reward,
                    "first": r.first,
                    "terminated": r.terminal,
                    "truncated": r.truncated,
                    "return_to_go": self.to_go[k],
                }
                for name, column in columns.items():
                    out[name][target] = column[source]
                before[some, : r.action.shape[1]] = r.action[np.maximum(start[some] - 1, 0)]
                release(r)
        return {"obs": obs, "action_mask": mask, "action": action, "before": before, **out}


def _touched(recording: Recording, steps: int) -> int:
    """Returns the maximum bytes that one window and its previous step make resident in a mapped recording."""
    return sum(2 * FAULT_BYTES + (1 + steps) * column[0].nbytes for column in recording)


def host_source(
    vaults: Sequence[Vault],
    dims: Dims,
    batch_size: int,
    context: int,
    *,
    chunk: int,
    memory: int,
    constants: Sequence[np.ndarray] | None = None,
    constant_scale: np.ndarray | None = None,
    **options: Any,
) -> Source:
    """Equals `vault_source(make_task_data(vaults, dims, constants, constant_scale), batch_size, context, …)`.

    vaults: from `map_vault`. memory: limit in bytes of the resident vault data and the windows of `chunk` updates.
    Raises UserError if it is too small.
    """
    check_dims(vaults, dims)
    length, teams = zip(*((len(v.recording.first), v.recording.mask.shape[1]) for v in vaults), strict=True)
    windows = Windows(length, batch_size, context, **options, agents=teams)
    windows.check()
    wide = np.result_type(*(v.recording.obs.dtype for v in vaults)).itemsize
    per_step = dims.agents * (dims.obs * wide + dims.actions + 1) + 11
    buffers = CHUNKS_AT_ONCE * chunk * batch_size * (context * per_step + dims.agents)
    to_go = sum(4 * n for n in windows.length)  # Vaults do not store returns-to-go.
    resident = memory - buffers - to_go
    least = max(_touched(v.recording, context) for v in vaults)
    if resident < least:
        raise UserError(
            f"data.memory_mb={memory / 2**20:g}: {CHUNKS_AT_ONCE} chunks of {chunk} updates take "
            f"{buffers / 2**20:.1f} MB, returns-to-go {to_go / 2**20:.1f} MB; give at least "
            f"{(buffers + to_go + least) / 2**20 + 1:.0f}, or lower trainer.chunk"
        )
    gather_columns = _Gatherer(vaults, dims, constants, resident)
    draw = jax.jit(jax.vmap(windows.draw))
    agents = jnp.asarray(teams, jnp.int32)
    none = jnp.zeros(len(vaults), jnp.int32)
    constants_of_tasks = (agents, jnp.asarray(observation_scales(vaults, dims, constant_scale)))

    def prefetch(drawn: int, keys: jax.Array) -> dict[str, np.ndarray]:
        numbers = jnp.arange(drawn, drawn + keys.shape[0], dtype=jnp.int32)
        task_id, start = jax.device_get(draw(numbers, keys))
        columns = gather_columns(task_id.ravel(), start.ravel(), context)
        each = lambda x: x.reshape(keys.shape[0], -1, *x.shape[1:])
        return {"task_id": task_id, **{name: each(column) for name, column in columns.items()}}

    def next_batch(drawn: jax.Array, constants: Any, x: Any, params: Params, key: jax.Array):
        agents, scale = constants
        columns = {name: column for name, column in x.items() if name not in ("task_id", "before")}
        data = TaskData(**columns, agents=agents, offset=none, length=none, obs_scale=scale)
        at = jnp.arange(batch_size * context).reshape(batch_size, context)
        return drawn + 1, windows.finish(gather(data, x["task_id"], at, x["before"]), key)

    return Source(lambda key: jnp.zeros((), jnp.int32), next_batch, constants_of_tasks, prefetch)
