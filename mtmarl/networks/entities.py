"""Networks over sets of entities: embedding, a transformer that remembers through a token, action heads, mixers.

The parts of UPDeT (Hu et al. 2021) in the form that ODIS (Zhang et al. 2023) gave them and HiSSD kept. Nothing depends
on how many agents or objects there are: absent ones are masked out of every attention and every sum, so parameters
fit every task of a family. Apart from mixers and state encoders, which only training calls, every agent sees its own
tokens and nothing else.

A window that begins inside an episode knows the last actions before it (`Batch.last_action`), but not the histories,
which begin as zeros there, as in play they do only at the start of an episode. ODIS and HiSSD train on whole episodes;
here a context that covers most of one keeps the difference small. Windows are not burned in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from mtmarl.ops import masked
from mtmarl.ops.agents import skip_padded_agents
from mtmarl.ranges import Width
from mtmarl.types import Batch, Carry, Dims, Entities, Observation, Params, TeamTokens, Tokens


@dataclass(frozen=True)
class Config:
    """Width D, attention heads (each of full width, as in UPDeT) and layers of every transformer.

    mean_head: as released, the value of aiming at an object is the mean of the base actions' head on its token, so
    that the two share weights; else it has a head of its own.
    """

    embed_dim: Width
    heads: Width
    depth: Width
    mean_head: bool = False


# ------------------------------------------------------------------------------------------- observations


def whole(base_actions: int) -> Entities:
    """Observations of which no more is known: one own token that is all of it."""
    nothing = lambda x: (jnp.zeros((*x.shape, 0, 0)), jnp.zeros((*x.shape, 0), bool))

    def observe(observation: Observation) -> Tokens:
        none, mask = nothing(observation.obs[..., 0])
        return Tokens(observation.obs, none, none, mask, mask)

    def team(observation: Observation) -> TeamTokens:
        return TeamTokens(observation.obs, *nothing(observation.obs[..., 0, 0]))

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


def _append(x: Shaped[Array, "*b F"], *more: Shaped[Array, "*b _"]) -> Shaped[Array, "*b H"]:
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
    own = _append(tokens.own, compact(last_action, entities))
    if not entities.aimed:
        return tokens._replace(own=own)
    aim = aimed_at(last_action, entities, tokens.objects.shape[-2])
    return tokens._replace(own=own, objects=_append(tokens.objects, aim[..., None]))


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
    agents = _append(team.agents, compact(last_action, entities))
    if action is None:
        return team._replace(agents=agents)
    agents = _append(agents, compact(action, entities))
    if not entities.aimed:
        return team._replace(agents=agents)
    aim = aimed_at(action, entities, team.objects.shape[-2]) * observation.agent_mask[..., None]
    return team._replace(agents=agents, objects=_append(team.objects, aim.max(-2)[..., None]))


def team_of(entities: Entities, batch: Batch) -> TeamTokens:
    """`team_inputs` at every step of a batch, before its actions are known: what a mixer sees."""
    return team_inputs(entities, batch.observation, last_actions(batch))


def mix(mixer: nn.Module, entities: Entities, params: Params, q: Float[Array, "B T N"], batch: Batch) -> Any:
    """The team's value at every step of a batch, [B, T]; q: what each agent gives. Uses `params["mixer"]`."""
    return mixer.apply({"params": params["mixer"]}, q, team_of(entities, batch), batch.agent_mask)


# ------------------------------------------------------------------------------------------------- blocks


class Embed(nn.Module):
    """Each kind of entity through a linear map of its own. A kind of no width is left out."""

    features: int

    @nn.compact
    def __call__(self, *kinds: Float[Array, "..."]) -> tuple[Float[Array, "..."], ...]:
        empty = lambda x: jnp.zeros((*x.shape[:-1], self.features))
        return tuple(
            nn.Dense(self.features, name=f"kind_{i}")(x) if x.shape[-1] else empty(x)
            for i, x in enumerate(kinds)
        )


