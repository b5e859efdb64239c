"""The networks of ODIS (Zhang et al. 2023) and HyGen (Zhang et al. 2024): state encoder, value of skills, decoder."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtmarl.networks.entities import (
    ActionHead,
    Config,
    Embed,
    HistoryTransformer,
    SetAttention,
    TokenEmbedding,
    attend,
)
from mtmarl.types import Entities, TeamTokens, Tokens


class StateEncoder(nn.Module):
    """Encodes state and joint action as one vector per agent, without memory."""

    embed_dim: int

    @nn.compact
    def __call__(self, team: TeamTokens, agent_mask: Bool[Array, "*b N"]) -> Float[Array, "*b N D"]:
        agents, objects = Embed(self.embed_dim)(team.agents, team.objects)
        mask = jnp.concatenate([agent_mask, team.object_mask], axis=-1)
        return SetAttention(outputs=agents.shape[-2], name="Relate_0")(
            jnp.concatenate([agents, objects], axis=-2), mask
        )


class MultiHeadEncoder(nn.Module):
    """State encoder with multi-head attention and no residual (HyGen, equation 1). `head_width`: of each head."""

    embed_dim: int
    heads: int
    head_width: int

    @nn.compact
    def __call__(self, team: TeamTokens, agent_mask: Bool[Array, "*b N"]) -> Float[Array, "*b N D"]:
        agents, objects = Embed(self.embed_dim)(team.agents, team.objects)
        x = jnp.concatenate([agents, objects], axis=-2)
        mask = jnp.concatenate([agent_mask, team.object_mask], axis=-1)

        def project(name, y):
            y = nn.Dense(self.heads * self.head_width, use_bias=False, name=name)(y)
            return y.reshape(*y.shape[:-1], self.heads, self.head_width)

        seen = attend(project("query", agents), project("key", x), project("value", x), mask)
        return nn.relu(nn.Dense(self.embed_dim)(seen))


class Decoder(nn.Module):
    """Maps observation and skill to action logits, with a history of its own."""

    config: Config
    entities: Entities

    @nn.compact
    def __call__(
        self, tokens: Tokens, skill: Float[Array, "*b N K"], history: Float[Array, "*b N D"]
    ) -> tuple[Array, Array]:
        width = self.config.embed_dim
        seen = TokenEmbedding(width, name="Look_0")(tokens)
        read = HistoryTransformer(self.config, name="Read_0")
        own, objects, history = read(seen, history, self.entities.aimed)
        skill = nn.Dense(width, name="skill")(skill)
        told = jnp.broadcast_to(skill[..., None, :], objects.shape)
        join = lambda x, y: jnp.concatenate([x, y], axis=-1)
        head = ActionHead(self.entities, self.config.mean_head, name="head")
        return head(join(own, skill), join(objects, told)), history


class Odis(nn.Module):
    """All networks of ODIS. Only `label` uses the state; `act` and `value` use an agent's observation."""

    config: Config
    entities: Entities
    skills: int
    state_encoder: nn.Module

    def setup(self):
        width = self.config.embed_dim
        self.skill_head = nn.Dense(self.skills)
        self.decoder = Decoder(self.config, self.entities)
        self.look, self.observer = TokenEmbedding(width), HistoryTransformer(self.config)
        self.q_head = nn.Dense(self.skills)

    def label(self, team: TeamTokens, agent_mask: Bool[Array, "*b N"]) -> Float[Array, "*b N K"]:
        """Returns logits of each agent's skill, given the state."""
        return self.skill_head(self.state_encoder(team, agent_mask))

    def value(self, tokens: Tokens, history: Float[Array, "*b N D"]) -> tuple[Array, Array, Array]:
        """Returns (value of each skill, logits of the agent's own skill prediction, history)."""
        own, _, history = self.observer(self.look(tokens), history, False)
        return self.q_head(own), self.skill_head(own), history

    def act(self, tokens: Tokens, skill: Array, history: Float[Array, "*b N D"]) -> tuple[Array, Array]:
        """Returns (action logits, history) for skills [*b, N, K], which may be mixtures."""
        return self.decoder(tokens, skill, history)

    def __call__(self, team: TeamTokens, tokens: Tokens, agent_mask: Array, history: Any) -> None:
        """Uses every parameter, for initialisation."""
        skill = self.label(team, agent_mask)
        self.value(tokens, history)
        self.act(tokens, skill, history)


# The parts of each phase, by their names among the parameters.
SKILL_MODULES = ("state_encoder", "skill_head", "decoder")
