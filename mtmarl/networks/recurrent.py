"""The recurrent agent of QMIX (Rashid et al. 2018): a GRU over flat observations, the same for every agent."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mtmarl.types import Observation


@dataclass(frozen=True)
class Config:
    """Width of every layer, and of the mixer's embedding."""

    embed_dim: int


class GruAgent(nn.Module):
    """One number per action, and the next memory, from what an agent sees and its last action (-1: none)."""

    config: Config
    actions: int

    @nn.compact
    def __call__(
        self, obs: Observation, last_action: Int[Array, "*b N"], memory: Float[Array, "*b N D"]
    ) -> tuple[Float[Array, "*b N A"], Float[Array, "*b N D"]]:
        width = self.config.embed_dim
        x = jnp.concatenate([obs.view, jax.nn.one_hot(last_action, self.actions)], axis=-1)
        memory, x = nn.GRUCell(width)(memory, nn.relu(nn.Dense(width)(x)))
        return nn.Dense(self.actions)(x), memory


def scores(module: GruAgent, params: Any, obs: Observation, last_action: Array, memory: Array) -> Any:
    """(memory, numbers of the actions) under the parameters."""
    return module.apply({"params": params}, obs, last_action, memory)[::-1]
