"""The mixture of encoders of CARE (Sodhani et al. 2021): attention by the task over encoders of the observation."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mtmarl.networks.entities import Config as Transformer
from mtmarl.networks.entities import Mlp, TeamValue
from mtmarl.networks.m3 import without
from mtmarl.networks.recurrent import GruPolicy
from mtmarl.ranges import Width
from mtmarl.types import Observation, TeamTokens


@dataclass(frozen=True)
class Config:
    """Widths of GRU, critic and mixture; `experts`: number k of encoders."""

    embed_dim: Width
    experts: Width
    mixture_dim: Width


class Mixture(nn.Module):
    """Returns sum_j alpha_j z_j over k encodings z of the observation, and the encoding of the task.

    alpha is a softmax of the task encoding, which gets no gradient through alpha. `told`: columns of the task features;
    without any, all experts have the same weight.
    """

    experts: int
    features: int
    told: tuple[int, int]

    def setup(self):
        each = nn.vmap(
            Mlp, variable_axes={"params": 0}, split_rngs={"params": True}, out_axes=-2, axis_size=self.experts,
            in_axes=None,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip
        self.encoders = each(self.features, self.features)
        if self.told[1] > self.told[0]:
            self.task, self.gate = Mlp(self.features, 100), Mlp(self.experts, self.features)

    def attention(self, context: Float[Array, "*b C"]) -> Float[Array, "*b K"]:
        """Returns alpha, given the encoding of the task."""
        return jax.nn.softmax(self.gate(jax.lax.stop_gradient(context)), axis=-1)

    def __call__(self, view: Float[Array, "*b O"]) -> Float[Array, "*b F"]:
        encoded: Any = self.encoders(without(view, self.told))
        if self.told[1] == self.told[0]:
            return encoded.mean(-2)
        context = nn.relu(self.task(view[..., slice(*self.told)]))
        mixed = (self.attention(context)[..., None] * encoded).sum(-2)
        return jnp.concatenate([mixed, context], axis=-1)


class Policy(nn.Module):
    """The GRU policy of MAPPO on top of a mixture."""

    config: Config
    actions: int
    told: tuple[int, int]

    @nn.compact
    def __call__(
        self, observation: Observation, last_action: Int[Array, "*b N"], carry: Float[Array, "*b N D"]
    ) -> tuple[Float[Array, "*b N A"], Float[Array, "*b N D"]]:
        c = self.config
        seen = Mixture(c.experts, c.mixture_dim, self.told, name="mixture")(observation.obs)
        policy = GruPolicy(c.embed_dim, self.actions, name="policy")
        return policy(observation._replace(obs=seen), last_action, carry)


class Value(nn.Module):
    """The central critic of MAPPO on top of a mixture of its own, over the observations of the team."""

    config: Config
    told: tuple[int, int]

    @nn.compact
    def __call__(self, observation: Observation, agent_mask: Array) -> Float[Array, "*b N"]:
        c = self.config
        seen = Mixture(c.experts, c.mixture_dim, self.told, name="mixture")(observation.obs)
        nothing = jnp.zeros((*seen.shape[:-2], 0, 0))
        team = TeamTokens(seen, nothing, nothing.any(-1))
        return TeamValue(Transformer(c.embed_dim, 1, 1, False), name="value")(team, agent_mask)
