"""The agent of UPDeT and of cloning (BC-t), and choosing actions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from mtmarl.networks.entities.carry import AgentCarry, carry_before, empty_histories, unroll_agents
from mtmarl.networks.entities.heads import ActionHead
from mtmarl.networks.entities.inputs import agent_inputs, append, entities_of, last_actions
from mtmarl.networks.entities.transformer import Config, HistoryTransformer, TokenEmbedding
from mtmarl.ops import masked
from mtmarl.types import Batch, Carry, Dims, Entities, Observation, Params, Tokens


def choose(
    logits: Float[Array, "B N A"],
    observation: Observation,
    key: jax.Array,
    sample_probability: Any,
    uniform: bool = False,
) -> Int[Array, "B N"]:
    """The best legal action or, for each agent with `sample_probability`, a sample. Padded slots do NOOP (0).

    A sample is drawn by the logits or, if `uniform`, with all legal actions alike.
    """
    key_sample, key_coin = jax.random.split(key)
    among = lambda scores: jnp.where(observation.action_mask, scores, masked.NEG_INF)
    sampled = jax.random.categorical(key_sample, among(0.0 if uniform else logits))
    coin = jax.random.uniform(key_coin, sampled.shape) < sample_probability
    action = jnp.where(coin, sampled, among(logits).argmax(-1))
    return jnp.where(observation.agent_mask, action, 0).astype(jnp.int32)


class AgentNetwork(nn.Module):
    """Tokens, the transformer over them, and one number per action: the network of UPDeT and of cloning (BC-t)."""

    config: Config
    entities: Entities

    @nn.compact
    def __call__(self, tokens: Tokens, history: Float[Array, "*b N D"]) -> tuple[Array, Array]:
        own, objects, history = HistoryTransformer(self.config, name="read")(
            TokenEmbedding(self.config.embed_dim, name="look")(tokens), history, self.entities.aimed
        )
        return ActionHead(self.entities, self.config.mean_head, name="head")(own, objects), history


class Agent(NamedTuple):
    """`AgentNetwork` as pure functions over windows and single steps."""

    module: AgentNetwork

    @classmethod
    def make(cls, config: Config, dims: Dims) -> "Agent":
        return cls(AgentNetwork(config, entities_of(dims)))

    @property
    def init_carry(self) -> Callable[[int, int], Carry]:
        return empty_histories(("agent",), self.module.config.embed_dim)

    def inputs(self, observation: Observation, last_action: Array, more: Array | None = None) -> Tokens:
        """`more` [*b] is told to every agent on its own token."""
        tokens = agent_inputs(self.module.entities, observation, last_action)
        if more is None:
            return tokens
        told = jnp.broadcast_to(more[..., None, None], (*tokens.own.shape[:-1], 1))
        return tokens._replace(own=append(tokens.own, told))

    def step(self, params: Params, history: Any, tokens: Tokens) -> tuple[Any, Array]:
        out, token = self.module.apply({"params": params}, tokens, history["agent"])
        return {"agent": token}, out

    def init(self, key: jax.Array, batch: Batch, more: Array | None = None) -> Params:
        tokens = self.inputs(batch.observation, batch.action, more)
        history = jnp.zeros((*batch.action.shape, self.module.config.embed_dim))
        return self.module.init(key, tokens, history)["params"]

    def window(
        self,
        params: Params,
        batch: Batch,
        more: Float[Array, "B T"] | None = None,
        carry: AgentCarry | None = None,
    ) -> Shaped[Array, "B T N A"]:
        """One number per action at every step of a window; `carry`: see `carry_before`."""
        before = carry_before(self.init_carry, batch) if carry is None else carry
        last = last_actions(batch, before.last_action)
        tokens = self.inputs(batch.observation, last, more)
        return unroll_agents(lambda h, x: self.step(params, h, x), before.history, tokens, batch)

    def act(
        self, params: Params, carry: AgentCarry, observation: Observation, more: Array | None = None
    ) -> tuple[Any, Array]:
        """(history, numbers [B, N, A]) of one step."""
        return self.step(params, carry.history, self.inputs(observation, carry.last_action, more))
