"""The value of what a whole team sees and does."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class TeamValue(nn.Module):
    """Q(s, a) of a team of any size: an embedding of each agent's observation and action, pooled over agents.

    It also knows the task and the part of the episode that has passed.
    """

    width: int
    actions: int
    tasks: int

    @nn.compact
    def __call__(
        self,
        obs: Float[Array, "*b N O"],
        action: Int[Array, "*b N"],
        agent_mask: Bool[Array, "*b N"],
        passed: Float[Array, "*b"],
        task_id: Int[Array, "*b"],
    ) -> Float[Array, "*b"]:
        layer = lambda x: nn.relu(nn.LayerNorm(epsilon=1e-5)(nn.Dense(self.width)(x)))
        known = jnp.concatenate([passed[..., None], jax.nn.one_hot(task_id, self.tasks)], axis=-1)
        every = jnp.broadcast_to(known[..., None, :], (*action.shape, known.shape[-1]))
        x = layer(layer(jnp.concatenate([obs, jax.nn.one_hot(action, self.actions), every], axis=-1)))
        x = jnp.where(agent_mask[..., None], x, 0.0)  # relu has made all of it at least 0
        mean = x.sum(-2) / jnp.maximum(agent_mask.sum(-1), 1)[..., None]
        x = layer(jnp.concatenate([mean, x.max(-2), known], axis=-1))
        return nn.Dense(1, kernel_init=nn.initializers.zeros)(x)[..., 0]
