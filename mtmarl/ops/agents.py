"""Agents as slots: reordering them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mtmarl.types import Batch


def shuffle_agents(batch: Batch, key: jax.Array, extras: Sequence[str] = ()) -> Batch:
    """One permutation of all slots, active or not, per row and constant over its time axis.

    Applied to every per-agent leaf, and to the named per-agent extras.
    """
    rows, _, agents = batch.action.shape
    order = jnp.argsort(jax.random.uniform(key, (rows, agents)), axis=1)

    def permute(x):
        return jnp.take_along_axis(x, order.reshape(rows, 1, agents, *[1] * (x.ndim - 3)), axis=2)

    shuffled = {name: permute(batch.extras[name]) for name in extras}
    return batch._replace(
        obs=permute(batch.obs),
        mask=permute(batch.mask),
        action=permute(batch.action),
        agent_mask=permute(batch.agent_mask),
        extras={**batch.extras, **shuffled},
    )
