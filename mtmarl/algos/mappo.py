"""MAPPO: PPO with shared actors and a central critic (Yu et al. 2022), on one task or many.

Departures: docs/departures.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from mtmarl.algos import ppo
from mtmarl.algos.base import Algorithm, Spec
from mtmarl.networks import entities, recurrent
from mtmarl.ops import masked
from mtmarl.ranges import Width
from mtmarl.types import Batch, Dims, Observation, TeamTokens


@dataclass(frozen=True)
class Network:
    """`actor`: a GRU over flat observations, or UPDeT's transformer over entities. `heads` and `depth` are those of the
    transformers; the critic is one in both cases.
    """

    embed_dim: Width
    actor: Literal["gru", "entity"]
    heads: Width = 1
    depth: Width = 1
    mean_head: bool = False

    @property
    def transformer(self) -> entities.Config:
        return entities.Config(self.embed_dim, self.heads, self.depth, self.mean_head)


@dataclass(frozen=True, kw_only=True)
class Config(ppo.Config):
    network: Network


def team_tokens(dims: Dims, observation: Observation, last_action: Any) -> TeamTokens:
    """Returns the tokens of the team; without entities, one token per agent with its observation."""
    if dims.entities is not None:
        return entities.team_inputs(dims.entities, observation, last_action)
    nothing = jnp.zeros((*observation.obs.shape[:-2], 0, 0))
    return TeamTokens(observation.obs, nothing, nothing.any(-1))


def act_by(actor: Any, value: Any):
    """Returns `act` with log-probabilities and values for PPO. Agents act independently."""

    def act(params, carry, observation, key, sample_probability):
        history, logits = actor.act(params["actor"], carry, observation)
        action = entities.choose(logits, observation, key, sample_probability)
        log_prob = masked.take(masked.log_softmax(logits, observation.action_mask), action)
        out = {"log_prob": log_prob, "value": value(params, observation, carry.last_action)}
        return entities.AgentCarry(history, action), action, out

    return act


def make_actor(network: Network, dims: Dims) -> Any:
    if network.actor == "entity":
        return entities.Agent.make(network.transformer, dims)
    return recurrent.Agent(recurrent.GruPolicy(network.embed_dim, dims.actions), network.embed_dim)


def with_critic(actor: Any, critic: Any, look: Callable[[Observation, Any], Any]) -> ppo.Model:
    """Combines an actor with the functions of `recurrent.Agent` and a critic.

    The critic is a module from look(observation, last actions) and the agent mask to one value per agent.
    """

    def value(params, observation: Observation, last_action) -> Any:
        return critic.apply(
            {"params": params["critic"]}, look(observation, last_action), observation.agent_mask
        )

    def evaluate(params, batch: Batch):
        carry = batch.extras["carry"]
        last = entities.last_actions(batch, carry.last_action)
        logits = actor.window(params["actor"], batch, carry=carry)
        return logits, value(params, batch.observation, last)

    def init(key: jax.Array, batch: Batch):
        key_actor, key_critic = jax.random.split(key)
        seen = look(batch.observation, jnp.full_like(batch.action, -1))
        return {
            "actor": actor.init(key_actor, batch),
            "critic": critic.init(key_critic, seen, batch.agent_mask)["params"],
        }

    return ppo.Model(init, act_by(actor, value), evaluate, actor.init_carry, ("critic",))


def make_model(actor: Any, network: entities.Config, dims: Dims) -> ppo.Model:
    """Combines an actor with the critic of MAPPO."""
    return with_critic(actor, entities.TeamValue(network), partial(team_tokens, dims))


def make(config: Config, dims: Dims, updates: int) -> Algorithm:
    model = make_model(make_actor(config.network, dims), config.network.transformer, dims)
    return ppo.make(config, dims.tasks, updates, model)


SPEC = Spec(
    Config=Config,
    make=make,
    kind="online",
    title="MAPPO",
    needs=("updates",),
    learns_values=True,
    rollouts=ppo.rollouts,
    decentralised=True,
)
