"""Token embeddings, attention over sets of tokens, and a transformer whose history token is its memory."""

from dataclasses import dataclass
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mtmarl.networks.entities.inputs import append
from mtmarl.ops import masked
from mtmarl.ranges import Width
from mtmarl.types import Tokens


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
        return Seen(own, objects, allies, append(here, tokens.object_mask, tokens.ally_mask))


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
