"""Retention over time and agents, as in Sable (Mahjoub et al. 2025; Sun et al. 2023), in equivalent forms.

The state decays once per timestep, not between the agents of a step. Queries, keys and values are `[B, H, T, N, F]`
(batch, heads, time, agents, head features). The state is `[B, H, F, F]` and does not depend on N.

`recurrent` goes step by step and is the reference. `chunked` computes windows: all pairs of tokens within a chunk of
time, and one F x F state between chunks. One chunk of all steps is the parallel form of the papers.
"""

import math
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Heads = Float[Array, "B H T N F"]
RetentionCarry = Float[Array, "B H F F"]
Form = Literal["auto", "parallel", "factored"]
# Pairs cost tokens x chunk, states F x F a chunk; around this many tokens a chunk both are cheap (measured on CPU).
CHUNK_TOKENS = 48


def head_decays(heads: int, scale: float) -> Float[Array, "H"]:
    """kappa, one decay per head: `scale` * (1 - 2^-5 … 1 - 2^-9)."""
    return scale * (1.0 - jnp.exp(jnp.linspace(jnp.log(1 / 32), jnp.log(1 / 512), heads)))


def decay_matrix(kappa: Float[Array, "H"], first: Bool[Array, "B T"]) -> Float[Array, "B H T+1 T+1"]:
    """Returns the decay from step s to step t. Index 0 is the incoming state, index t + 1 step t.

    It is 0 across an episode start (`first`).
    """
    steps = jnp.arange(first.shape[1] + 1)
    lag = steps[:, None] - steps[None, :]
    # Clamped before the power: negative lags would overflow float32 and inf * 0 is NaN.
    power = kappa[:, None, None] ** jnp.maximum(lag, 0)
    segment = jnp.pad(jnp.cumsum(first, axis=1), ((0, 0), (1, 0)))
    same = (segment[:, :, None] == segment[:, None, :]) & (lag >= 0)
    return power * same[:, None]


def chunked(chunk: int) -> Callable:
    """Retention in chunks of `chunk` timesteps, which must divide T, all chunks in parallel.

    Products use the dtype of the queries; sums are in float32 or wider.
    """

    def run(
        q: Heads,
        k: Heads,
        v: Heads,
        first: Bool[Array, "B T"],
        carry: RetentionCarry | None,
        kappa: Array,
        causal: bool,
    ) -> tuple[Heads, RetentionCarry]:
        batch, heads, steps, agents, features = q.shape
        chunks, tokens = steps // chunk, chunk * agents
        wide = jnp.promote_types(q.dtype, jnp.float32)
        product = lambda spec, *x: jnp.einsum(
            spec, *(y.astype(q.dtype) for y in x), preferred_element_type=wide
        )
        per_chunk = lambda x: x.reshape(batch, heads, chunks, tokens, features)
        q, k, v = per_chunk(q), per_chunk(k), per_chunk(v)
        decay = decay_matrix(kappa, first)
        ends = jnp.arange(chunks + 1) * chunk
        own_chunk = lambda x, axis: jnp.moveaxis(jnp.diagonal(x, axis1=2, axis2=axis), -1, 2)
        inside = own_chunk(decay[:, :, 1:, 1:].reshape(batch, heads, chunks, chunk, chunks, chunk), 4)
        since_start = own_chunk(decay[:, :, 1:, ends[:-1]].reshape(batch, heads, chunks, chunk, chunks), 4)
        to_tokens = lambda x: jnp.repeat(x, agents, axis=-1)[..., None]

        weight = inside[:, :, :, :, None, :, None]
        if causal:  # An agent sees the agents before it in its own step, else all of them.
            same_step = jnp.eye(chunk, dtype=bool)[:, None, :, None]
            weight = weight * ~(same_step & jnp.triu(jnp.ones((agents, agents), bool), 1)[None, :, None, :])
        weight = jnp.broadcast_to(weight, (batch, heads, chunks, chunk, agents, chunk, agents))
        weight = weight.reshape(batch, heads, chunks, tokens, tokens)
        out = product("bhcij,bhcjf->bhcif", product("bhcif,bhcjf->bhcij", q, k) * weight, v)

        # What each chunk writes, preceded by the incoming memory, and what is left of it at the start of each chunk.
        written = product("bhcif,bhcig->bhcfg", k * to_tokens(inside[:, :, :, -1]), v)
        skip = 1 if carry is None else 0  # From no memory the first chunk has nothing to read.
        if carry is not None:
            written = jnp.concatenate([carry[:, :, None].astype(wide), written], axis=2)
        left = decay[:, :, :, ends[skip:]]
        if chunks > skip:
            states = jnp.einsum("bhde,bhefg->bhdfg", left[:, :, ends[skip:-1]], written)
            read = product("bhcif,bhcfg->bhcig", q[:, :, skip:], states)
            read = to_tokens(since_start[:, :, skip:]) * read
            out += jnp.pad(read, ((0, 0), (0, 0), (skip, 0), (0, 0), (0, 0)))
        after = jnp.einsum("bhe,bhefg->bhfg", left[:, :, -1], written)
        return out.reshape(batch, heads, steps, agents, features), after

    return run


