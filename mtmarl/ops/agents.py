"""The agent axis: shuffling agents, and skipping padded ones."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Shaped

from mtmarl.types import Batch


def random_orders(key: jax.Array, rows: int, agents: int) -> Int[Array, "B N"]:
    """Returns one random permutation of the agents per row."""
    return jnp.argsort(jax.random.uniform(key, (rows, agents)), axis=1)


def reorder(x: Shaped[Array, "B *rest"], order: Int[Array, "B N"], axis: int = 1) -> Shaped[Array, "B *rest"]:
    """Permutes the agents of each row of x along `axis`."""
    rows, agents = order.shape
    index = order.reshape(rows, *[1] * (axis - 1), agents, *[1] * (x.ndim - axis - 1))
    return jnp.take_along_axis(x, index, axis=axis)


def reorder_agents(batch: Batch, order: Int[Array, "B N"], extras: Sequence[str] = ()) -> Batch:
    """Permutes all per-agent arrays of a batch, and the named extras. The order is constant over time."""
    permute = lambda x: reorder(x, order, axis=2)
    last_action = None if batch.last_action is None else reorder(batch.last_action, order)
    return batch._replace(
        obs=permute(batch.obs),
        action_mask=permute(batch.action_mask),
        action=permute(batch.action),
        agent_mask=permute(batch.agent_mask),
        last_action=last_action,
        extras={**batch.extras, **{name: permute(batch.extras[name]) for name in extras}},
    )


def shuffle_agents(batch: Batch, key: jax.Array) -> Batch:
    """Shuffles all agent slots of each row, padded ones included."""
    rows, _, agents = batch.action.shape
    return reorder_agents(batch, random_orders(key, rows, agents))


def skip_padded_agents(run: Callable, batch: Batch, steps: Any, start: Any, rows: Any) -> Any:
    """Computes `run(steps, start, rows)` for real agents only.

    `run` must treat every agent alike and independently. Leaves of `steps` and of the result are [B, T, N, …], of
    `start` [B, N, …], of `rows` [B, T, …]. If the batch knows its number of agents (`present`), `run` gets them as rows
    of one agent each, and padded agents get zeros.
    """
    count, _, agents = batch.action.shape
    slots = count * agents
    if batch.present is None or batch.present.number >= slots:
        return run(steps, start, rows)
    index = jnp.flatnonzero(batch.agent_mask[:, 0], size=batch.present.number, fill_value=slots)
    there = lambda x: x.at[index].get(mode="clip")

    def put_back(y):
        every = jnp.zeros((slots, *y.shape[1:]), y.dtype).at[index].set(y, mode="drop")
        return jnp.moveaxis(every.reshape(count, agents, y.shape[1], *y.shape[3:]), 1, 2)

    apart = lambda x: there(jnp.moveaxis(x, 2, 1).reshape(slots, x.shape[1], 1, *x.shape[3:]))
    before = lambda x: there(x.reshape(slots, 1, *x.shape[2:]))
    shared = lambda x: there(jnp.repeat(x, agents, axis=0))
    out = run(jax.tree.map(apart, steps), jax.tree.map(before, start), jax.tree.map(shared, rows))
    return jax.tree.map(put_back, out)
