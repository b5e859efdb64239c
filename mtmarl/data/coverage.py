"""Detects observation columns that are constant in the training data but vary in held-out tasks.

The weights of such a column keep their random initial values, which disturb the network on the held-out task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from mtmarl.data.host_source import release
from mtmarl.data.vault import Vault
from mtmarl.random_streams import Stream, stream
from mtmarl.types import Env, Slots

RESETS = 64
BLOCK_BYTES = 2**24

Range = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class FamilyColumns:
    """columns: of a family's observation. constant: how many are constant in all training data. held_out: per held-out
    task, how many constant columns have another value in its initial states.
    """

    family: str
    columns: int
    constant: int
    held_out: Mapping[str, int]

    def warning(self) -> str | None:
        """Returns a one-line warning, or None if no constant column varies in a held-out task."""
        worst = max(self.held_out.values(), default=0)
        if not worst:
            return None
        tasks = sum(count > 0 for count in self.held_out.values())
        return (
            f"warning: {self.family}: {self.constant} of {self.columns} observation columns never vary in the training "
            f"data, but up to {worst} of them vary in {tasks} of {len(self.held_out)} held-out tasks; "
            "their weights are not trained"
        )


def unvaried_columns(
    vaults: Sequence[Vault],
    train: Sequence[Env],
    test: Mapping[str, Env],
    slots: Mapping[str, Sequence[Slots]],
) -> list[FamilyColumns]:
    """Returns `FamilyColumns` of each training family. train, test: environments with observations as in vaults.

    slots: per family, groups of slots whose objects are shuffled; equal columns of all slots in a group are merged.
    """
    result = []
    for family in dict.fromkeys(env.spec.family for env in train):
        groups = slots.get(family, ())
        family_vaults = [v for v, env in zip(vaults, train, strict=True) if env.spec.family == family]
        ranges = [_recorded_range(v, groups) for v in family_vaults]
        # Tasks of one family may differ in width: missing columns are 0 in a layout.
        width = max(low.size for low, _ in ranges)
        low = np.min([_widen(low, width) for low, _ in ranges], axis=0)
        high = np.max([_widen(high, width) for _, high in ranges], axis=0)
        constant = np.flatnonzero(low == high)
        held_out = {name: env for name, env in test.items() if env.spec.family == family}
        varying = {}
        for name, env in held_out.items() if constant.size else ():
            test_low, test_high = (_widen(x, width) for x in _initial_range(env, groups))
            varying[name] = int(((test_low < low) | (test_high > high))[constant].sum())
        result.append(FamilyColumns(family, width, int(constant.size), varying))
    return result


def _widen(x: np.ndarray, width: int) -> np.ndarray:
    return np.pad(x[:width], (0, max(0, width - x.size)))


def _merge(low: np.ndarray, high: np.ndarray, groups: Sequence[Slots]) -> Range:
    """Returns the range of each column, merged over the slots that its object may take."""
    for group in groups:
        part = slice(group.start, group.stop)
        for x, reduce in ((low, np.min), (high, np.max)):
            x[part] = np.tile(reduce(x[part].reshape(group.count, group.width), axis=0), group.count)
    return low, high


def _recorded_range(vault: Vault, groups: Sequence[Slots]) -> Range:
    obs = vault.recording.obs
    block = max(1, BLOCK_BYTES // max(1, obs[0].nbytes))
    ranges = []
    for i in range(0, len(obs), block):
        part = obs[i : i + block]
        ranges.append((part.min((0, 1)), part.max((0, 1))))
        release(vault.recording)  # Keep only one block of a memory-mapped vault resident.
    scale = np.asarray(vault.metadata["obs_scale"], np.float32)
    low, high = np.min([r[0] for r in ranges], axis=0), np.max([r[1] for r in ranges], axis=0)
    return _merge(np.asarray(low * scale), np.asarray(high * scale), groups)


def _initial_range(env: Env, groups: Sequence[Slots]) -> Range:
    keys: Any = jax.random.split(stream(0, Stream.COVERAGE), RESETS)
    obs = np.asarray(jax.jit(jax.vmap(lambda key: env.reset(key)[1].obs))(keys))
    return _merge(obs.min((0, 1)), obs.max((0, 1)), groups)