def recurrent(
    q: Heads, k: Heads, v: Heads, first: Bool[Array, "B T"], carry: RetentionCarry, kappa: Array, causal: bool
) -> tuple[Heads, RetentionCarry]:
    """Retention step by step and, if causal, agent by agent: the reference for the other forms."""

    def step(carry, x):
        q_t, k_t, v_t, first_t = x
        carry = jnp.where(first_t[:, None, None, None], 0.0, kappa[:, None, None] * carry)

        def write(carry, token):
            q_n, k_n, v_n = token
            carry, out = retain_token(q_n, k_n, v_n, carry)
            return carry, out

        agents_first = lambda y: jnp.moveaxis(y, 2, 0)
        if causal:
            carry, out = jax.lax.scan(write, carry, jax.tree.map(agents_first, (q_t, k_t, v_t)))
            return carry, jnp.moveaxis(out, 0, 2)
        carry += jnp.einsum("bhnf,bhng->bhfg", k_t, v_t)
        return carry, jnp.einsum("bhnf,bhfg->bhng", q_t, carry)

    time_first = lambda y: jnp.moveaxis(y, 2, 0)
    carry, out = jax.lax.scan(step, carry, (*map(time_first, (q, k, v)), first.T))
    return jnp.moveaxis(out, 0, 2), carry


def retain_token(
    q: Float[Array, "B H F"], k: Float[Array, "B H F"], v: Float[Array, "B H F"], carry: RetentionCarry
) -> tuple[RetentionCarry, Float[Array, "B H F"]]:
    """One agent of one step: writes, then reads. The state must have been decayed for this step."""
    carry = carry + k[..., :, None] * v[..., None, :]
    return carry, jnp.einsum("bhf,bhfg->bhg", q, carry)


def choose(form: Form, steps: int, agents: int) -> Callable:
    """Returns the fastest form for a window of this shape."""
    if form == "parallel":
        return chunked(steps)
    longest = 1 if form == "factored" else max(1, CHUNK_TOKENS // agents)
    return chunked(max(c for c in range(1, longest + 1) if steps % c == 0))


class Kernel(nn.Module):
    """The kernel of a linear map as an array, for `project`."""

    shape: tuple[int, ...]
    init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self) -> Float[Array, "E ..."]:
        flat = (self.shape[0], math.prod(self.shape[1:]))
        return self.param("kernel", lambda key: self.init(key, flat).reshape(self.shape))


@jax.custom_vjp
def standardise(x: Float[Array, "*b F"]) -> Float[Array, "*b F"]:
    """Normalises the last axis to mean 0 and variance 1. The closed-form gradient needs fewer passes over the data."""
    return _standardise_forward(x)[0]


def _standardise_forward(x):
    x = x - x.mean(-1, keepdims=True)
    scale = jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return x * scale, (x * scale, scale)


def _standardise_backward(saved, error):
    y, scale = saved
    along_y = (error * y).mean(-1, keepdims=True)
    return (scale * (error - error.mean(-1, keepdims=True) - y * along_y),)


standardise.defvjp(_standardise_forward, _standardise_backward)


@jax.custom_vjp
def product(x: Float[Array, "*b E"], kernel: Float[Array, "E F"]) -> Float[Array, "*b F"]:
    """Returns x @ kernel. Explicit gradients: XLA transposes a copy of the error on CPU otherwise, 5 x slower."""
    return x @ kernel


def _product_forward(x, kernel):
    return x @ kernel, (x, kernel)


