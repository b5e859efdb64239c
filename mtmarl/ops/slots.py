"""Slots of interchangeable objects in an observation: the order of the objects has no meaning.

A family lists objects (foods, other agents) in a fixed order, so a network learns weights of its own for every slot. A
slot that is empty in all training tasks keeps its random initial weights and disturbs the network as soon as a larger
task fills it. Shuffled slots have the same distribution in every task.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtmarl.types import Batch, Slots


def shuffled_columns(
    key: jax.Array, slots: Sequence[Slots], width: int, shape: tuple[int, ...]
) -> Int[Array, "*b O"]:
    """Returns column indices that shuffle the objects of each group among its slots, drawn for each of `shape`.

    width: O, the number of columns of an observation. Columns outside of the groups keep their places.
    """
    columns = jnp.broadcast_to(jnp.arange(width), (*shape, width))
    for i, group in enumerate(slots):
        order = jnp.argsort(jax.random.uniform(jax.random.fold_in(key, i), (*shape, group.count)), axis=-1)
        moved = group.start + order[..., None] * group.width + jnp.arange(group.width)
        columns = columns.at[..., group.start : group.stop].set(moved.reshape(*shape, -1))
    return columns


def take_columns(obs: Float[Array, "*b O"], columns: Int[Array, "*#b O"]) -> Float[Array, "*b O"]:
    """Permutes the columns of each observation."""
    return jnp.take_along_axis(obs, columns, axis=-1, mode="promise_in_bounds")


def shuffle_slots(batch: Batch, key: jax.Array, slots: Sequence[Sequence[Slots]]) -> Batch:
    """Shuffles objects among slots, with one order per agent and window, constant over time.

    slots: the groups of every task, by `task_id`.
    """
    rows, _, agents = batch.action.shape
    width = batch.obs.shape[-1]
    columns = jnp.broadcast_to(jnp.arange(width), (rows, agents, width))
    for i, groups in enumerate(dict.fromkeys(tuple(g) for g in slots if g)):
        of_task = jnp.asarray([tuple(g) == groups for g in slots])
        has: Bool[Array, "B"] = of_task[batch.task_id]
        drawn = shuffled_columns(jax.random.fold_in(key, i), groups, width, (rows, agents))
        columns = jnp.where(has[:, None, None], drawn, columns)
    return batch._replace(obs=take_columns(batch.obs, columns[:, None]))
