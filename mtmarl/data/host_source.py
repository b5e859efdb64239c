"""Vaults larger than memory: they stay on disk, mapped, and the host brings the windows of a chunk of updates.

The windows are those that a source on the device draws, bit for bit. The trainer asks for the next chunk's while the
device is busy with this one, so bringing them costs nothing as long as it is quicker than the updates.
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
# Touching one byte of a mapped file makes up to this much resident: the kernel maps cached neighbours as well.
FAULT_BYTES = 2**16
# Chunks of windows that exist at once: the one that is used, the one that is brought, and its copy for the device.
CHUNKS_AT_ONCE = 3
UNPACKING_SECONDS = 24 * 3600.0


def default_cache() -> Path:
    """Where unpacked vaults lie, in the user's cache."""
    return verified.cache_folder() / "vaults"


def map_vault(path: Path, cache: Path | None = None) -> Vault:
    """A vault whose columns are read-only maps of files, which take memory only where and while they are looked at.

    The files are unpacked into the cache at first use and when the vault has changed, block by block, and checked as
    `read_vault` checks; so is what lies in the cache when it has changed. Raises UserError.
    """
    path = Path(os.path.abspath(path))
    metadata = vault.read_metadata(path)
    told = lambda text: hashlib.sha256(text.encode()).hexdigest()[:16]
    where = f"{told(str(path.resolve()))}-"
    place = (cache or default_cache()) / f"{where}{told(verified.stamp(files_below(path)))}"
    if place.is_dir():
        try:
            found = _mapped(place, metadata, path)
            store.check_contents(found, place, verified.stamp(files_below(place)))
            return found
        except (UserError, OSError, ValueError):  # the copy is damaged, not the vault
            shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    room, need = shutil.disk_usage(place.parent).free, stored_bytes(metadata)
    if need > room:
        raise UserError(
            f"{path}: unpacked it takes {need / 2**20:,.0f} MB, {place.parent} has {room / 2**20:,.0f} MB left; "
            "let $XDG_CACHE_HOME name a place with more"
        )
    part = place.with_name(f"{place.name}.{uuid4().hex}.part")
    part.mkdir()
    try:
        _unpack(path, metadata, part)
        found = _mapped(part, metadata, path)
        checks.validate(found)
        store.check_contents(found, part, "")
        part.rename(place)
        verified.remember(place, verified.stamp(files_below(place)))
        _forget(place.parent.glob(f"{where}*"), place)
    except OSError:
        if not place.is_dir():  # Another process may have been quicker.
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return _mapped(place, metadata, path)


def _forget(places: Iterable[Path], newest: Path) -> None:
    """Removes what was unpacked of a vault that is no longer so, and what a killed process left of unpacking it."""
    for old in places:
        # What another process is writing now is no remainder. What one still has mapped stays until it lets go.
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
    """Lets go of what is resident of mapped columns; it is read again when it is next looked at."""
    for column in recording:
        mapped = getattr(column, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


class _Bringer:
    """Collects windows of mapped vaults, letting go of what was looked at before it exceeds `resident` bytes."""

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
        """Columns of `TaskData` for windows of `steps` steps, [rows * steps, …]; `before` them, actions [rows, N]."""
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
            mine = np.flatnonzero(task_id == k)
            for some in (mine[i : i + at_once] for i in range(0, len(mine), at_once)):
                there = (some[:, None] * steps + span).ravel()
                here = (start[some][:, None] + span).ravel()
                constant = None if self.constants is None else self.constants[k]
                wide = (r.obs[here], r.mask[here], r.action[here])
                write_padded((obs, mask, action), there, wide, constant)
                columns = {
                    "reward": r.reward,
                    "first": r.first,
                    "terminated": r.terminal,
                    "truncated": r.truncated,
                    "return_to_go": self.to_go[k],
                }
                for name, column in columns.items():
                    out[name][there] = column[here]
                before[some, : r.action.shape[1]] = r.action[np.maximum(start[some] - 1, 0)]
                release(r)
        return {"obs": obs, "action_mask": mask, "action": action, "before": before, **out}


def _touched(recording: Recording, steps: int) -> int:
    """How many bytes of a mapped recording one window, and the step before it, make resident at most."""
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
    """What `vault_source(make_task_data(vaults, dims, constants, constant_scale), batch_size, context, …)` yields.

    The vaults come from `map_vault`. Of them and of `chunk` updates' windows no more than `memory` bytes are resident.
    Raises UserError where that is too little.
    """
    check_dims(vaults, dims)
    length, teams = zip(*((len(v.recording.first), v.recording.mask.shape[1]) for v in vaults), strict=True)
    windows = Windows(length, batch_size, context, **options, agents=teams)
    windows.check()
    wide = np.result_type(*(v.recording.obs.dtype for v in vaults)).itemsize
    per_step = dims.agents * (dims.obs * wide + dims.actions + 1) + 11
    buffers = CHUNKS_AT_ONCE * chunk * batch_size * (context * per_step + dims.agents)
    always = sum(4 * n for n in windows.length)  # returns-to-go are not stored
    resident = memory - buffers - always
    least = max(_touched(v.recording, context) for v in vaults)
    if resident < least:
        raise UserError(
            f"data.memory_mb={memory / 2**20:g}: {CHUNKS_AT_ONCE} chunks of {chunk} updates alone take "
            f"{buffers / 2**20:.1f} MB, returns-to-go {always / 2**20:.1f} MB; give at least "
            f"{(buffers + always + least) / 2**20 + 1:.0f}, or lower trainer.chunk"
        )
    bring = _Bringer(vaults, dims, constants, resident)
    draw = jax.jit(jax.vmap(windows.draw))
    agents = jnp.asarray(teams, jnp.int32)
    none = jnp.zeros(len(vaults), jnp.int32)
    known = (agents, jnp.asarray(observation_scales(vaults, dims, constant_scale)))

    def prefetch(drawn: int, keys: jax.Array) -> dict[str, np.ndarray]:
        numbers = jnp.arange(drawn, drawn + keys.shape[0], dtype=jnp.int32)
        task_id, start = jax.device_get(draw(numbers, keys))
        columns = bring(task_id.ravel(), start.ravel(), context)
        each = lambda x: x.reshape(keys.shape[0], -1, *x.shape[1:])
        return {"task_id": task_id, **{name: each(column) for name, column in columns.items()}}

    def next_batch(drawn: jax.Array, known: Any, x: Any, params: Params, key: jax.Array):
        agents, scale = known
        columns = {name: column for name, column in x.items() if name not in ("task_id", "before")}
        data = TaskData(**columns, agents=agents, offset=none, length=none, obs_scale=scale)
        at = jnp.arange(batch_size * context).reshape(batch_size, context)
        return drawn + 1, windows.finish(gather(data, x["task_id"], at, x["before"]), key)

    return Source(lambda key: jnp.zeros((), jnp.int32), next_batch, known, prefetch)
