"""Agents as slots: reordering them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from mtmarl.types import Batch


def random_orders(key: jax.Array, rows: int, agents: int) -> Int[Array, "B N"]:
    """One permutation of the slots per row."""
    return jnp.argsort(jax.random.uniform(key, (rows, agents)), axis=1)


def reorder(x: Shaped[Array, "B *rest"], order: Int[Array, "B N"], axis: int = 1) -> Shaped[Array, "B *rest"]:
    """Each row of x with its agents, which lie along `axis`, in the order of that row."""
    rows, agents = order.shape
    index = order.reshape(rows, *[1] * (axis - 1), agents, *[1] * (x.ndim - axis - 1))
    return jnp.take_along_axis(x, index, axis=axis)


def reorder_agents(batch: Batch, order: Int[Array, "B N"], extras: Sequence[str] = ()) -> Batch:
    """Every per-agent leaf, and the named per-agent extras, in these orders, constant over time."""
    permute = lambda x: reorder(x, order, axis=2)
    last_action = None if batch.last_action is None else reorder(batch.last_action, order)
    return batch._replace(
        obs=permute(batch.obs),
        mask=permute(batch.mask),
        action=permute(batch.action),
        agent_mask=permute(batch.agent_mask),
        last_action=last_action,
        extras={**batch.extras, **{name: permute(batch.extras[name]) for name in extras}},
    )


def shuffle_agents(batch: Batch, key: jax.Array) -> Batch:
    """All slots, active or not, in a random order per row."""
    rows, _, agents = batch.action.shape
    return reorder_agents(batch, random_orders(key, rows, agents))
