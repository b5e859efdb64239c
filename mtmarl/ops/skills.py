"""Latent skills of agents: reparameterised samples and KL divergences."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def slot_noise(
    key: jax.Array, agent_mask: Bool[Array, "B T N"], width: int, draw: Callable = jax.random.gumbel
) -> Float[Array, "B T N K"]:
    """Returns noise per agent, drawn by rank among active agents. Padding does not change the draws."""
    rows, steps, agents = agent_mask.shape
    one = lambda i: draw(jax.random.fold_in(key, i), (rows, steps, width))
    by_rank = jnp.moveaxis(jax.vmap(one)(jnp.arange(agents)), 0, 2)
    rank = jnp.maximum(jnp.cumsum(agent_mask, axis=-1) - 1, 0)
    return jnp.take_along_axis(by_rank, rank[..., None], axis=2)


def soft_sample(
    logits: Float[Array, "*b K"], noise: Float[Array, "*b K"], temperature: float = 1.0
) -> Float[Array, "*b K"]:
    """A Gumbel-softmax sample (Jang et al. 2017, equation 2); with noise 0 the softmax itself."""
    return jax.nn.softmax((logits + noise) / temperature, axis=-1)


def kl_to_uniform(logits: Float[Array, "*b K"]) -> Float[Array, "*b"]:
    """KL(softmax(logits) || uniform) in nats: in 0 … log K, finite for any logits."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return (jnp.exp(log_p) * log_p).sum(-1) + jnp.log(logits.shape[-1])


def kl_to_standard_normal(
    mean: Float[Array, "*b K"], log_variance: Float[Array, "*b K"]
) -> Float[Array, "*b"]:
    """KL(N(mean, variance) || N(0, 1)) in nats, summed over the K independent features."""
    return 0.5 * (mean**2 + jnp.exp(log_variance) - 1 - log_variance).sum(-1)
