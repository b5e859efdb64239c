"""The Sable network (Mahjoub et al. 2025): a retention encoder over observations, a retention decoder over actions.

The same parameters run in two modes with equal results: over windows with given actions (training), and step by step
and agent by agent, selecting actions (acting). Nothing depends on the number of agents.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtmarl.errors import UserError
from mtmarl.networks.retention import Form, Kernel, Retention, product, project
from mtmarl.ops import masked
from mtmarl.ranges import Share, Width, check_heads
from mtmarl.settings import NETWORK, free
from mtmarl.types import Dims, Observation, Params


@dataclass(frozen=True)
class Config:
    """embed_dim E must be divisible by heads; decay_scale f in [0, 1] sets how long memory lasts. Near 1 it lasts
    longer than a training window, so acting uses more history than training did.

    dtype: of products and activations. Parameters, carry and the last product of a head are always float32.

    decoder_norm: where the norm of the decoder's input is applied: "once", before the first block (Sable as published),
    or before "every_block", as this library did before version 0.2. With one block they are the same.
    """

    embed_dim: Width
    heads: Width
    blocks: Width
    decay_scale: Share
    form: Form = field(default="auto", metadata=free(NETWORK))
    official_groupnorm: bool = False
    dtype: Literal["float32", "bfloat16"] = field(default="float32", metadata=free(NETWORK))
    decoder_norm: Literal["once", "every_block"] = "once"

    def __post_init__(self):
        check_heads(self.embed_dim, self.heads)
        if self.official_groupnorm and self.embed_dim % self.heads**2:
            raise UserError(
                f"embed_dim={self.embed_dim} must be a multiple of heads={self.heads} squared with official_groupnorm"
            )


class SableCarry(NamedTuple):
    """Retention states of encoder, decoder self-retention and cross-retention, each [B, L, H, F, F]."""

    encoder: Float[Array, "B L H F F"]
    self_: Float[Array, "B L H F F"]
    cross: Float[Array, "B L H F F"]


class Outputs(NamedTuple):
    """Per token: unmasked policy logits, action values or their histograms, state value; None without the head."""

    logits: Any
    q: Any
    value: Any


class SwiGLU(nn.Module):
    """Gated feed-forward of width E (Shazeer 2020).

    Only the output kernel starts small. If all three start at zero, as released, none ever gets a gradient.
    """

    embed_dim: int

    def setup(self):
        square = (self.embed_dim, self.embed_dim)
        self.gate, self.linear = Kernel(square), Kernel(square)
        self.out = Kernel(square, nn.initializers.normal(0.1 / self.embed_dim**0.5))

    def __call__(self, x: Float[Array, "*b E"]) -> Float[Array, "*b E"]:
        gate, linear = project(x, self.gate(), self.linear())
        return project(nn.swish(gate) * linear, self.out())[0]


class Dense(nn.Module):
    """A linear map with an optional bias."""

    features: int
    kernel_init: Any
    bias_init: Any = nn.initializers.zeros
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*b E"]) -> Float[Array, "*b F"]:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        y = product(x, kernel.astype(x.dtype))
        if self.use_bias:
            y += self.param("bias", self.bias_init, (self.features,)).astype(x.dtype)
        return y


class Head(nn.Module):
    """Dense, GELU, RMS norm, dense. `bias`: initial bias of the last layer."""

    embed_dim: int
    outputs: int
    bias: tuple[float, ...] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "*b E"]) -> Float[Array, "*b out"]:
        x = Dense(self.embed_dim, nn.initializers.orthogonal(2**0.5))(x)
        x = nn.RMSNorm(dtype=x.dtype)(nn.gelu(x))
        fixed = lambda key, shape, dtype=jnp.float32: jnp.asarray(self.bias, dtype)
        bias = nn.initializers.zeros if self.bias is None else fixed
        # In float32: bfloat16 resolves only 0.06 at -14, where the bias of histograms starts.
        return Dense(self.outputs, nn.initializers.orthogonal(0.01), bias)(x.astype(jnp.float32))


def _norm(config: Config) -> nn.RMSNorm:
    return nn.RMSNorm(dtype=jnp.dtype(config.dtype))


class EncoderBlock(nn.Module):
    config: Config

    def setup(self):
        c = self.config
        self.retention = Retention(c.embed_dim, c.heads, c.decay_scale, False, c.form, c.official_groupnorm)
        self.norm1, self.norm2, self.ffn = _norm(c), _norm(c), SwiGLU(c.embed_dim)

    def __call__(self, x, agent_mask, first, carry):
        retained, carry = self.retention(x, x, agent_mask, first, carry)
        y = self.norm1(x + retained)
        return self.norm2(y + self.ffn(y)), carry


class DecoderBlock(nn.Module):
    config: Config

    def setup(self):
        c = self.config
        retention = lambda: Retention(c.embed_dim, c.heads, c.decay_scale, True, c.form, c.official_groupnorm)
        self.self_retention, self.cross_retention = retention(), retention()
        self.norm1, self.norm2, self.norm3 = _norm(c), _norm(c), _norm(c)
        self.ffn = SwiGLU(c.embed_dim)

    def _run(self, self_retention, cross_retention, x, o, carry):
        own, cross = carry
        retained, own = self_retention(x, x, own)
        r = self.norm1(x + retained)
        # The residual of cross-retention is the observation stream.
        retained, cross = cross_retention(o, r, cross)
        y = self.norm2(o + retained)
        return self.norm3(y + self.ffn(y)), (own, cross)

    def __call__(self, x, o, agent_mask, first, carry):
        window = lambda retention: lambda q, source, m: retention(q, source, agent_mask, first, m)
        return self._run(window(self.self_retention), window(self.cross_retention), x, o, carry)

    def token(self, x, o, active, carry):
        token = lambda retention: lambda q, source, m: retention.token(q, source, active, m)
        return self._run(token(self.self_retention), token(self.cross_retention), x, o, carry)

    def decay(self, carry):
        own, cross = carry
        return self.self_retention.decay(own), self.cross_retention.decay(cross)


def _layer(carry, i: int):
    return None if carry is None else carry[:, i]


class Network(nn.Module):
    """policy: width of the policy head; q: width of the Q head; value: whether the encoder has a value head."""

    config: Config
    policy: int = 0
    q: int = 0
    value: bool = False
    q_bias: tuple[float, ...] | None = None

    def setup(self):
        c = self.config
        embed = lambda: Dense(c.embed_dim, nn.initializers.orthogonal(2**0.5), use_bias=False)
        self.norm_observation, self.embed_observation, self.norm_encoder = _norm(c), embed(), _norm(c)
        self.embed_action, self.norm_decoder = embed(), _norm(c)
        self.encoder = [EncoderBlock(c) for _ in range(c.blocks)]
        self.decoder = [DecoderBlock(c) for _ in range(c.blocks)]
        self.policy_head = Head(c.embed_dim, self.policy) if self.policy else None
        self.q_head = Head(c.embed_dim, self.q, self.q_bias) if self.q else None
        self.value_head = Head(c.embed_dim, 1) if self.value else None

    def encode(self, view, agent_mask, first, carry):
        x = nn.gelu(self.embed_observation(self.norm_observation(view)))
        states = []
        for i, block in enumerate(self.encoder):
            x, state = block(self.norm_encoder(x), agent_mask, first, _layer(carry, i))
            states.append(state)
        value = self.value_head(x)[..., 0] if self.value_head else None
        return x, value, jnp.stack(states, 1)

    def _heads(self, x):
        return tuple(head(x) if head else None for head in (self.policy_head, self.q_head))

    def _decode(self, run, tokens, own, cross):
        x, states = nn.gelu(self.embed_action(tokens.astype(self.config.dtype))), []
        for i, block in enumerate(self.decoder):
            if i == 0 or self.config.decoder_norm == "every_block":
                x = self.norm_decoder(x)
            x, state = run(block, x, (_layer(own, i), _layer(cross, i)))
            states.append(state)
        own, cross = (jnp.stack(s, 1) for s in zip(*states, strict=True))
        return self._heads(x), own, cross

    def __call__(self, view, tokens, agent_mask, first, carry):
        encoder, own, cross = (None, None, None) if carry is None else carry
        o, value, encoder = self.encode(view, agent_mask, first, encoder)
        run = lambda block, x, m: block(x, o, agent_mask, first, m)
        (logits, q), own, cross = self._decode(run, tokens, own, cross)
        return Outputs(logits, q, value), SableCarry(encoder, own, cross)

    def decay(self, own, cross):
        states = [block.decay((own[:, i], cross[:, i])) for i, block in enumerate(self.decoder)]
        return tuple(jnp.stack(s, 1) for s in zip(*states, strict=True))

    def token(self, o, tokens, active, own, cross):
        return self._decode(lambda block, x, m: block.token(x, o, active, m), tokens, own, cross)


def previous_actions(
    action: Int[Array, "*b N"], agent_mask: Bool[Array, "*b N"], actions: int
) -> Float[Array, "*b N tokens"]:
    """Returns the input of the decoder: one-hot of the action of the previous active agent, or "start" (index 0)."""
    slots = jnp.where(agent_mask, jnp.arange(action.shape[-1]), -1)
    before = jax.lax.cummax(slots, axis=slots.ndim - 1)
    before = jnp.concatenate([jnp.full_like(before[..., :1], -1), before[..., :-1]], -1)
    chosen = jnp.take_along_axis(action, jnp.maximum(before, 0), axis=-1)
    return jax.nn.one_hot(jnp.where(before < 0, 0, chosen + 1), actions + 1)


class Sable(NamedTuple):
    """The network as pure functions. `module` holds the sizes; `actions` is A."""

    module: Network
    actions: int

    @classmethod
    def make(
        cls, config: Config, dims: Dims, *, q_bins: int = 0, q_bias=None, policy=True, value=False
    ) -> "Sable":
        """Returns the network for these dims. `q_bins`: outputs per action of the Q head (1: scalar)."""
        bias = None if q_bias is None else tuple(float(b) for b in q_bias) * dims.actions
        network = Network(
            config, policy=dims.actions * policy, q=dims.actions * q_bins, value=value, q_bias=bias
        )
        return cls(network, dims.actions)

    def _apply(self, params: Params, *args: Any, method: str | None = None) -> Any:
        return self.module.apply({"params": params}, *args, method=method)

    def init_carry(self, batch_size: int, agents: int = 0) -> SableCarry:
        """Returns the carry at the start of an episode, the same for any number of agents."""
        c = self.module.config
        features = c.embed_dim // c.heads
        zeros = jnp.zeros((batch_size, c.blocks, c.heads, features, features))
        return SableCarry(zeros, zeros, zeros)

    def init(self, key: jax.Array, observation: Observation) -> Params:
        """Returns initial parameters, given an example window [B, T, N, …]."""
        batch, steps, agents = observation.obs.shape[:3]
        tokens = jnp.zeros((batch, steps, agents, self.actions + 1))
        first = jnp.zeros((batch, steps), bool)
        variables = self.module.init(
            key, observation.obs, tokens, observation.agent_mask, first, self.init_carry(batch)
        )
        return variables["params"]

    def window(
        self,
        params: Params,
        observation: Observation,
        action: Int[Array, "B T N"],
        first: Bool[Array, "B T"],
        carry: SableCarry | None = None,
    ) -> tuple[Outputs, SableCarry]:
        """Returns outputs for a window with given actions, Q as [B, T, N, A, bins], and the carry after it."""
        tokens = previous_actions(action, observation.agent_mask, self.actions)
        out, after = self._apply(params, observation.obs, tokens, observation.agent_mask, first, carry)
        return self._shape_q(out), after

    def _shape_q(self, out: Outputs) -> Outputs:
        return out if out.q is None else out._replace(q=out.q.reshape(*out.q.shape[:-1], self.actions, -1))

    def _encode(self, params, carry, observation):
        expand = lambda x: x[:, None]
        first = jnp.zeros((observation.obs.shape[0], 1), bool)
        o, value, encoder = self._apply(
            params,
            expand(observation.obs),
            expand(observation.agent_mask),
            first,
            carry.encoder,
            method="encode",
        )
        return o[:, 0], None if value is None else value[:, 0], encoder

    def act(self, params: Params, carry: SableCarry, observation: Observation, key: jax.Array, choose):
        """Selects actions of one step, agent by agent, with `choose(logits, q, legal, key) -> action [B]`.

        A padded agent does NOOP (0), does not change the carry and is skipped as "previous agent".
        Returns (carry, action [B, N], Outputs [B, N, …]).
        """
        o, value, encoder = self._encode(params, carry, observation)
        apply = lambda method, *args: self._apply(params, *args, method=method)
        own, cross = apply("decay", carry.self_, carry.cross)

        def agent(carry, x):
            own, cross, last = carry
            o_n, legal, active, k = x
            token = jax.nn.one_hot(last, self.actions + 1)
            (logits, q), own, cross = apply("token", o_n, token, active, own, cross)
            out = self._shape_q(Outputs(logits, q, None))
            action = jnp.where(active, choose(out.logits, out.q, legal, k), 0)
            last = jnp.where(active, action + 1, last)
            return (own, cross, last), (action, out.logits, out.q)

        agents_first = lambda x: jnp.moveaxis(x, 1, 0)
        xs = (
            *map(agents_first, (o, observation.action_mask, observation.agent_mask)),
            jax.random.split(key, o.shape[1]),
        )
        start = (own, cross, jnp.zeros(o.shape[0], jnp.int32))
        (own, cross, _), out = jax.lax.scan(agent, start, xs)
        action, logits, q = jax.tree.map(agents_first, out)
        return SableCarry(encoder, own, cross), action, Outputs(logits, q, value)


def sample_policy(logits, q, legal, key, sample_probability):
    """Samples with probability `sample_probability`, else selects the most likely legal action."""
    del q
    key_sample, key_coin = jax.random.split(key)
    logits = jnp.where(legal, logits, masked.NEG_INF)
    sampled = jax.random.categorical(key_sample, logits)
    coin = jax.random.uniform(key_coin, sampled.shape) < sample_probability
    return jnp.where(coin, sampled, logits.argmax(-1)).astype(jnp.int32)


def policy_act(net: Sable, choose=sample_policy):
    """Returns `act` of an algorithm that selects actions from the outputs of one step; see `types.Act`."""

    def act(params, carry, observation, key, sample_probability):
        pick = lambda logits, q, legal, k: choose(logits, q, legal, k, sample_probability)
        carry, action, _ = net.act(params, carry, observation, key, pick)
        return carry, action, {}

    return act