def attend(
    q: Float[Array, "*b Q H D"],
    k: Float[Array, "*b L H D"],
    v: Float[Array, "*b L H D"],
    mask: Bool[Array, "*b L"],
) -> Float[Array, "*b Q F"]:
    """What each of Q tokens sees of those of L that are there, by H heads; F = H D, one head after the other."""
    score = jnp.einsum("...qhd,...khd->...hqk", q, k) / q.shape[-1] ** 0.5
    weight = jax.nn.softmax(jnp.where(mask[..., None, None, :], score, masked.NEG_INF), axis=-1)
    seen = jnp.einsum("...hqk,...khd->...qhd", weight, v)
    return seen.reshape(*seen.shape[:-2], -1)


class Block(nn.Module):
    """Attention and feed-forward, each behind a residual and before a LayerNorm. Every head has the full width.

    Only the first `outputs` tokens are computed: the rest are looked at, and that is all.
    """

    config: Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "*b L D"], mask: Bool[Array, "*b L"], outputs: int
    ) -> Float[Array, "*b K D"]:
        width, heads = self.config.embed_dim, self.config.heads
        project = lambda name, y: nn.Dense(width * heads, use_bias=False, name=name)(y).reshape(
            *y.shape[:-1], heads, width
        )
        kept = x[..., :outputs, :]
        q, k, v = project("query", kept), project("key", x), project("value", x)
        y = nn.LayerNorm(epsilon=1e-5)(kept + nn.Dense(width)(attend(q, k, v, mask)))
        return nn.LayerNorm(epsilon=1e-5)(y + nn.Dense(width)(nn.relu(nn.Dense(4 * width)(y))))


class Transformer(nn.Module):
    """Blocks and a last linear map; tokens have no positions. Returns the first `outputs` tokens."""

    config: Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "*b L D"], mask: Bool[Array, "*b L"], outputs: int
    ) -> Float[Array, "*b K D"]:
        for i in range(self.config.depth):
            last = i == self.config.depth - 1
            x = Block(self.config, name=f"block_{i}")(x, mask, outputs if last else x.shape[-2])
        return nn.Dense(self.config.embed_dim, name="out")(x)


class Mlp(nn.Module):
    """Linear, ReLU, linear; `bounded`: then LayerNorm and tanh."""

    outputs: int
    hidden: int = 128
    bounded: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*b F"]) -> Float[Array, "*b G"]:
        x = nn.Dense(self.outputs)(nn.relu(nn.Dense(self.hidden)(x)))
        return jnp.tanh(nn.LayerNorm(epsilon=1e-5)(x)) if self.bounded else x


class SetAttention(nn.Module):
    """Each of the first `outputs` entities (None: of all) as a mixture of all: attention of width 8 without values of
    its own and without a residual.
    """

    width: int = 8
    outputs: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*b L D"], mask: Bool[Array, "*b L"]) -> Float[Array, "*b K D"]:
        asks, answers = nn.Dense(self.width)(x[..., : self.outputs, :]), nn.Dense(self.width)(x)
        score = jnp.einsum("...qd,...kd->...qk", asks, answers) / self.width**0.5
        return jax.nn.softmax(jnp.where(mask[..., None, :], score, masked.NEG_INF), axis=-1) @ x


class Seen(NamedTuple):
    """Embedded tokens of every agent, and which are there."""

    own: Float[Array, "*b N D"]
    objects: Float[Array, "*b N E D"]
    allies: Float[Array, "*b N M D"]
    mask: Bool[Array, "*b N L"]

    @property
    def stacked(self) -> Float[Array, "*b N L D"]:
        """In the order own, objects, allies, which is also that of `mask`."""
        return jnp.concatenate([self.own[..., None, :], self.objects, self.allies], axis=-2)


class TokenEmbedding(nn.Module):
    """Embeds what agents see."""

    features: int

    @nn.compact
    def __call__(self, tokens: Tokens) -> Seen:
        own, objects, allies = Embed(self.features)(tokens.own, tokens.objects, tokens.allies)
        here = jnp.ones((*own.shape[:-1], 1), bool)
        return Seen(own, objects, allies, _append(here, tokens.object_mask, tokens.ally_mask))


