"""Retention over time and agents, as Sable uses it (Mahjoub et al. 2025; Sun et al. 2023), in equal forms.

Memory decays once per timestep, never between the agents of a step. Layout of queries, keys and values:
`[B, H, T, N, F]` (batch, heads, time, agents, head features); the memory is `[B, H, F, F]` and knows no N.

`parallel` multiplies out all T*N x T*N pairs; `factored` sums the keys and values of each timestep
first, which costs O(T N F^2) and wins once T*N is well above F; `chunkwise` scans either of them over
chunks of time; `recurrent` walks step by step, as acting does. All of them agree to rounding.
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Heads = Float[Array, "B H T N F"]
Memory = Float[Array, "B H F F"]
Form = Literal["parallel", "factored", "auto"]
# Above this many tokens a window, the T*N x T*N matrix costs more than the F x F states (measured on CPU).
PARALLEL_TOKENS = 256


def head_decays(heads: int, scale: float) -> Float[Array, "H"]:
    """kappa, one decay per head: `scale` * (1 - 2^-5 … 1 - 2^-9)."""
    return scale * (1.0 - jnp.exp(jnp.linspace(jnp.log(1 / 32), jnp.log(1 / 512), heads)))


def decay_matrices(
    kappa: Float[Array, "H"], first: Bool[Array, "B T"]
) -> tuple[Float[Array, "B H T T"], Float[Array, "B H T"]]:
    """D[t, s], what is left at t of what was written at s, and xi[t], what is left of the incoming memory.

    Neither reaches across an episode start (`first`).
    """
    steps = jnp.arange(first.shape[1])
    lag = steps[:, None] - steps[None, :]
    # Clamped before the power: negative lags would overflow float32 and inf * 0 is NaN.
    power = kappa[:, None, None] ** jnp.maximum(lag, 0)
    segment = jnp.cumsum(first, axis=1)
    same = (segment[:, :, None] == segment[:, None, :]) & (lag >= 0)
    xi = kappa[:, None] ** (steps + 1)
    return power * same[:, None], xi * (segment == 0)[:, None]


def _remember(k: Heads, v: Heads, decay: Array, xi: Array, memory: Memory) -> Memory:
    """The memory after the last step: its row of D weighs every token, that of xi the incoming memory."""
    weighted = k * decay[:, :, -1, :, None, None]
    return xi[:, :, -1, None, None] * memory + jnp.einsum("bhtnf,bhtng->bhfg", weighted, v)


def parallel(
    q: Heads, k: Heads, v: Heads, first: Bool[Array, "B T"], memory: Memory, kappa: Array, causal: bool
) -> tuple[Heads, Memory]:
    """All pairs at once. `causal`: an agent sees the agents before it in its own step, else all of them."""
    steps, agents = q.shape[2:4]
    decay, xi = decay_matrices(kappa, first)
    scores = jnp.einsum("bhtnf,bhsjf->bhtnsj", q, k) * decay[:, :, :, None, :, None]
    if causal:
        same_step = jnp.eye(steps, dtype=bool)[:, None, :, None]
        later = ~jnp.tril(jnp.ones((agents, agents), bool))[None, :, None, :]
        scores = jnp.where(same_step & later, 0.0, scores)
    out = jnp.einsum("bhtnsj,bhsjf->bhtnf", scores, v)
    out += xi[..., None, None] * jnp.einsum("bhtnf,bhfg->bhtng", q, memory)
    return out, _remember(k, v, decay, xi, memory)


def factored(
    q: Heads, k: Heads, v: Heads, first: Bool[Array, "B T"], memory: Memory, kappa: Array, causal: bool
) -> tuple[Heads, Memory]:
    """One F x F state per timestep, then attention inside the step only. Linear in N for fixed T."""
    decay, xi = decay_matrices(kappa, first)
    written = jnp.einsum("bhtnf,bhtng->bhtfg", k, v)
    seen = decay * ~jnp.eye(q.shape[2], dtype=bool) if causal else decay
    state = jnp.einsum("bhts,bhsfg->bhtfg", seen, written) + xi[..., None, None] * memory[:, :, None]
    out = jnp.einsum("bhtnf,bhtfg->bhtng", q, state)
    if causal:
        inside = jnp.tril(jnp.einsum("bhtnf,bhtjf->bhtnj", q, k))
        out += jnp.einsum("bhtnj,bhtjg->bhtng", inside, v)
    return out, _remember(k, v, decay, xi, memory)


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


def chunkwise(form: Callable, chunk: int) -> Callable:
    """`form` over chunks of `chunk` timesteps, the memory handed on: cost per token does not grow with T.

    T must be a multiple of the chunk.
    """

    def run(q, k, v, first, memory, kappa, causal):
        batch, heads, steps, agents, features = q.shape
        chunks = steps // chunk

        def body(memory, x):
            out, memory = form(*x, memory, kappa, causal)
            return memory, out

        split = lambda y: jnp.moveaxis(y.reshape(batch, heads, chunks, chunk, agents, features), 2, 0)
        resets = jnp.moveaxis(first.reshape(batch, chunks, chunk), 1, 0)
        memory, out = jax.lax.scan(body, memory, (split(q), split(k), split(v), resets))
        return jnp.moveaxis(out, 0, 2).reshape(q.shape), memory

    return run


def choose(form: Form, steps: int, agents: int) -> Callable:
    """The form to run for a window of this shape; a choice of speed alone."""
    if form == "auto":
        form = "parallel" if steps * agents <= PARALLEL_TOKENS else "factored"
    return {"parallel": parallel, "factored": factored}[form]


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
