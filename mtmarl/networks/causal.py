"""A causal transformer over each agent's own last steps, as in decision transformers (MADT, Meng et al. 2021).

One function serves windows and acting: acting is a window of one step after a cache of keys and values. An agent
attends to its own past only. Positions are relative. (MADT embeds the position in the window and the time in the
episode.)
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtmarl.networks.entities import AgentCarry, agent_inputs, carry_before, last_actions
from mtmarl.ops import masked
from mtmarl.ops.agents import skip_padded_agents
from mtmarl.ranges import Size, Width, check_heads
from mtmarl.types import Batch, Entities, Observation, Params


@dataclass(frozen=True)
class Config:
    """Width D (divisible by heads) and layers. `context`: number of steps that a layer attends to, the current one
    included; n layers reach back n (context - 1) steps. 1: a feed-forward network without memory.
    """

    embed_dim: Width
    heads: Width
    depth: Width
    context: Size

    def __post_init__(self):
        check_heads(self.embed_dim, self.heads)


class Cache(NamedTuple):
    """Keys and values of the last `context` steps of each layer, oldest first, and which of these steps exist."""

    keys: Float[Array, "B N P S D"]
    values: Float[Array, "B N P S D"]
    there: Bool[Array, "B N S"]


def empty_cache(config: Config, batch_size: int, agents: int) -> Cache:
    """Returns the cache at the start of an episode: zeros."""
    before = (batch_size, agents, config.depth, config.context, config.embed_dim)
    return Cache(jnp.zeros(before), jnp.zeros(before), jnp.zeros((batch_size, agents, config.context), bool))


def visible(first: Bool[Array, "B T"], there: Bool[Array, "B N S"], context: int) -> Bool[Array, "B N T L"]:
    """Returns the attention mask: which of L = S + T steps, cache then window, each step of the window attends to."""
    steps, cached = first.shape[1], there.shape[-1]
    lag = jnp.arange(steps)[:, None] - (jnp.arange(cached + steps) - cached)[None, :]
    episode = jnp.cumsum(first, axis=1)
    of_key = jnp.pad(episode, ((0, 0), (cached, 0)))
    same = (episode[:, :, None] == of_key[:, None, :]) & (lag >= 0) & (lag < context)
    real = jnp.concatenate([there, jnp.ones((*there.shape[:2], steps), bool)], axis=-1)
    return same[:, None] & real[:, :, None, :]


class Layer(nn.Module):
    """Attention and feed-forward, both pre-norm with a residual."""

    config: Config

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T N D"],
        mask: Bool[Array, "B N T L"],
        keys: Float[Array, "B N S D"],
        values: Float[Array, "B N S D"],
    ) -> tuple[Float[Array, "B T N D"], Float[Array, "B N L D"], Float[Array, "B N L D"]]:
        """Also returns keys and values of cache and window."""
        c = self.config
        width, steps, cached = c.embed_dim // c.heads, x.shape[1], keys.shape[2]
        y = nn.LayerNorm(epsilon=1e-5)(x)
        project = lambda name: nn.Dense(c.embed_dim, use_bias=False, name=name)(y)
        q, k, v = (jnp.swapaxes(project(name), 1, 2) for name in ("query", "key", "value"))
        keys, values = jnp.concatenate([keys, k], axis=2), jnp.concatenate([values, v], axis=2)
        split = lambda z: z.reshape(*z.shape[:-1], c.heads, width)
        score = jnp.einsum("bnthd,bnlhd->bnhtl", split(q), split(keys)) / width**0.5
        bias = self.param("position", nn.initializers.zeros, (c.heads, c.context))
        lag = jnp.arange(steps)[:, None] + cached - jnp.arange(cached + steps)[None, :]
        score += bias[:, jnp.clip(lag, 0, c.context - 1)]
        weight = jax.nn.softmax(jnp.where(mask[:, :, None], score, masked.NEG_INF), axis=-1)
        seen = jnp.einsum("bnhtl,bnlhd->btnhd", weight, split(values)).reshape(x.shape)
        x = x + nn.Dense(c.embed_dim, name="out")(seen)
        y = nn.LayerNorm(epsilon=1e-5)(x)
        return x + nn.Dense(c.embed_dim)(nn.gelu(nn.Dense(4 * c.embed_dim)(y))), keys, values


class Causal(nn.Module):
    """Maps embeddings [B, T, N, D] to the same shape, and returns the cache after the last step.

    Attention never crosses an episode start (`first`).
    """

    config: Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T N D"], first: Bool[Array, "B T"], cache: Cache
    ) -> tuple[Float[Array, "B T N D"], Cache]:
        c = self.config
        mask = visible(first, cache.there, c.context)
        kept = []
        for i in range(c.depth):
            x, *both = Layer(c, name=f"layer_{i}")(x, mask, cache.keys[:, :, i], cache.values[:, :, i])
            kept.append([y[:, :, -c.context :] for y in both])
        keys, values = (jnp.stack(z, axis=2) for z in zip(*kept, strict=True))
        # The steps that a next step of the same episode would attend to.
        here = jnp.cumsum(first, axis=1)
        own = jnp.broadcast_to((here == here[:, -1:])[:, None], (*x.shape[:1], x.shape[2], x.shape[1]))
        there = jnp.concatenate([cache.there & ~first.any(1)[:, None, None], own], axis=-1)
        return nn.LayerNorm(epsilon=1e-5)(x), Cache(keys, values, there[..., -c.context :])


class Token(nn.Module):
    """Embeds observation, last action (-1: none) and return to go as one vector per step.

    It is the sum of their embeddings. (MADT has a token for each.)
    """

    features: int
    actions: int

    @nn.compact
    def __call__(
        self, view: Float[Array, "*b N O"], last_action: Int[Array, "*b N"] | None, to_go: Array | None = None
    ) -> Float[Array, "*b N D"]:
        x = jnp.tanh(nn.Dense(self.features, name="view")(view))
        if last_action is not None:
            one_hot = jax.nn.one_hot(last_action, self.actions)
            x += nn.Dense(self.features, use_bias=False, name="last_action")(one_hot)
        if to_go is not None:
            x += jnp.tanh(nn.Dense(self.features, name="to_go")(to_go[..., None, None]))
        return x


class Policy(nn.Module):
    """MADT's policy: logits from an agent's own last steps."""

    config: Config
    actions: int
    tell_actions: bool

    @nn.compact
    def __call__(
        self,
        observation: Observation,
        last_action: Int[Array, "B T N"],
        to_go: Float[Array, "B T"] | None,
        first: Bool[Array, "B T"],
        cache: Cache,
    ) -> tuple[Float[Array, "B T N A"], Cache]:
        token = Token(self.config.embed_dim, self.actions, name="token")
        x = token(observation.obs, last_action if self.tell_actions else None, to_go)
        x, cache = Causal(self.config, name="causal")(x, first, cache)
        return nn.Dense(self.actions, kernel_init=nn.initializers.orthogonal(0.01), name="head")(x), cache


class Agent(NamedTuple):
    """Pure functions of a module with the signature of `Policy`.

    `target_return`: the undiscounted return to condition on in acting. The return to go is this minus what was
    received; windows use the recorded one, or that of acting (extras["to_go"]). None: no return to go.

    `entities`: the module gets entity tokens, with the last action, instead of last actions. They are computed here,
    because their number depends on the team size, which a module that runs on single agents does not know.
    """

    module: Any
    target_return: float | None = None
    entities: Entities | None = None

    def init_carry(self, batch_size: int, agents: int) -> AgentCarry:
        history: dict[str, Any] = {"cache": empty_cache(self.module.config, batch_size, agents)}
        if self.target_return is not None:
            history["to_go"] = jnp.full(batch_size, self.target_return, jnp.float32)
        return AgentCarry(history, jnp.full((batch_size, agents), -1, jnp.int32))

    def told(self, batch: Batch) -> Array | None:
        """Returns the return to go at each step [B, T], None if not used."""
        if self.target_return is None:
            return None
        if "to_go" in batch.extras:
            return batch.extras["to_go"][..., 0]
        assert batch.return_to_go is not None, "a batch without recorded returns"
        return batch.return_to_go

    def init(self, key: jax.Array, batch: Batch) -> Params:
        cache = self.init_carry(batch.action.shape[0], batch.action.shape[2]).history["cache"]
        seen = self.seen(batch.observation, batch.action)
        return self.module.init(key, *seen, self.told(batch), batch.first, cache)["params"]

    def seen(self, observation: Observation, last_action: Array) -> tuple[Observation, Any]:
        """Returns the first inputs of the module: observation, and last actions or, with `entities`, tokens."""
        return observation, last_action if self.entities is None else agent_inputs(
            self.entities, observation, last_action
        )

    def window(self, params: Params, batch: Batch, carry: AgentCarry | None = None) -> Any:
        """Returns the outputs at each step of a window. `carry`: see `carry_before`."""
        carry = carry_before(self.init_carry, batch) if carry is None else carry
        last = last_actions(batch, carry.last_action)

        def run(steps, cache, rows):
            return self.module.apply({"params": params}, *steps, *rows, cache)[0]

        steps, rows = self.seen(batch.observation, last), (self.told(batch), batch.first)
        return skip_padded_agents(run, batch, steps, carry.history["cache"], rows)

    def act(self, params: Params, carry: AgentCarry, observation: Observation) -> tuple[dict[str, Any], Any]:
        """Returns (history, outputs) of one step."""
        history, to_go = {}, None
        if self.target_return is not None:
            received = 0.0 if observation.reward is None else observation.reward
            to_go = history["to_go"] = carry.history["to_go"] - received
        seen = self.seen(observation._replace(reward=None), carry.last_action)
        now = jax.tree.map(lambda x: x[:, None], (*seen, to_go))
        first = jnp.zeros((observation.obs.shape[0], 1), bool)
        out, history["cache"] = self.module.apply({"params": params}, *now, first, carry.history["cache"])
        return history, jax.tree.map(lambda x: x[:, 0], out)
