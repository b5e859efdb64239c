"""Histograms of values against numbers known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.ops import hl_gauss

SUPPORT = hl_gauss.Support(-1.0, 16.0)


def decode(y):
    return hl_gauss.decode(jnp.log(hl_gauss.encode(jnp.asarray(y), SUPPORT) + 1e-30), SUPPORT)


def test_decodes_to_what_was_encoded():
    y = np.linspace(-1 + 4 * SUPPORT.width, 16 - 4 * SUPPORT.width, 301).astype(np.float32)
    assert np.abs(decode(y) - y).max() < 1e-3 * SUPPORT.width


def test_pull_at_the_bounds():
    """Renormalisation draws a target on the bound inwards, by 0.37 bins with centres on the bounds."""
    assert abs((float(decode(16.0)) - 16.0) / SUPPORT.width + 0.37) < 0.01


@pytest.mark.parametrize("y", [-1e6, -5.0, 0.0, 17.0, 1e6])
def test_finite_and_normalised_everywhere(y):
    p = hl_gauss.encode(jnp.float32(y), SUPPORT)
    np.testing.assert_allclose(p.sum(), 1.0, atol=1e-5)
    loss, grad = jax.value_and_grad(lambda z: hl_gauss.cross_entropy(z, jnp.float32(y), SUPPORT))(
        jnp.zeros(51)
    )
    assert np.isfinite(loss) and np.isfinite(grad).all()
    np.testing.assert_allclose(loss, np.log(51), rtol=1e-5)


def test_targets_outside_count_as_the_bound():
    np.testing.assert_array_equal(
        hl_gauss.encode(jnp.float32(1e6), SUPPORT), hl_gauss.encode(jnp.float32(16), SUPPORT)
    )


def test_initial_value_is_about_zero_and_every_bin_within_reach():
    logits = hl_gauss.initial_bias(0.0, SUPPORT)
    assert abs(float(hl_gauss.decode(logits, SUPPORT))) < 0.025 * (SUPPORT.high - SUPPORT.low)
    assert float(logits.max() - logits.min()) < 7.0
