"""Pieces that families cut observations into entities with (`types.Tokens`, `types.TeamTokens`)."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

CELL = 0.25  # A distance of one cell in tokens; in observations it is a sixteenth or less.


def split_slots(x: Float[Array, "*b F"], count: int, width: int) -> Float[Array, "*b E G"]:
    """Columns as `count` slots of `width` features."""
    return x.reshape(*x.shape[:-1], count, width)


def present_first(
    x: Float[Array, "*b E F"], mask: Bool[Array, "*b E"], keep: int
) -> tuple[Float[Array, "*b K F"], Bool[Array, "*b K"]]:
    """The present ones of E slots moved to the front, and the first `keep` slots; no more are present."""
    order = jnp.argsort(~mask, axis=-1, stable=True)[..., :keep]
    mask = jnp.take_along_axis(mask, order, axis=-1)
    return jnp.take_along_axis(x, order[..., None], axis=-2) * mask[..., None], mask


def mean_view(
    seen_as: Float[Array, "*b N E F"], seen: Bool[Array, "*b N E"]
) -> tuple[Float[Array, "*b E F"], Bool[Array, "*b E"]]:
    """Each object as the mean over the agents that see it, and whether any does."""
    count = seen.sum(-2)
    mean = (seen_as * seen[..., None]).sum(-3) / jnp.maximum(count, 1)[..., None]
    return mean, count > 0


def cells_around(reach: int) -> np.ndarray:
    """The (row, column) distances of the cells around an agent, without its own."""
    span = range(-reach, reach + 1)
    return np.asarray([(r, c) for r in span for c in span if (r, c) != (0, 0)], np.float32)
