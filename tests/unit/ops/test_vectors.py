"""Unit vectors and their gradient at zero."""

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.networks.hissd import Similarity
from mtmarl.ops.vectors import unit


def test_unit_vectors():
    x = jnp.asarray([[3.0, 4.0], [0.0, 0.0], [1e-9, 0.0]])
    np.testing.assert_allclose(unit(x), [[0.6, 0.8], [0, 0], [1e-3, 0]], rtol=1e-6)


def test_the_gradient_at_zero_is_finite():
    gradient = jax.grad(lambda x: unit(x)[0])(jnp.zeros(3))
    np.testing.assert_allclose(gradient, [1e6, 0, 0], rtol=1e-5)
    net = Similarity(0.5)
    rows = jnp.zeros((2, 4))
    params = net.init(jax.random.key(0), rows, rows)
    grads = jax.grad(lambda p, a: net.apply(p, a, rows).sum(), argnums=(0, 1))(params, rows)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
