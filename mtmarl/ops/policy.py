"""Policy-gradient losses per element. The caller applies weights and sums."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def clipped_surrogate(
    log_prob: Float[Array, "*b"], old_log_prob: Float[Array, "*b"], advantage: Float[Array, "*b"], clip: float
) -> Float[Array, "*b"]:
    """PPO's clipped objective, negated (Schulman et al. 2017, equation 7)."""
    ratio = jnp.exp(log_prob - old_log_prob)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def clipped_value_loss(
    value: Float[Array, "*b"],
    old_value: Float[Array, "*b"],
    target: Float[Array, "*b"],
    clip: float,
    huber_delta: float | None = None,
) -> Float[Array, "*b"]:
    """PPO's clipped value loss: the larger error of the value and the clipped value, squared or Huber."""
    clipped = old_value + jnp.clip(value - old_value, -clip, clip)
    if huber_delta is None:
        return 0.5 * jnp.maximum((value - target) ** 2, (clipped - target) ** 2)
    return jnp.maximum(
        optax.huber_loss(value, target, delta=huber_delta),
        optax.huber_loss(clipped, target, delta=huber_delta),
    )
