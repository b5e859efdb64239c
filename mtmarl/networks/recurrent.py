"""Recurrent agents: a GRU over flat observations, the same for every agent, in QMIX's form and in MAPPO's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mtmarl.networks.entities import Memory, empty_histories, last_actions, unroll_agents
from mtmarl.ranges import Width
from mtmarl.types import Batch, Carry, Observation, Params


@dataclass(frozen=True)
class Config:
    """Width of every layer, and of the mixer's embedding."""

    embed_dim: Width


class GruAgent(nn.Module):
    """One number per action, and the next memory, from what an agent sees and its last action (-1: none).

    As in QMIX (Rashid et al. 2018).
    """

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


def scores(module: nn.Module, params: Any, obs: Observation, last_action: Array, memory: Array) -> Any:
    """(memory, numbers of the actions) under the parameters."""
    return module.apply({"params": params}, obs, last_action, memory)[::-1]


class GruPolicy(nn.Module):
    """`GruAgent` as MAPPO has it (Yu et al. 2022): two layers before the GRU, each behind a LayerNorm, and logits that
    start near 0.
    """

    embed_dim: int
    actions: int

    @nn.compact
    def __call__(
        self, obs: Observation, last_action: Int[Array, "*b N"], memory: Float[Array, "*b N D"]
    ) -> tuple[Float[Array, "*b N A"], Float[Array, "*b N D"]]:
        norm = lambda x: nn.LayerNorm(epsilon=1e-5)(x)
        dense = lambda x: nn.Dense(self.embed_dim, kernel_init=nn.initializers.orthogonal(2**0.5))(x)
        x = jnp.concatenate([norm(obs.view), jax.nn.one_hot(last_action, self.actions)], axis=-1)
        for _ in range(2):
            x = norm(nn.relu(dense(x)))
        memory, x = nn.GRUCell(self.embed_dim)(memory, x)
        return nn.Dense(self.actions, kernel_init=nn.initializers.orthogonal(0.01))(norm(x)), memory


class Agent(NamedTuple):
    """A module with the signature of `GruPolicy` as pure functions over windows and single steps."""

    module: Any
    width: int

    @property
    def init_carry(self) -> Callable[[int, int], Carry]:
        return empty_histories(("agent",), self.width)

    def init(self, key: jax.Array, batch: Batch) -> Params:
        memory = jnp.zeros((*batch.action.shape, self.width))
        return self.module.init(key, batch.observation, batch.action, memory)["params"]

    def window(self, params: Params, batch: Batch, memory: Memory) -> Any:
        """Its numbers at every step of a window; `memory` is that before the first."""
        last = last_actions(batch, memory.last_action)

        def step(history, x):
            obs, last = x
            hidden, out = scores(self.module, params, obs, last, history["agent"])
            return {"agent": hidden}, out

        return unroll_agents(step, memory.history, (batch.observation, last), batch)

    def act(self, params: Params, memory: Memory, obs: Observation) -> tuple[Any, Array]:
        """(history, its numbers [B, N, A]) of one step."""
        hidden, out = scores(self.module, params, obs, memory.last_action, memory.history["agent"])
        return {"agent": hidden}, out
