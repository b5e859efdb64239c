"""Expectiles and exponential weights on plain numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.ops.offline import clipped_exponential, expectile_loss


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.9])
def test_expectile_of_zero_and_one_is_tau(tau):
    targets, values = jnp.asarray([0.0, 1.0]), jnp.linspace(0, 1, 1001)
    loss = expectile_loss(targets[:, None] - values, tau).mean(0)
    np.testing.assert_allclose(values[loss.argmin()], tau, atol=1e-3)


def test_weights_are_bounded_and_carry_no_gradient():
    u = jnp.asarray([-1e3, -0.1, 0.0, 0.1, 1e3])
    weight = clipped_exponential(u, 10.0, 100.0)
    np.testing.assert_allclose(weight, [0.0, np.exp(-1), 1.0, np.exp(1), 100.0], rtol=1e-5)
    gradient = jax.grad(lambda x: clipped_exponential(x, 10.0, 100.0).sum())(u)
    assert not gradient.any()
