"""Contrastive learning of task representations."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtmarl.ops import masked


def info_nce(
    similarity: Float[Array, "B B"],
    negative: Bool[Array, "B B"],
    valid: Bool[Array, "B"],
) -> tuple[Float[Array, "B"], Bool[Array, "B"]]:
    """InfoNCE (van den Oord et al. 2018, equation 4): row b must find its positive, column b, among its negatives.

    similarity[b, c]: of anchor b with the positive of row c. negative[b, c]: row c is a negative for anchor b: it
    is of another task. Other columns are ignored. Returns the loss of each row, and which rows have a negative.
    """
    negative = negative & valid[None, :]
    counts = valid & negative.any(-1)
    diagonal = jnp.eye(similarity.shape[0], dtype=bool)
    logits = jnp.where(diagonal | negative, similarity, masked.NEG_INF)
    loss = jax.nn.logsumexp(logits, axis=-1) - jnp.diagonal(similarity)
    return jnp.where(counts, loss, 0.0), counts


def two_agents(key: jax.Array, active: Bool[Array, "B N"]) -> tuple[Int[Array, "B"], Int[Array, "B"]]:
    """Draws two active agents per row, different ones if it has two. Padding does not change the draws."""
    rows = active.shape[0]
    count = active.sum(-1)
    one, other = jax.random.uniform(key, (2, rows))
    first = jnp.floor(one * count).astype(jnp.int32)
    step = jnp.floor(other * (count - 1)).astype(jnp.int32)
    second = first + 1 + jnp.clip(step, 0, jnp.maximum(count - 2, 0))
    order = jnp.argsort(~active, axis=-1, stable=True)
    at = lambda rank: jnp.take_along_axis(order, (rank % jnp.maximum(count, 1))[:, None], axis=-1)[:, 0]
    return at(first), at(second)


def one_of(key: jax.Array, valid: Bool[Array, "B T"]) -> Int[Array, "B"]:
    """Draws one valid position per row; 0 if none is valid."""
    draw = jax.random.uniform(key, valid.shape[:1])
    count = valid.sum(-1)
    rank = jnp.minimum(jnp.floor(draw * count).astype(jnp.int32), jnp.maximum(count - 1, 0))
    order = jnp.argsort(~valid, axis=-1, stable=True)
    return jnp.take_along_axis(order, rank[:, None], axis=-1)[:, 0]
