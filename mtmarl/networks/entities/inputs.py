"""What networks over entities read: observations as tokens, with the last actions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from mtmarl.types import Batch, Dims, Entities, Observation, TeamTokens, Tokens, no_entities


def whole(base_actions: int) -> Entities:
    """Observations of unknown structure: the agent's own token is all of it."""

    def observe(observation: Observation) -> Tokens:
        none, mask = no_entities(*observation.obs.shape[:-1])
        return Tokens(observation.obs, none, none, mask, mask)

    def team(observation: Observation) -> TeamTokens:
        return TeamTokens(observation.obs, *no_entities(*observation.obs.shape[:-2]))

    return Entities(base_actions, False, observe, team)


def entities_of(dims: Dims) -> Entities:
    """How observations of these dims split."""
    return whole(dims.actions) if dims.entities is None else dims.entities


def compact(action: Int[Array, "*b"], entities: Entities) -> Float[Array, "*b C"]:
    """An action without its aim: one-hot over the base actions and, if there are aims, "at some object". -1: zeros."""
    width = entities.base_actions + entities.aimed
    return jax.nn.one_hot(jnp.minimum(action, entities.base_actions), width)


def aimed_at(action: Int[Array, "*b"], entities: Entities, objects: int) -> Float[Array, "*b E"]:
    """One-hot of the object that an action aims at."""
    return jax.nn.one_hot(action - entities.base_actions, objects)


def append(x: Shaped[Array, "*b F"], *more: Shaped[Array, "*b _"]) -> Shaped[Array, "*b H"]:
    return jnp.concatenate([x, *more], axis=-1)


def last_actions(batch: Batch, before: Int[Array, "B N"] | None = None) -> Int[Array, "B T N"]:
    """Each agent's action of the step before; -1 where an episode begins. `before`: that of the step before the
    window (None: what the batch knows of it).
    """
    before = actions_before(batch) if before is None else before
    shifted = jnp.concatenate([before[:, None], batch.action[:, :-1]], axis=1)
    return jnp.where(batch.first[..., None], -1, shifted)


def actions_before(batch: Batch) -> Int[Array, "B N"]:
    """What each agent did in the step before the window; -1 where the batch does not know it."""
    return jnp.full_like(batch.action[:, 0], -1) if batch.last_action is None else batch.last_action


def agent_inputs(entities: Entities, observation: Observation, last_action: Int[Array, "*b N"]) -> Tokens:
    """What each agent sees, with its own last action: compact on its token, as a bit on the object aimed at."""
    tokens = entities.observe(observation)
    own = append(tokens.own, compact(last_action, entities))
    if not entities.aimed:
        return tokens._replace(own=own)
    aim = aimed_at(last_action, entities, tokens.objects.shape[-2])
    return tokens._replace(own=own, objects=append(tokens.objects, aim[..., None]))


def team_inputs(
    entities: Entities,
    observation: Observation,
    last_action: Int[Array, "*b N"],
    action: Int[Array, "*b N"] | None = None,
) -> TeamTokens:
    """What the team sees, agents with their last action; with their present one too where it is given, and objects
    with whether any agent aims at them now.
    """
    team = entities.team(observation)
    agents = append(team.agents, compact(last_action, entities))
    if action is None:
        return team._replace(agents=agents)
    agents = append(agents, compact(action, entities))
    if not entities.aimed:
        return team._replace(agents=agents)
    aim = aimed_at(action, entities, team.objects.shape[-2]) * observation.agent_mask[..., None]
    return team._replace(agents=agents, objects=append(team.objects, aim.max(-2)[..., None]))


def team_of(entities: Entities, batch: Batch) -> TeamTokens:
    """`team_inputs` at every step of a batch, before its actions are known: what a mixer sees."""
    return team_inputs(entities, batch.observation, last_actions(batch))
