"""Vectors of unit length."""

import optax
from jaxtyping import Array, Float

# Shorter vectors are divided by this.
SHORTEST = 1e-6


def unit(x: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
    """x / max(|x|, SHORTEST). Its gradient is finite at 0, where that of a plain norm is NaN."""
    return x / optax.safe_norm(x, SHORTEST, axis=-1, keepdims=True)
