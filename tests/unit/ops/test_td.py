"""Targets of a team's value, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.ops import td
from tests.batches import make_batch


def test_an_end_is_worth_its_reward_and_a_time_limit_teaches_nothing():
    batch = make_batch(2)
    yes, no = jnp.ones(batch.reward.shape, bool), jnp.zeros(batch.reward.shape, bool)
    batch = batch._replace(
        terminated=no.at[:, 2].set(True), truncated=no.at[:, 3].set(True), time_mask=yes.at[0, 5].set(False)
    )
    value = jnp.arange(24.0).reshape(4, 6)
    y = np.asarray(td.target(batch, 2.0, 0.5, value))
    expected = 2 * np.asarray(batch.reward[:, :-1]) + 0.5 * np.asarray(value[:, 1:])
    expected[:, 2] = 2 * np.asarray(batch.reward[:, 2])
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    known = np.asarray(td.known(batch))
    assert not known[:, 3].any() and known[:, [0, 1, 2]].all()
    np.testing.assert_array_equal(known[:, 4], [False, True, True, True])


def test_best_legal_action():
    q = jnp.asarray([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    legal = jnp.asarray([[False, True, True], [True, False, False], [False, False, False]])
    np.testing.assert_array_equal(td.best_legal(q, legal), [1, 0, 0])


@pytest.mark.parametrize("bounds", [(-0.5, 2.0), (-2.0, 0.5)])
def test_the_largest_return_is_scaled_to_what_is_asked_for(bounds):
    assert td.reward_scale(20.0, bounds) == 10.0
