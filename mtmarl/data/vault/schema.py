"""What a vault is: its arrays, their types, and its metadata. `docs/vault_format.md` describes it on one page."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Required, TypedDict

import numpy as np

from mtmarl.errors import UserError
from mtmarl.parsing import convert
from mtmarl.ranges import Count, Matching, Natural, Range

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

Sha256 = Annotated[str, Matching("[0-9a-f]{64}", "a SHA-256")]
Returns = dict[str, float | None]  # by name
_Shape = Annotated[str, Matching(r"\(\d{1,18}(, \d{1,18})+\)", "a shape of two axes or more")]


class Dims(TypedDict):
    agents: Count
    obs: Count
    actions: Count
    horizon: Count


class Metadata(TypedDict, total=False):
    """The keys of `metadata.json` that have a meaning here; there may be others."""

    version: Required[Annotated[float, Range(1, 1.99)]]
    schema_version: Required[Count]
    structure_shape: Required[dict[str, _Shape]]
    structure_dtype: Required[dict[str, str]]
    task: Required[Annotated[str, Matching("[^/]+/[^/]+", "family/scenario")]]
    obs_scale: Required[list[float]]
    dims: Required[Dims]
    steps: Required[Count]
    episodes: Required[Natural]
    episode_return: Required[Returns]
    contents: Sha256
    returns: Returns
    provenance: dict[str, Any]


def check_metadata(found: Mapping[str, Any], where: str) -> None:
    """Checks the types of metadata as stored. Raises UserError."""
    convert(Metadata, found, where, "")
    check_schema_version(found["schema_version"], where)


def check_schema_version(version: int, where: str) -> None:
    if version > SCHEMA_VERSION:
        raise UserError(f"{where}: schema_version {version} is newer than {SCHEMA_VERSION}; update mtmarl")


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
