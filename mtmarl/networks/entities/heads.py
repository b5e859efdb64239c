"""What reads the transformer's outputs: action heads, mixers of the agents' values, the value of a state."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtmarl.networks.entities.inputs import append, team_of
from mtmarl.networks.entities.transformer import Config, Embed, Mlp, SetAttention, Transformer
from mtmarl.types import Batch, Entities, Params, TeamTokens


class ActionHead(nn.Module):
    """One number per action: base actions from the own token, aims from the objects' tokens."""

    entities: Entities
    mean_head: bool
    hidden: int = 0

    @nn.compact
    def __call__(self, own: Float[Array, "*b D"], objects: Float[Array, "*b E F"]) -> Float[Array, "*b A"]:
        make = lambda n, name: Mlp(n, self.hidden, name=name) if self.hidden else nn.Dense(n, name=name)
        base = make(self.entities.base_actions, "base")
        if not self.entities.aimed:
            return base(own)
        aim = base(objects).mean(-1) if self.mean_head else make(1, "aim")(objects)[..., 0]
        return append(base(own), aim)


class Mixer(nn.Module):
    """Q_tot = elu(sum_i Q_i |w_i(s)| + b(s)) · |w(s)| + v(s), so dQ_tot/dQ_i >= 0 (QMIX, Rashid et al. 2018).

    The state is a set: its entities attend to each other and their mean conditions the weights, those of an agent
    also its own token. `hidden` units; hypernetworks of `hyper` units.
    """

    embed_dim: int
    hidden: int = 32
    hyper: int = 64

    @nn.compact
    def __call__(
        self, q: Float[Array, "*b N"], team: TeamTokens, agent_mask: Bool[Array, "*b N"]
    ) -> Float[Array, "*b"]:
        agents, objects = Embed(self.embed_dim)(team.agents, team.objects)
        x = jnp.concatenate([agents, objects], axis=-2)
        mask = append(agent_mask, team.object_mask)
        related = SetAttention(name="Relate_0")(x, mask) * mask[..., None]
        state = related.sum(-2) / jnp.maximum(mask.sum(-1), 1)[..., None]
        each = jnp.broadcast_to(state[..., None, :], agents.shape)
        first = jnp.abs(Mlp(self.hidden, self.hyper)(append(each, agents)))
        hidden = ((q * agent_mask)[..., None] * first).sum(-2) + nn.Dense(self.hidden)(state)
        last = jnp.abs(Mlp(self.hidden, self.hyper)(state))
        return (nn.elu(hidden) * last).sum(-1) + Mlp(1, self.hidden)(state)[..., 0]


class Vdn(nn.Module):
    """Q_tot = sum_i Q_i (Sunehag et al. 2018)."""

    def __call__(self, q: Array, team: TeamTokens, agent_mask: Array) -> Array:
        return (q * agent_mask).sum(-1)


class TeamValue(nn.Module):
    """A value of the state for each agent, by the team's tokens, which attend to each other."""

    config: Config

    @nn.compact
    def __call__(self, team: TeamTokens, agent_mask: Bool[Array, "*b N"]) -> Float[Array, "*b N"]:
        agents, objects = Embed(self.config.embed_dim)(team.agents, team.objects)
        tokens, mask = jnp.concatenate([agents, objects], axis=-2), append(agent_mask, team.object_mask)
        related = Transformer(self.config)(tokens, mask, agents.shape[-2])
        return Mlp(1, self.config.embed_dim)(append(agents, related))[..., 0]


def mix(mixer: nn.Module, entities: Entities, params: Params, q: Float[Array, "B T N"], batch: Batch) -> Any:
    """The team's value at every step of a batch, [B, T]; q: what each agent gives. Uses `params["mixer"]`."""
    return mixer.apply({"params": params["mixer"]}, q, team_of(entities, batch), batch.agent_mask)
