"""What a vault is: its arrays, their types, and its metadata. `docs/vault_format.md` describes it on one page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtmarl.data.vault.json_types import (
    COUNT,
    NUMBER,
    NUMBER_LIST,
    NUMBERS,
    OBJECT,
    POSITIVE,
    SHA256,
    SHAPES,
    SIZES,
    TASK,
    TEXTS,
    Kind,
    check_fields,
    check_schema_version,
)

SCHEMA_VERSION = 1
LAYOUT_VERSION = 1.2  # of Flashbax vaults
METADATA = "metadata.json"


class Recording(NamedTuple):
    """S steps of one task along one time axis, unpadded, in the stored dtypes; N agents, O features, A actions.

    obs: raw features; the observation is `obs * obs_scale`. mask: legal actions. first: the step begins an episode or a
    recording, so recurrent memory is cleared before it. terminal: the step ended the episode by its state. truncated:
    the step ended it by the time limit, or recording stopped after it. The observation after such a step is not stored.
    Hence `first[t + 1] == terminal[t] | truncated[t]`, and the last step of a recording ends an episode. step_count:
    env steps taken in the episode before this one; above 0 at the start if it was not recorded from its reset.
    policy_step: training step of the policy that acted.
    """

    obs: np.ndarray  # (S, N, O) int8 | float32
    mask: np.ndarray  # (S, N, A) bool
    action: np.ndarray  # (S, N) int8
    reward: np.ndarray  # (S,) float32
    first: np.ndarray  # (S,) bool
    terminal: np.ndarray  # (S,) bool
    truncated: np.ndarray  # (S,) bool
    step_count: np.ndarray  # (S,) int16
    policy_step: np.ndarray  # (S,) int32


def concatenate(recordings: Sequence[Recording]) -> Recording:
    """Recordings of one task, one after the other; no episode crosses from one to the next."""
    return Recording(*(np.concatenate(columns) for columns in zip(*recordings, strict=True)))


class Vault(NamedTuple):
    """A recording, its metadata, and where it was read from (None: made in memory)."""

    recording: Recording
    metadata: dict[str, Any]
    path: Path | None = None


class Column(NamedTuple):
    """Number of axes and allowed dtypes of one array of a recording."""

    axes: int
    dtypes: tuple[str, ...]


COLUMNS = {
    "obs": Column(3, ("int8", "float32")),
    "mask": Column(3, ("bool",)),
    "action": Column(2, ("int8",)),
    "reward": Column(1, ("float32",)),
    "first": Column(1, ("bool",)),
    "terminal": Column(1, ("bool",)),
    "truncated": Column(1, ("bool",)),
    "step_count": Column(1, ("int16",)),
    "policy_step": Column(1, ("int32",)),
}
MAX_ACTIONS, MAX_HORIZON = 2**7, 2**15 - 1  # of int8 actions and int16 step counts

_KINDS = {
    "version": NUMBER,
    "structure_shape": SHAPES,
    "structure_dtype": TEXTS,
    "task": TASK,
    "obs_scale": NUMBER_LIST,
    "dims": SIZES,
    "steps": POSITIVE,
    "episodes": COUNT,
    "episode_return": NUMBERS,
    "contents": SHA256,
    "returns": NUMBERS,
    "provenance": OBJECT,
}
_OPTIONAL = ("contents", "returns", "provenance")


def check_metadata(found: Mapping[str, Any]) -> None:
    """Checks the types of metadata as stored. Raises KeyError for a missing field and ValueError for a wrong one."""
    check_fields(found, _KINDS, _OPTIONAL)
    readable = Kind(f"layout {LAYOUT_VERSION} of Flashbax vaults", lambda x: int(x) == int(LAYOUT_VERSION))
    readable.check("version", found["version"])
    check_schema_version(found["schema_version"], SCHEMA_VERSION)
    check_fields(found["dims"], dict.fromkeys(("agents", "obs", "actions", "horizon"), POSITIVE))


def is_reserved(key: str) -> bool:
    """Whether a key of the metadata belongs to the Flashbax layout."""
    return key == "version" or key.startswith("structure_")


def own_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata without the keys of the Flashbax layout."""
    return {key: value for key, value in metadata.items() if not is_reserved(key)}


def stored_bytes(metadata: Mapping[str, Any]) -> int:
    """Memory that the arrays of a vault take, from its metadata as stored."""
    dims = metadata["dims"]
    sizes = {
        "obs": dims["agents"] * dims["obs"],
        "mask": dims["agents"] * dims["actions"],
        "action": dims["agents"],
    }
    # A damaged dtype is found when the arrays are read: here it must not stop the count.
    wide = {"obs": "float32"} if metadata["structure_dtype"].get("obs") == "float32" else {}
    dtypes = {name: np.dtype(wide.get(name, column.dtypes[0])) for name, column in COLUMNS.items()}
    return metadata["steps"] * sum(sizes.get(name, 1) * dtype.itemsize for name, dtype in dtypes.items())
