"""Values brought to unit size and back, task by task."""

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.ops import moments

TASK = jnp.asarray([0, 1, 0, 1])
X = jnp.asarray(
    np.random.default_rng(0).normal(size=(4, 5, 2)) * np.asarray([3.0, 0.5, 3.0, 0.5])[:, None, None] + 7
)


def test_what_is_normalised_comes_back_and_nothing_known_changes_nothing():
    everything = jnp.ones(X.shape, bool)
    fresh = moments.start(2)
    np.testing.assert_array_equal(moments.normalise(X, fresh, TASK), X)
    known = moments.update(fresh, X, everything, TASK)
    unit = moments.normalise(X, known, TASK)
    for task in (0, 1):
        np.testing.assert_allclose(np.asarray(unit)[task == TASK].mean(), 0.0, atol=1e-5)
        np.testing.assert_allclose(np.asarray(unit)[task == TASK].std(), 1.0, rtol=1e-4)
    np.testing.assert_allclose(moments.denormalise(unit, known, TASK), X, rtol=1e-5)


def test_averages_forget_and_only_valid_entries_count():
    valid = jnp.asarray(np.random.default_rng(1).random(X.shape) < 0.5).at[1::2].set(False)
    one = moments.update(moments.start(2), X, valid, TASK)
    of = np.asarray(X)[np.asarray(valid)]
    np.testing.assert_allclose(one.mean[0] / one.weight[0], of.mean(), rtol=1e-5)
    assert float(one.weight[1]) == 0.0, "a task without an entry is not known yet"
    many = one
    for _ in range(1000):
        many = jax.jit(moments.update)(many, X + 5, valid, TASK)
    np.testing.assert_allclose(many.mean[0], of.mean() + 5, rtol=1e-3)
