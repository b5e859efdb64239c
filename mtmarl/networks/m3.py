"""The networks of M3 (Meng et al. 2023): actor, task condition, and the latent of a single agent."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtmarl.networks import causal, entities
from mtmarl.types import Entities, Observation, Tokens


@dataclass(frozen=True)
class Config(causal.Config):
    """encoder: reads an observation as one padded vector, or as a set of entities.

    condition: how task features c enter the shared latent p(c) z: by an element-wise gate (as in the paper), FiLM, or
    concatenation and a layer; none: not at all.
    """

    encoder: Literal["padded", "entity"] = "padded"
    condition: Literal["gate", "film", "concat", "none"] = "gate"


class Latents(NamedTuple):
    """Per step and agent: encoding z, conditioned shared latent z_e, and action logits."""

    z: Float[Array, "*b N D"]
    shared: Float[Array, "*b N D"]
    logits: Float[Array, "*b N A"]


def without(view: Float[Array, "*b O"], told: tuple[int, int]) -> Float[Array, "*b P"]:
    """Removes the columns `told[0]` to `told[1]` of an observation."""
    return jnp.concatenate([view[..., : told[0]], view[..., told[1] :]], axis=-1)


class Condition(nn.Module):
    """z_e = p(c) z, conditioned on task features c. Without features it is z."""

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
    """The actor, before and after fine-tuning: encoder, shared latent, condition and action head.

    The head reads the continuous latent. `told`: columns of the task features in an observation. `last`: last actions,
    or entity tokens that include them. latents: returns `Latents`, else logits only, with the same parameters.
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
        c, objects = self.config, None
        if not isinstance(last, Tokens):
            token = causal.Token(c.embed_dim, self.actions, name="token")
            x = token(without(observation.obs, self.told), last)
        else:
            seen = entities.TokenEmbedding(c.embed_dim, name="look")(last)
            count = seen.objects.shape[-2] if self.entities.aimed else 0
            read = entities.Transformer(entities.Config(c.embed_dim, 1, 1), name="read")
            out = read(seen.stacked, seen.mask, 1 + count)
            x, objects = out[..., 0, :], out[..., 1:, :]
        z, cache = causal.Causal(c, name="causal")(x, first, cache)
        shared = nn.Dense(c.embed_dim, name="shared")(z)
        shared = Condition(c.condition, name="condition")(shared, observation.obs[..., slice(*self.told)])
        if objects is None:
            logits = nn.Dense(self.actions, kernel_init=nn.initializers.orthogonal(0.01), name="head")(shared)
        else:
            each = jnp.broadcast_to(shared[..., None, :], objects.shape)
            head = entities.ActionHead(self.entities, False, name="head")
            logits = head(shared, jnp.concatenate([objects, each], axis=-1))
        return Latents(z, shared, logits) if self.latents else logits, cache


class Specific(nn.Module):
    """Returns (mean, log variance) of the agent's own latent z_i."""

    width: int

    @nn.compact
    def __call__(self, z: Float[Array, "*b D"]) -> tuple[Float[Array, "*b W"], Float[Array, "*b W"]]:
        return nn.Dense(self.width, name="mean")(z), nn.Dense(self.width, name="log_variance")(z)
