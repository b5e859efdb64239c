"""Advantages and returns."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def gae(
    reward: Float[Array, "T *b"],
    discount: Float[Array, "T *b"],
    value: Float[Array, "T *b"],
    bootstrap: Float[Array, "*b"],
    lam: float,
) -> Float[Array, "T *b"]:
    """Generalised advantage estimates (Schulman et al. 2016, equation 16).

    `discount[t]` is gamma, or 0 if the transition at t ended the episode; `bootstrap` is the value after the last.
    """

    def backwards(carry, x):
        advantage, next_value = carry
        r_t, discount_t, v_tm1 = x
        delta = r_t + discount_t * next_value - v_tm1
        advantage = delta + discount_t * lam * advantage
        return (advantage, v_tm1), advantage

    # The scan needs one dtype, also if rewards are float64 and values float32.
    dtype = jnp.result_type(reward, discount, value, bootstrap)
    reward, discount, value, bootstrap = (x.astype(dtype) for x in (reward, discount, value, bootstrap))
    start = (jnp.zeros_like(bootstrap), bootstrap)
    return jax.lax.scan(backwards, start, (reward, discount, value), reverse=True)[1]
