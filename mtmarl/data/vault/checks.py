"""Whether a vault is fit for training: arrays against the schema, and metadata against the arrays."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtmarl.data.vault.episodes import episodes
from mtmarl.data.vault.schema import COLUMNS, METADATA, Recording, Vault, is_reserved
from mtmarl.errors import UserError


def check_none(where: Any, name: str, bad: np.ndarray, problem: str) -> None:
    """Raises a UserError with the index of the first element where `bad` is true."""
    if np.any(bad):
        index = ", ".join(str(int(i)) for i in np.argwhere(bad)[0])
        raise UserError(f"{where}: {name}[{index}] {problem}")


def in_stored_dtypes(recording: Recording, where: Any) -> Recording:
    """The same values in the dtypes that are stored. Raises UserError where a value would change."""
    columns = {}
    for name, value in recording._asdict().items():
        value, dtypes = np.asarray(value), COLUMNS[name].dtypes
        dtype = np.dtype("float32" if value.dtype.kind == "f" and "float32" in dtypes else dtypes[0])
        if value.dtype != dtype and dtype.kind != "f":
            with np.errstate(invalid="ignore"):
                lost = value.astype(dtype) != value
            check_none(where, name, lost, f"does not fit {dtype}; correct the values before writing")
        columns[name] = np.ascontiguousarray(value, dtype)
    return Recording(**columns)


def check_recording(recording: Recording, where: Any) -> None:
    """Raises a UserError that names the array and its first bad index."""
    steps = len(np.atleast_1d(recording.first))
    if steps == 0:
        raise UserError(f"{where}: first is empty; record at least one step")
    for name, (axes, dtypes) in COLUMNS.items():
        value = getattr(recording, name)
        if value.ndim != axes or value.shape[0] != steps:
            raise UserError(f"{where}: {name} has shape {value.shape}, expected {axes} axes, {steps} steps")
        if value.dtype.name not in dtypes:
            raise UserError(
                f"{where}: {name} is {value.dtype}, expected {' or '.join(dtypes)}; write it again"
            )
        if value.dtype.kind == "f":
            check_none(where, name, ~np.isfinite(value), "is not finite; drop or repair the episode")
    agents = {name: getattr(recording, name).shape[1] for name in ("obs", "mask", "action")}
    if len(set(agents.values())) != 1:
        raise UserError(f"{where}: agent axes disagree, {agents}; store one row per agent in each")
    _check_actions(recording, where)
    _check_flags(recording, where)


def _check_actions(recording: Recording, where: Any) -> None:
    action, actions = recording.action, recording.mask.shape[2]
    outside = (action < 0) | (action >= actions)
    check_none(where, "action", outside, f"is outside 0 … {actions - 1}; record actions by index")
    legal = np.take_along_axis(recording.mask, action[..., None].astype(np.intp), axis=2)[..., 0]
    check_none(where, "action", ~legal, "is illegal by the mask; record the mask that the policy saw")


def _check_flags(recording: Recording, where: Any) -> None:
    first, end = recording.first, recording.terminal | recording.truncated
    if not first[0]:
        raise UserError(f"{where}: first[0] is False; mark the first step of every recording")
    if not end[-1]:
        raise UserError(
            f"{where}: truncated[{len(end) - 1}] is False; mark the last step of every recording as truncated"
        )
    differ = np.append(False, first[1:] != end[:-1])
    fix = "must be True exactly after a step that is terminal or truncated; mark cut episodes as truncated"
    check_none(where, "first", differ, fix)
    count = recording.step_count.astype(np.int64)
    jump = np.append(False, ~first[1:] & (np.diff(count) != 1))
    fix = "must count env steps of the episode from 0 in steps of 1"
    check_none(where, "step_count", (count < 0) | jump, fix)


def validate(vault: Vault) -> None:
    """Raises a UserError that names path, array and first bad index unless the vault is fit for training."""
    recording, metadata = vault.recording, vault.metadata
    where = vault.path or metadata.get("task", "vault")
    for key in filter(is_reserved, metadata):
        raise UserError(f"{where}: metadata key {key!r} belongs to the vault format; rename it")
    for key in ("task", "obs_scale", "dims", "steps", "episodes", "episode_return"):
        if key not in metadata:
            raise UserError(f"{where}: metadata has no {key!r}; write the vault again")
    check_recording(recording, where)
    width, scale, horizon = recording.obs.shape[2], metadata["obs_scale"], metadata["dims"]["horizon"]
    if len(scale) != width or not np.isfinite(scale).all():
        raise UserError(f"{where}: obs_scale must hold {width} finite numbers, one per feature of obs")
    too_long = episodes(recording, horizon).length > horizon
    fix = f"is longer than the horizon of {horizon} steps; correct the horizon, or mark `first`"
    check_none(where, "episode", too_long, fix)
    fix = f"is not below the horizon of {horizon}; correct the horizon"
    check_none(where, "step_count", recording.step_count >= horizon, fix)
    for key, value in summary(recording, horizon).items():
        if not _is_close(value, metadata[key]):
            raise UserError(
                f"{where}: {METADATA} says {key} = {metadata[key]}, the arrays say {value}; "
                "the vault was changed by hand or is damaged, restore or collect it again"
            )


def summary(recording: Recording, horizon: int) -> dict[str, Any]:
    """The metadata that follow from the arrays: sizes, number of steps and episodes, returns of complete episodes."""
    found = episodes(recording, horizon)
    total = found.total[found.complete]
    stats = {"mean": total.mean(), "min": total.min(), "max": total.max()} if len(total) else {}
    agents, actions = recording.mask.shape[1:]
    return {
        "dims": {"agents": agents, "obs": recording.obs.shape[2], "actions": actions, "horizon": horizon},
        "steps": len(recording.first),
        "episodes": int(found.complete.sum()),
        "episode_return": {k: float(v) for k, v in stats.items()},
    }


def _is_close(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(_is_close(a[k], b[k]) for k in a)
    return isinstance(b, int | float) and bool(np.isclose(a, b, rtol=1e-5, atol=1e-5))


def contents_hash(recording: Recording, metadata: Mapping[str, Any]) -> str:
    """A SHA-256 of what training reads of a vault, independent of compression and of where it came from."""
    known = [metadata["task"], metadata["obs_scale"], metadata["dims"]]
    digest = hashlib.sha256(json.dumps(known).encode())
    for name, value in recording._asdict().items():
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()
