"""Masked reductions, weights and distributions."""

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.ops import masked
from mtmarl.ops.offline import counterfactual_baseline, icq_weights
from mtmarl.ops.policy import clipped_surrogate, clipped_value_loss
from mtmarl.ops.returns import gae


def test_mean_counts_only_what_is_valid():
    assert float(masked.mean(jnp.asarray([1.0, 2.0, 9.0]), jnp.asarray([True, True, False]))) == 1.5
    assert float(masked.mean(jnp.ones(3), jnp.zeros(3, bool))) == 0.0


def test_every_task_weighs_the_same():
    valid = jnp.asarray([[True, True], [True, False], [True, True], [False, False]])
    w = masked.task_weights(valid, jnp.asarray([0, 0, 1, 2]), 3)
    np.testing.assert_allclose(w, [[1 / 6, 1 / 6], [1 / 6, 0], [1 / 4, 1 / 4], [0, 0]], rtol=1e-6)


def test_illegal_actions_have_no_probability():
    log_prob = masked.log_softmax(jnp.asarray([1.0, 5.0, 1.0]), jnp.asarray([True, False, True]))
    np.testing.assert_allclose(jnp.exp(log_prob), [0.5, 0, 0.5], atol=1e-7)
    np.testing.assert_allclose(masked.entropy(log_prob), np.log(2), rtol=1e-6)
    grad = jax.grad(lambda z: masked.entropy(masked.log_softmax(z, jnp.asarray([True, False, False]))))(
        jnp.ones(3)
    )
    assert np.isfinite(grad).all()


def test_gae_by_hand():
    advantage = gae(
        jnp.asarray([1.0, 0.0]), jnp.asarray([0.5, 0.5]), jnp.asarray([2.0, 4.0]), jnp.float32(6.0), 0.5
    )
    # Second step: 0 + 0.5 * 6 - 4 = -1. First: 1 + 0.5 * 4 - 2 = 1, plus 0.25 * -1.
    np.testing.assert_allclose(advantage, [0.75, -1.0])


def test_ppo_terms_by_hand():
    half = jnp.log(jnp.asarray([0.5, 2.0, 2.0]))
    np.testing.assert_allclose(
        clipped_surrogate(half, jnp.zeros(3), jnp.asarray([1.0, 1.0, -1.0]), 0.2),
        [-0.5, -1.2, 2.0],
        rtol=1e-6,
    )
    np.testing.assert_allclose(clipped_value_loss(jnp.ones(1), jnp.zeros(1), jnp.full(1, 2.0), 0.2), [1.62])


def test_icq_weights_have_mean_one_in_their_group():
    score = jax.random.normal(jax.random.key(0), (6, 3, 2)) * 5
    valid = jax.random.bernoulli(jax.random.key(1), 0.7, score.shape).at[0].set(True)
    task = jnp.asarray([0, 0, 1, 1, 2, 2])
    w = icq_weights(score, valid, task, 3, 0.5)
    for k in range(3):
        rows = np.asarray(task) == k
        np.testing.assert_allclose(w[rows].sum(), valid[rows].sum(), rtol=1e-4)
    assert not np.asarray(w)[~np.asarray(valid)].any()
    by_position = icq_weights(score, valid, task, 3, 0.5, "position")
    np.testing.assert_allclose(by_position.sum(0), valid.sum(0), rtol=1e-4)
    assert float(icq_weights(score, valid, task, 3, 0.01, "awr").max()) <= 20.0


def test_icq_weights_are_softmax_times_count():
    score = jnp.asarray([0.0, 1.0]).reshape(2, 1, 1)
    w = icq_weights(score, jnp.ones((2, 1, 1), bool), jnp.zeros(2, jnp.int32), 1, 0.5)
    np.testing.assert_allclose(w.ravel(), 2 * jax.nn.softmax(jnp.asarray([0.0, 2.0])), rtol=1e-6)


def test_counterfactual_baseline_by_hand():
    legal = jnp.asarray([True, True, False])
    log_prob = masked.log_softmax(jnp.zeros(3), legal)
    assert float(counterfactual_baseline(log_prob, jnp.asarray([1.0, 3.0, 1e30]), legal)) == 2.0
