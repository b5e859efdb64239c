"""Recurrent agents with shared parameters: a GRU over flat observations, as in QMIX and in MAPPO."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mtmarl.networks.entities import AgentCarry, empty_histories, last_actions, unroll_agents
from mtmarl.ranges import Width
from mtmarl.types import Batch, Carry, Observation, Params


@dataclass(frozen=True)
class Config:
    """Width of all layers and of the mixer."""

    embed_dim: Width


class GruAgent(nn.Module):
    """Maps observation, last action (-1: none) and hidden state to one number per action and the next hidden state.

    As in QMIX (Rashid et al. 2018).
    """

    config: Config
    actions: int

    @nn.compact
    def __call__(
        self, observation: Observation, last_action: Int[Array, "*b N"], carry: Float[Array, "*b N D"]
    ) -> tuple[Float[Array, "*b N A"], Float[Array, "*b N D"]]:
        width = self.config.embed_dim
        x = jnp.concatenate([observation.obs, jax.nn.one_hot(last_action, self.actions)], axis=-1)
        carry, x = nn.GRUCell(width)(carry, nn.relu(nn.Dense(width)(x)))
        return nn.Dense(self.actions)(x), carry


def scores(module: nn.Module, params: Any, observation: Observation, last_action: Array, carry: Array) -> Any:
    """Returns (hidden state, one number per action)."""
    return module.apply({"params": params}, observation, last_action, carry)[::-1]


class GruPolicy(nn.Module):
    """The actor of MAPPO (Yu et al. 2022): two layers with LayerNorm, a GRU, and logits that start near 0."""

    embed_dim: int
    actions: int

    @nn.compact
    def __call__(
        self, observation: Observation, last_action: Int[Array, "*b N"], carry: Float[Array, "*b N D"]
    ) -> tuple[Float[Array, "*b N A"], Float[Array, "*b N D"]]:
        norm = lambda x: nn.LayerNorm(epsilon=1e-5)(x)
        dense = lambda x: nn.Dense(self.embed_dim, kernel_init=nn.initializers.orthogonal(2**0.5))(x)
        x = jnp.concatenate([norm(observation.obs), jax.nn.one_hot(last_action, self.actions)], axis=-1)
        for _ in range(2):
            x = norm(nn.relu(dense(x)))
        carry, x = nn.GRUCell(self.embed_dim)(carry, x)
        return nn.Dense(self.actions, kernel_init=nn.initializers.orthogonal(0.01))(norm(x)), carry


class Agent(NamedTuple):
    """Pure functions of a module with the signature of `GruPolicy`, for windows and single steps."""

    module: Any
    width: int

    @property
    def init_carry(self) -> Callable[[int, int], Carry]:
        return empty_histories(("agent",), self.width)

    def init(self, key: jax.Array, batch: Batch) -> Params:
        carry = jnp.zeros((*batch.action.shape, self.width))
        return self.module.init(key, batch.observation, batch.action, carry)["params"]

    def window(self, params: Params, batch: Batch, carry: AgentCarry) -> Any:
        """Returns one number per action at each step of a window. `carry`: before the first step."""
        last = last_actions(batch, carry.last_action)

        def step(history, x):
            observation, last = x
            hidden, out = scores(self.module, params, observation, last, history["agent"])
            return {"agent": hidden}, out

        return unroll_agents(step, carry.history, (batch.observation, last), batch)

    def act(self, params: Params, carry: AgentCarry, observation: Observation) -> tuple[Any, Array]:
        """Returns (history, one number per action [B, N, A]) of one step."""
        hidden, out = scores(self.module, params, observation, carry.last_action, carry.history["agent"])
        return {"agent": hidden}, out
