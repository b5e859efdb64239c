"""The networks of HiSSD (Liu et al. 2025): planner, predictor, task encoder, controller and value.

The common skills are one vector per entity that an agent sees; the task skill is one vector per agent.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtmarl.networks.entities import (
    ActionHead,
    Config,
    HistoryTransformer,
    Mlp,
    Seen,
    SetAttention,
    TokenEmbedding,
    Transformer,
    aimed_at,
    compact,
)
from mtmarl.ops.vectors import unit
from mtmarl.types import Entities, Observation, TeamTokens, Tokens


def _join(*tokens: Array) -> Array:
    return jnp.concatenate(tokens, axis=-2)


class Planner(nn.Module):
    """Returns common skills, one vector per entity that an agent sees, and the history."""

    config: Config

    @nn.compact
    def __call__(self, tokens: Tokens, history: Float[Array, "*b N D"]) -> tuple[Seen, Array]:
        seen = TokenEmbedding(self.config.embed_dim, name="Look_0")(tokens)
        mask = jnp.concatenate([jnp.ones_like(seen.mask[..., :1]), seen.mask], axis=-1)
        x = _join(history[..., None, :], seen.stacked)
        out = Transformer(self.config)(x, mask, x.shape[-2])
        objects = seen.objects.shape[-2]
        own, aims, allies = out[..., 1, :], out[..., 2 : 2 + objects, :], out[..., 2 + objects :, :]
        return Seen(own, aims, allies, seen.mask), out[..., 0, :]


class Predictor(nn.Module):
    """The team's next state from all agents' common skills. Only training calls it.

    Every object k gathers what the agents that see it plan, and a memory of its own; then agents and the objects that
    were ever seen attend to each other. The outputs of these objects are their next memories.
    """

    agent_width: int
    object_width: int

    @nn.compact
    def __call__(
        self, skills: Seen, agent_mask: Bool[Array, "*b N"], carry: Float[Array, "*b E D"]
    ) -> tuple[Array, Array, Array]:
        agents, count = skills.own, skills.objects.shape[-2]
        together, mask, there = agents, agent_mask, jnp.zeros(carry.shape[:-1], bool)
        if count:
            views = jnp.moveaxis(skills.objects, -3, -2)
            by_whom = jnp.moveaxis(skills.mask[..., 1 : 1 + count] & agent_mask[..., None], -1, -2)
            there = by_whom.any(-1) | carry.any(-1)
            views = _join(carry[..., None, :], views)
            by_whom = jnp.concatenate([jnp.ones_like(by_whom[..., :1]), by_whom], axis=-1)
            gathered = SetAttention(outputs=1, name="gather")(views, by_whom)[..., 0, :]
            together = _join(agents, gathered)
            mask = jnp.concatenate([mask, there], axis=-1)
        related = SetAttention(name="relate")(together, mask)
        agents, objects = related[..., : agents.shape[-2], :], related[..., agents.shape[-2] :, :]
        next_agents = Mlp(self.agent_width, name="agents")(agents)
        if not count:
            return next_agents, jnp.zeros((*objects.shape[:-1], self.object_width)), carry
        return next_agents, Mlp(self.object_width, name="targets")(objects), objects * there[..., None]


class TaskEncoder(nn.Module):
    """Returns (task skill z, embedding to contrast) of each agent, from the current observation."""

    config: Config

    @nn.compact
    def __call__(self, tokens: Tokens) -> tuple[Float[Array, "*b N D"], Float[Array, "*b N D"]]:
        width = self.config.embed_dim
        seen = TokenEmbedding(width, name="Look_0")(tokens)
        own = Transformer(self.config)(seen.stacked, seen.mask, 1)[..., 0, :]
        return Mlp(width, bounded=True, name="skill")(own), Mlp(width, name="contrast")(own)


class Controller(nn.Module):
    """Maps observation, common skills (or None) and task skill (or None) to action logits."""

    config: Config
    entities: Entities

    @nn.compact
    def __call__(
        self, tokens: Tokens, skills: Seen | None, task_skill: Any, history: Float[Array, "*b N D"]
    ) -> tuple[Array, Array]:
        width = self.config.embed_dim
        more = more_mask = None
        if skills is not None:
            kinds = (("own", skills.own[..., None, :]), ("target", skills.objects), ("ally", skills.allies))
            more = _join(*(Mlp(width, bounded=True, name=name)(x) for name, x in kinds if x.shape[-2]))
            more_mask = skills.mask
        seen = TokenEmbedding(width, name="Look_0")(tokens)
        read = HistoryTransformer(self.config, name="Read_0")
        own, objects, history = read(seen, history, self.entities.aimed, more, more_mask)
        if task_skill is not None:
            told = jnp.broadcast_to(task_skill[..., None, :], objects.shape)
            own = jnp.concatenate([own, task_skill], axis=-1)
            objects = jnp.concatenate([objects, told], axis=-1)
        head = ActionHead(self.entities, self.config.mean_head, hidden=128, name="head")
        return head(own, objects), history


class Value(nn.Module):
    """Returns one value per agent, from its observations so far."""

    config: Config

    @nn.compact
    def __call__(
        self, tokens: Tokens, history: Float[Array, "*b N D"]
    ) -> tuple[Float[Array, "*b N"], Float[Array, "*b N D"]]:
        seen = TokenEmbedding(self.config.embed_dim, name="Look_0")(tokens)
        own, _, history = HistoryTransformer(self.config, name="Read_0")(seen, history, False)
        return Mlp(1)(own)[..., 0], history


class Similarity(nn.Module):
    """Returns a W b for each pair of rows, normalised to unit length; W starts near the identity."""

    temperature: float

    @nn.compact
    def __call__(self, a: Float[Array, "B D"], b: Float[Array, "C D"]) -> Float[Array, "B C"]:
        start = lambda key, shape: jnp.eye(shape[0]) + 0.01 * nn.initializers.normal(1.0)(key, shape)
        w = self.param("kernel", start, (a.shape[-1], a.shape[-1]))
        return unit(a) @ w @ unit(b).T / self.temperature


def next_state(entities: Entities, observation: Observation, action: Int[Array, "B T N"]) -> TeamTokens:
    """What the predictor has to say at t [B, T-1, …]: the team at t + 1, agents with their action at t, objects with
    whether anybody aimed at them.
    """
    team = jax.tree.map(lambda x: x[:, 1:], entities.team(observation))
    before, active = action[:, :-1], observation.agent_mask[:, :-1]
    agents = jnp.concatenate([team.agents, compact(before, entities)], axis=-1)
    if not entities.aimed:
        return team._replace(agents=agents)
    aim = aimed_at(before, entities, team.objects.shape[-2]) * active[..., None]
    objects = jnp.concatenate([team.objects, aim.max(-2)[..., None]], axis=-1)
    return team._replace(agents=agents, objects=objects)
