"""Vector quantisation (VQ-VAE, van den Oord et al. 2017): codes, their losses, and the restart of unused codes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def nearest(z: Float[Array, "*b D"], codebook: Float[Array, "K D"]) -> Int[Array, "*b"]:
    """Returns the index of the nearest code of each vector, the first in a tie."""
    # |z|^2 is the same for all codes.
    distance = (codebook**2).sum(-1) - 2 * z @ codebook.T
    return distance.argmin(-1)


def straight_through(z: Float[Array, "*b D"], code: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
    """Returns `code` with its gradient passed to z (straight-through estimator)."""
    return z + jax.lax.stop_gradient(code - z)


def embedding_losses(
    z: Float[Array, "*b D"], code: Float[Array, "*b D"]
) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
    """(|sg[z] - e|^2, |z - sg[e]|^2) as means over the D features (M3, equation 5, is their sum over them).

    The first trains the codes, the second (commitment) the encoder.
    """
    fixed = jax.lax.stop_gradient
    return ((fixed(z) - code) ** 2).mean(-1), ((z - fixed(code)) ** 2).mean(-1)


def usage(index: Int[Array, "*b"], weight: Float[Array, "*b"], codes: int) -> Float[Array, "K"]:
    """Returns the share of the weight of each code. It sums to 1 if the weights do."""
    return jnp.zeros(codes, weight.dtype).at[index.ravel()].add(weight.ravel())


def perplexity(share: Float[Array, "K"]) -> Float[Array, ""]:
    """Returns exp(entropy), the effective number of codes in use, 1 … K."""
    return jnp.exp(-(share * jnp.log(jnp.maximum(share, 1e-12))).sum())


def restart_dead(
    key: jax.Array,
    codebook: Float[Array, "K D"],
    share: Float[Array, "K"],
    z: Float[Array, "M D"],
    weight: Float[Array, "M"],
    least: float,
) -> tuple[Float[Array, "K D"], Float[Array, "K"]]:
    """Replaces codes whose (running) share is below `least / K` by vectors drawn from z in proportion to their weight.

    Returns the codebook and the shares. A new code gets the share 1 / K, so that it has time to be used. Vectors with
    weight 0 do not change the draws.
    """
    codes = codebook.shape[0]
    dead = share < least / codes
    reached = jnp.cumsum(weight)
    draw = jax.random.uniform(key, (codes,)) * reached[-1]
    at = jnp.minimum(jnp.searchsorted(reached, draw, side="right"), z.shape[0] - 1)
    return jnp.where(dead[:, None], z[at], codebook), jnp.where(dead, 1.0 / codes, share)
