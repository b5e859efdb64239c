"""HL-Gauss: values as histograms (Imani & White 2018; Farebrother et al. 2024, section 3.1).

The outermost bin centres lie on the bounds of the support. Renormalisation then biases values near the bounds half as
much as with bin edges on the bounds.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float


class Support(NamedTuple):
    """`bins` centres spaced evenly over [low, high]; sigma is `ratio` bin widths."""

    low: float
    high: float
    bins: int = 51
    ratio: float = 0.75

    @property
    def width(self) -> float:
        return (self.high - self.low) / (self.bins - 1)

    @property
    def centres(self) -> Float[Array, "K"]:
        return jnp.linspace(self.low, self.high, self.bins)


def encode(y: Float[Array, "*b"], support: Support) -> Float[Array, "*b K"]:
    """The histogram of a Gaussian around y, which is clipped to the support first. Sums to 1."""
    y = jnp.clip(y, support.low, support.high)
    # In units of bins: float32 keeps its precision at any scale of returns.
    position = (y - support.low) / support.width
    edges = jnp.arange(support.bins + 1) - 0.5
    cdf = norm.cdf((edges - position[..., None]) / support.ratio)
    mass = cdf[..., 1:] - cdf[..., :-1]
    return mass / mass.sum(-1, keepdims=True)


def decode(logits: Float[Array, "*b K"], support: Support) -> Float[Array, "*b"]:
    """The mean of the histogram."""
    return jax.nn.softmax(logits, axis=-1) @ support.centres


def cross_entropy(
    logits: Float[Array, "*b K"], y: Float[Array, "*b"], support: Support
) -> Float[Array, "*b"]:
    """The cross-entropy between the histogram of y and the predicted one, in nats."""
    return -(encode(y, support) * jax.nn.log_softmax(logits, axis=-1)).sum(-1)


def initial_bias(value: float, support: Support) -> Float[Array, "K"]:
    """Returns logits that decode to about `value`. Without them a new critic predicts the middle of the support.

    Every bin gets some mass, which shifts the mean by about 2% of the support. With 1e-6 instead, a bin needs hundreds
    of updates more until it is predicted.
    """
    return jnp.log(encode(jnp.asarray(value, jnp.float32), support) + 1e-3)
