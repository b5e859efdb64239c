"""Retention over time and agents, as Sable uses it (Mahjoub et al. 2025; Sun et al. 2023), in equal forms.

Memory decays once per timestep, never between the agents of a step. Layout of queries, keys and values:
`[B, H, T, N, F]` (batch, heads, time, agents, head features); the memory is `[B, H, F, F]` and knows no N.

`recurrent` walks step by step, as acting does, and defines what is meant. `chunked` is how windows are computed:
inside a chunk of time all pairs of tokens at once, between chunks through one F x F state each. One chunk of all
steps is the parallel form of the papers, chunks of one step the timestep-factored one.
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Heads = Float[Array, "B H T N F"]
Memory = Float[Array, "B H F F"]
Form = Literal["auto", "parallel", "factored"]
# Pairs cost tokens x chunk, states F x F a chunk; around this many tokens a chunk both are cheap (measured on CPU).
CHUNK_TOKENS = 48


def head_decays(heads: int, scale: float) -> Float[Array, "H"]:
    """kappa, one decay per head: `scale` * (1 - 2^-5 … 1 - 2^-9)."""
    return scale * (1.0 - jnp.exp(jnp.linspace(jnp.log(1 / 32), jnp.log(1 / 512), heads)))


def decay_matrix(kappa: Float[Array, "H"], first: Bool[Array, "B T"]) -> Float[Array, "B H T+1 T+1"]:
    """What is left at t of what was written at s. Index 0 is the incoming memory, index t + 1 step t.

    Nothing reaches across an episode start (`first`).
    """
    steps = jnp.arange(first.shape[1] + 1)
    lag = steps[:, None] - steps[None, :]
    # Clamped before the power: negative lags would overflow float32 and inf * 0 is NaN.
    power = kappa[:, None, None] ** jnp.maximum(lag, 0)
    segment = jnp.pad(jnp.cumsum(first, axis=1), ((0, 0), (1, 0)))
    same = (segment[:, :, None] == segment[:, None, :]) & (lag >= 0)
    return power * same[:, None]


def chunked(chunk: int) -> Callable:
    """Retention in chunks of `chunk` timesteps, which must divide T. Without a loop: all chunks at once."""

    def run(
        q: Heads, k: Heads, v: Heads, first: Bool[Array, "B T"], memory: Memory, kappa: Array, causal: bool
    ) -> tuple[Heads, Memory]:
        batch, heads, steps, agents, features = q.shape
        chunks, tokens = steps // chunk, chunk * agents
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
        out = jnp.einsum("bhcij,bhcjf->bhcif", jnp.einsum("bhcif,bhcjf->bhcij", q, k) * weight, v)

        written = jnp.einsum("bhcif,bhcig->bhcfg", k * to_tokens(inside[:, :, :, -1]), v)
        written = jnp.concatenate([memory[:, :, None], written], axis=2)
        states = jnp.einsum("bhde,bhefg->bhdfg", decay[:, :, ends][..., ends], written)
        out += to_tokens(since_start) * jnp.einsum("bhcif,bhcfg->bhcig", q, states[:, :, :-1])
        return out.reshape(batch, heads, steps, agents, features), states[:, :, -1]

    return run


def recurrent(
    q: Heads, k: Heads, v: Heads, first: Bool[Array, "B T"], memory: Memory, kappa: Array, causal: bool
) -> tuple[Heads, Memory]:
    """Timestep by timestep and, where causal, agent by agent: the definition that the other forms must meet."""

    def step(memory, x):
        q_t, k_t, v_t, first_t = x
        memory = jnp.where(first_t[:, None, None, None], 0.0, kappa[:, None, None] * memory)

        def write(memory, token):
            q_n, k_n, v_n = token
            memory, out = retain_token(q_n, k_n, v_n, memory)
            return memory, out

        agents_first = lambda y: jnp.moveaxis(y, 2, 0)
        if causal:
            memory, out = jax.lax.scan(write, memory, jax.tree.map(agents_first, (q_t, k_t, v_t)))
            return memory, jnp.moveaxis(out, 0, 2)
        memory += jnp.einsum("bhnf,bhng->bhfg", k_t, v_t)
        return memory, jnp.einsum("bhnf,bhfg->bhng", q_t, memory)

    time_first = lambda y: jnp.moveaxis(y, 2, 0)
    memory, out = jax.lax.scan(step, memory, (*map(time_first, (q, k, v)), first.T))
    return jnp.moveaxis(out, 0, 2), memory


def retain_token(
    q: Float[Array, "B H F"], k: Float[Array, "B H F"], v: Float[Array, "B H F"], memory: Memory
) -> tuple[Memory, Float[Array, "B H F"]]:
    """One agent of one step: write, then read. The memory has been decayed for this step before."""
    memory = memory + k[..., :, None] * v[..., None, :]
    return memory, jnp.einsum("bhf,bhfg->bhg", q, memory)


def choose(form: Form, steps: int, agents: int) -> Callable:
    """The form to run for a window of this shape; a choice of speed alone."""
    if form == "parallel":
        return chunked(steps)
    longest = 1 if form == "factored" else max(1, CHUNK_TOKENS // agents)
    return chunked(max(c for c in range(1, longest + 1) if steps % c == 0))


class Retention(nn.Module):
    """Multi-scale retention with group norm and gate (Sun et al. 2023, equation 8).

    The gate reads the key stream, as the released Sable does: in the decoder's cross block it sees actions.
    The norm is per token and head, so nothing leaks between agents; `official_groupnorm` splits each head into
    H groups as the released code does by accident (it needs E divisible by H^2).
    """

    embed_dim: int
    heads: int
    decay_scale: float
    causal: bool
    form: Form = "auto"
    official_groupnorm: bool = False

    def setup(self):
        features = self.embed_dim // self.heads
        project = lambda: nn.DenseGeneral(
            (self.heads, features), use_bias=False, kernel_init=nn.initializers.lecun_normal()
        )
        self.query, self.key, self.value = project(), project(), project()
        self.gate = nn.Dense(self.embed_dim, use_bias=False, kernel_init=nn.initializers.lecun_normal())
        self.out = nn.Dense(self.embed_dim, use_bias=False, kernel_init=nn.initializers.lecun_normal())
        self.scale = self.param("scale", nn.initializers.ones, (features,))
        self.bias = self.param("bias", nn.initializers.zeros, (features,))

    def _finish(self, retained: Float[Array, "*b H F"], key: Float[Array, "*b E"]) -> Float[Array, "*b E"]:
        features = self.embed_dim // self.heads
        groups = self.heads if self.official_groupnorm else 1
        x = retained.reshape(*retained.shape[:-1], groups, features // groups)
        x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-6)
        x = x.reshape(retained.shape) * self.scale + self.bias
        return self.out(nn.swish(self.gate(key)) * x.reshape(key.shape))

    def __call__(
        self,
        query: Float[Array, "B T N E"],
        key: Float[Array, "B T N E"],
        value: Float[Array, "B T N E"],
        agent_mask: Bool[Array, "B T N"],
        first: Bool[Array, "B T"],
        memory: Memory,
    ) -> tuple[Float[Array, "B T N E"], Memory]:
        """A window. A masked agent writes nothing: its key is zero."""
        to_heads = lambda x: jnp.moveaxis(x, 3, 1)
        k = self.key(key) * agent_mask[..., None, None]
        form = choose(self.form, *query.shape[1:3])
        kappa = head_decays(self.heads, self.decay_scale)
        out, memory = form(
            to_heads(self.query(query)),
            to_heads(k),
            to_heads(self.value(value)),
            first,
            memory,
            kappa,
            self.causal,
        )
        return self._finish(jnp.moveaxis(out, 1, 3), key), memory

    def decay(self, memory: Memory) -> Memory:
        """Once per timestep, before its first token."""
        return head_decays(self.heads, self.decay_scale)[:, None, None] * memory

    def token(
        self,
        query: Float[Array, "B E"],
        key: Float[Array, "B E"],
        value: Float[Array, "B E"],
        active: Bool[Array, "B"],
        memory: Memory,
    ) -> tuple[Float[Array, "B E"], Memory]:
        """One agent of the current step, while acting."""
        k = self.key(key) * active[:, None, None]
        memory, out = retain_token(self.query(query), k, self.value(value), memory)
        return self._finish(out, key), memory