def _product_backward(saved, error):
    x, kernel = saved
    rows = lambda y: y.reshape(-1, y.shape[-1])
    of_kernel = jnp.einsum("be,bf->ef", rows(x), rows(error), preferred_element_type=jnp.float32)
    return error @ kernel.T, of_kernel.astype(kernel.dtype)


product.defvjp(_product_forward, _product_backward)


def project(x: Float[Array, "*b E"], *kernels: Float[Array, "E ..."]) -> list[Array]:
    """Applies several linear maps to one input in one product, in the dtype of the input."""
    flat = [k.reshape(k.shape[0], -1) for k in kernels]
    borders = [sum(k.shape[1] for k in flat[: i + 1]) for i in range(len(flat) - 1)]
    joined = product(x, jnp.concatenate(flat, axis=1).astype(x.dtype))
    parts = jnp.split(joined, borders, axis=-1)
    return [y.reshape(*x.shape[:-1], *k.shape[1:]) for y, k in zip(parts, kernels, strict=True)]


class Retention(nn.Module):
    """Multi-scale retention with group norm and gate (Sun et al. 2023, equation 8).

    Keys, values and the gate use one stream, queries the same or another. As in the released Sable, the gate uses the
    key stream, which holds actions in the decoder's cross-retention. The norm is per token and head, so agents stay
    separate. `official_groupnorm` splits each head into H groups, as the released code does (E divisible by H^2).
    """

    embed_dim: int
    heads: int
    decay_scale: float
    causal: bool
    form: Form = "auto"
    official_groupnorm: bool = False

    def setup(self):
        features = self.embed_dim // self.heads
        self.query, self.key, self.value = (Kernel((self.embed_dim, self.heads, features)) for _ in range(3))
        self.gate, self.out = (Kernel((self.embed_dim, self.embed_dim)) for _ in range(2))
        self.scale = self.param("scale", nn.initializers.ones, (features,))
        self.bias = self.param("bias", nn.initializers.zeros, (features,))

    def _project(self, query: Float[Array, "*b E"], source: Float[Array, "*b E"]) -> list[Array]:
        """Returns queries, keys and values [*b, H, F], and the gate [*b, E]."""
        of_source = self.key(), self.value(), self.gate()
        if query is source:
            return project(source, self.query(), *of_source)
        return [*project(query, self.query()), *project(source, *of_source)]

    def _finish(self, retained: Float[Array, "*b H F"], gate: Float[Array, "*b E"]) -> Float[Array, "*b E"]:
        features = self.embed_dim // self.heads
        groups = self.heads if self.official_groupnorm else 1
        x = retained.reshape(*retained.shape[:-1], groups, features // groups)
        x = (standardise(x).reshape(retained.shape) * self.scale + self.bias).astype(gate.dtype)
        return project(nn.swish(gate) * x.reshape(gate.shape), self.out())[0]

    def __call__(
        self,
        query: Float[Array, "B T N E"],
        source: Float[Array, "B T N E"],
        agent_mask: Bool[Array, "B T N"],
        first: Bool[Array, "B T"],
        carry: RetentionCarry | None,
    ) -> tuple[Float[Array, "B T N E"], RetentionCarry]:
        """Retention over a window. No carry: zeros. A masked agent writes nothing, because its key is zero."""
        q, k, v, gate = self._project(query, source)
        to_heads = lambda x: jnp.moveaxis(x, 3, 1)
        form = choose(self.form, *query.shape[1:3])
        kappa = head_decays(self.heads, self.decay_scale)
        k = k * agent_mask[..., None, None]
        out, after = form(to_heads(q), to_heads(k), to_heads(v), first, carry, kappa, self.causal)
        return self._finish(jnp.moveaxis(out, 1, 3), gate), after

    def decay(self, carry: RetentionCarry) -> RetentionCarry:
        """Decays the state, once per timestep, before the first token."""
        return head_decays(self.heads, self.decay_scale)[:, None, None] * carry

    def token(
        self,
        query: Float[Array, "B E"],
        source: Float[Array, "B E"],
        active: Bool[Array, "B"],
        carry: RetentionCarry,
    ) -> tuple[Float[Array, "B E"], RetentionCarry]:
        """Retention of one agent in the current step, for acting."""
        q, k, v, gate = self._project(query, source)
        carry, out = retain_token(q, k * active[:, None, None], v, carry)
        return self._finish(out, gate), carry
