"""Storage of observations in vaults and replay: int8 features times a scale, or float32 if int8 is lossy."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from mtmarl.envs.api import InUnits
from mtmarl.envs.layout import LaidOut
from mtmarl.envs.registry import get_family
from mtmarl.types import Env

Stored = np.ndarray  # [..., O] int8 or float32


def encode(obs: Float[np.ndarray, "*b O"], scale: Float[np.ndarray, "O"]) -> Stored:
    """Returns observations in units of `scale` as int8 if that is lossless, else unchanged in float32."""
    scale = np.asarray(scale, np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        raw = np.rint(obs / scale)
    if not (np.abs(raw) <= 127).all():
        return np.asarray(obs, np.float32)
    raw = raw.astype(np.int8)
    return raw if (raw * scale == obs).all() else np.asarray(obs, np.float32)


def join(parts: Sequence[Stored], scale: Float[np.ndarray, "O"]) -> tuple[list[Stored], np.ndarray]:
    """Converts parts of one task, each encoded with `scale`, to a common dtype. Returns them and their scale [O].

    If one part is float32, all become float32 with a scale of 1.
    """
    scale = np.asarray(scale, np.float32)
    if all(part.dtype == np.int8 for part in parts):
        return list(parts), scale
    widen = lambda part: part * scale if part.dtype == np.int8 else part
    return [widen(part) for part in parts], np.ones_like(scale)


def fits_int8(envs: Sequence[Env]) -> bool:
    """Returns whether the families declare int8 features for all tasks, and no foreign wrapper changes them.

    Replay needs it because a compiled program has fixed dtypes.
    """
    return all(map(_known_scale, envs))


def _known_scale(env: Env) -> bool:
    while isinstance(env, InUnits | LaidOut):
        env = env.raw
    family = get_family(env.spec.family)
    return family.obs_scale is not None and type(env).__module__ == getattr(family.make, "__module__", None)
