"""The networks of M3 (Meng et al. 2023): what an agent did as a shared code, told the task, and one of its own."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtmarl.networks import causal, entities
from mtmarl.types import Entities, Observation, Tokens


@dataclass(frozen=True)
class Config(causal.Config):
    """encoder: an observation as one padded vector, or as a set of entities (then also what an action aims at is).

    condition: how the task enters the shared latent p(c) z; by a gate (element by element, as in the paper), FiLM, or
    concatenation and a layer over both; none: not at all.
    """

    encoder: Literal["padded", "entity"] = "padded"
    condition: Literal["gate", "film", "concat", "none"] = "gate"


class Latents(NamedTuple):
    """Per step and agent: the encoding z, the shared part of it told the task (z_e), and the logits of its actions."""

    z: Float[Array, "*b N D"]
    shared: Float[Array, "*b N D"]
    logits: Float[Array, "*b N A"]


def without(view: Float[Array, "*b O"], told: tuple[int, int]) -> Float[Array, "*b P"]:
    """An observation without the columns from `told[0]` to `told[1]`."""
    return jnp.concatenate([view[..., : told[0]], view[..., told[1] :]], axis=-1)


class Condition(nn.Module):
    """z_e = p(c) z: the task's features let through what of z matters in it. Without features z stays as it is."""

    kind: Literal["gate", "film", "concat", "none"]

    @nn.compact
    def __call__(self, z: Float[Array, "*b D"], context: Float[Array, "*b C"]) -> Float[Array, "*b D"]:
        if self.kind == "none" or not context.shape[-1]:
            return z
        hidden, width = nn.relu(nn.Dense(64, name="hidden")(context)), z.shape[-1]
        if self.kind == "concat":
            both = jnp.concatenate([z, nn.Dense(width, name="embed")(hidden)], axis=-1)
            return nn.Dense(width, name="join")(nn.relu(nn.Dense(width, name="mix")(both)))
        # A task that nothing is known of leaves z as it is at first.
        z = z * nn.Dense(width, bias_init=nn.initializers.ones, name="gate")(hidden)
        return z + nn.Dense(width, name="shift")(hidden) if self.kind == "film" else z


class Actor(nn.Module):
    """What acts, before and after fine-tuning: encoder, the shared part of the split, condition and action head.

    The head reads the continuous latent; quantisation only shapes it. `told`: which columns of an observation are
    features of the task. `last` are last actions or, for the encoder of entities, the tokens that hold them. latents:
    what it says is `Latents`; else the logits alone, with the same parameters.
    """

    config: Config
    entities: Entities
    actions: int
    told: tuple[int, int]
    latents: bool = True

    @nn.compact
    def __call__(
        self,
        observation: Observation,
        last: Int[Array, "B T N"] | Tokens,
        to_go: None,
        first: Bool[Array, "B T"],
        cache: causal.Cache,
    ) -> tuple[Latents | Float[Array, "B T N A"], causal.Cache]:
        c, targets = self.config, None
        if not isinstance(last, Tokens):
            token = causal.Token(c.embed_dim, self.actions, name="token")
            x = token(without(observation.obs, self.told), last)
        else:
            seen = entities.TokenEmbedding(c.embed_dim, name="look")(last)
            count = seen.targets.shape[-2] if self.entities.aimed else 0
            read = entities.Transformer(entities.Config(c.embed_dim, 1, 1), name="read")
            out = read(seen.stacked, seen.mask, 1 + count)
            x, targets = out[..., 0, :], out[..., 1:, :]
        z, cache = causal.Causal(c, name="causal")(x, first, cache)
        shared = nn.Dense(c.embed_dim, name="shared")(z)
        shared = Condition(c.condition, name="condition")(shared, observation.obs[..., slice(*self.told)])
        if targets is None:
            logits = nn.Dense(self.actions, kernel_init=nn.initializers.orthogonal(0.01), name="head")(shared)
        else:
            each = jnp.broadcast_to(shared[..., None, :], targets.shape)
            head = entities.ActionHead(self.entities, False, name="head")
            logits = head(shared, jnp.concatenate([targets, each], axis=-1))
        return Latents(z, shared, logits) if self.latents else logits, cache


class Specific(nn.Module):
    """(mean, log variance) of the latent of the agent itself, z_i."""

    width: int

    @nn.compact
    def __call__(self, z: Float[Array, "*b D"]) -> tuple[Float[Array, "*b W"], Float[Array, "*b W"]]:
        return nn.Dense(self.width, name="mean")(z), nn.Dense(self.width, name="log_variance")(z)