class HistoryTransformer(nn.Module):
    """A transformer over an agent's tokens and its history token, whose output is the next step's history.

    Returns own [*b, N, D], the objects [*b, N, E, D] if they are asked for (else none of them), and the history.
    """

    config: Config

    @nn.compact
    def __call__(
        self,
        seen: Seen,
        history: Float[Array, "*b N D"],
        objects: bool,
        more: Float[Array, "*b N J D"] | None = None,
        more_mask: Bool[Array, "*b N J"] | None = None,
    ) -> tuple[Array, Array, Array]:
        tokens = [history[..., None, :], seen.stacked]
        mask = [jnp.ones_like(seen.mask[..., :1]), seen.mask]
        if more is not None:
            tokens, mask = [*tokens, more], [*mask, more_mask]
        count = seen.objects.shape[-2] if objects else 0
        out = Transformer(self.config)(
            jnp.concatenate(tokens, axis=-2), jnp.concatenate(mask, axis=-1), 2 + count
        )
        return out[..., 1, :], out[..., 2:, :], out[..., 0, :]


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
        return _append(base(own), aim)


# ------------------------------------------------------------------------------------------------- mixers


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
        mask = _append(agent_mask, team.object_mask)
        related = SetAttention(name="Relate_0")(x, mask) * mask[..., None]
        state = related.sum(-2) / jnp.maximum(mask.sum(-1), 1)[..., None]
        each = jnp.broadcast_to(state[..., None, :], agents.shape)
        first = jnp.abs(Mlp(self.hidden, self.hyper)(_append(each, agents)))
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
        tokens, mask = jnp.concatenate([agents, objects], axis=-2), _append(agent_mask, team.object_mask)
        related = Transformer(self.config)(tokens, mask, agents.shape[-2])
        return Mlp(1, self.config.embed_dim)(_append(agents, related))[..., 0]


# --------------------------------------------------------------------------------------------------- time


class AgentCarry(NamedTuple):
    """What agents carry from step to step: their history tokens, and their last action (-1: none)."""

    history: Any
    last_action: Int[Array, "B N"]


def empty_histories(names: tuple[str, ...], width: int) -> Callable[[int, int], Carry]:
    """`init_carry` for agents with these history tokens, which begin as zeros."""

    def init_carry(batch_size: int, agents: int) -> AgentCarry:
        zeros = jnp.zeros((batch_size, agents, width))
        return AgentCarry({name: zeros for name in names}, jnp.full((batch_size, agents), -1, jnp.int32))

    return init_carry


def carry_before(init_carry: Callable[[int, int], AgentCarry], batch: Batch) -> AgentCarry:
    """The memory before a window of which no other is known: fresh, but for the actions that the batch knows."""
    rows, _, agents = batch.action.shape
    return init_carry(rows, agents)._replace(last_action=actions_before(batch))


def unroll(step: Callable, history: Any, inputs: Any, first: Bool[Array, "B T"]) -> tuple[Any, Any]:
    """`step(history, inputs of one step) -> (history, outputs)` over time, the history zeroed where `first`.

    Leaves of inputs and outputs are [B, T, …]; of the history [B, …]. The gradient computes every step anew: what it
    would need of all steps together is more than a cache holds, and reading it back takes longer.
    """
    time_first = lambda tree: jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tree)

    def one(history, x):
        now, new = x
        keep = lambda h: jnp.where(new.reshape(-1, *[1] * (h.ndim - 1)), jnp.zeros_like(h), h)
        return step(jax.tree.map(keep, history), now)

    one = jax.checkpoint(one, prevent_cse=False)
    history, outputs = jax.lax.scan(one, history, time_first((inputs, first)))
    return history, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), outputs)


def unroll_agents(step: Callable, history: Any, inputs: Any, batch: Batch) -> Any:
    """The outputs of `unroll` over a batch by what treats every agent by itself, which padded slots are spared: leaves
    are [B, T, N, …], of the history [B, N, …].
    """
    run = lambda inputs, history, first: unroll(step, history, inputs, first)[1]
    return skip_padded_agents(run, batch, inputs, history, batch.first)


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


# ---------------------------------------------------------------------------------- the agent of UPDeT, BC


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
        return tokens._replace(own=_append(tokens.own, told))

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
