"""Value heads: histograms (HL-Gauss) or scalars."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mtmarl.ops import hl_gauss


class Values(NamedTuple):
    """K `outputs` per value. decode: [..., K] -> [...]; error(outputs [..., K], y [...]) -> [...].

    `bias` [K]: initial bias, with which a new head predicts 0. Targets outside [low, high] are clipped.
    """

    outputs: int
    decode: Callable[[Float[Array, "*b K"]], Float[Array, "*b"]]
    error: Callable[[Float[Array, "*b K"], Float[Array, "*b"]], Float[Array, "*b"]]
    bias: Float[Array, "K"]
    low: float = -jnp.inf
    high: float = jnp.inf

    def clipped(self, y: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns 1 where a target is outside the support, else 0."""
        return ((y < self.low) | (y > self.high)).astype(jnp.float32)


def make(as_histogram: bool, low: float, high: float, bins: int, sigma_ratio: float) -> Values:
    """Returns a histogram head with `bins` bins over [low, high], or a scalar head, which ignores the rest."""
    return histogram(low, high, bins, sigma_ratio) if as_histogram else scalar()


def histogram(low: float, high: float, bins: int, sigma_ratio: float) -> Values:
    """HL-Gauss (Farebrother et al. 2024): the error is the cross-entropy to the histogram of the target."""
    support = hl_gauss.Support(low, high, bins, sigma_ratio)
    return Values(
        outputs=bins,
        decode=lambda x: hl_gauss.decode(x, support),
        error=lambda x, y: hl_gauss.cross_entropy(x, y, support),
        bias=hl_gauss.initial_bias(0.0, support),
        low=low,
        high=high,
    )


def scalar() -> Values:
    """Plain regression: half the squared error."""
    return Values(1, lambda x: x[..., 0], lambda x, y: 0.5 * (x[..., 0] - y) ** 2, jnp.zeros(1))
