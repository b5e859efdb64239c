"""Two ways to read values out of a Q head and to train them: as histograms (HL-Gauss) or as plain numbers."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mtmarl.ops import hl_gauss


class Values(NamedTuple):
    """K `outputs` per value. decode: [..., K] -> [...]; error(outputs [..., K], y [...]) -> [...].

    `bias` [K]: what the outputs start from, so that a fresh head says 0. Targets outside [low, high] are clipped.
    """

    outputs: int
    decode: Callable[[Float[Array, "*b K"]], Float[Array, "*b"]]
    error: Callable[[Float[Array, "*b K"], Float[Array, "*b"]], Float[Array, "*b"]]
    bias: Float[Array, "K"]
    low: float = -jnp.inf
    high: float = jnp.inf

    def clipped(self, y: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """1 where a target falls outside the support."""
        return ((y < self.low) | (y > self.high)).astype(jnp.float32)


def make(as_histogram: bool, low: float, high: float, bins: int, sigma_ratio: float) -> Values:
    """Histograms of `bins` bins over [low, high], or numbers, for which the rest does not matter."""
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
