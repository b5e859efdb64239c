"""Discrete skills and their divergence from uniform."""

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.ops import skills


def test_divergence_is_zero_at_uniform_and_log_k_at_certainty():
    np.testing.assert_allclose(skills.kl_to_uniform(jnp.full((2, 5), 3.0)), 0.0, atol=1e-6)
    np.testing.assert_allclose(skills.kl_to_uniform(1e4 * jnp.eye(4)), np.log(4), rtol=1e-6)
    p = np.asarray([0.5, 0.25, 0.25])
    np.testing.assert_allclose(skills.kl_to_uniform(jnp.log(p)), (p * np.log(3 * p)).sum(), rtol=1e-5)


def test_saturated_logits_make_no_nan():
    logits = 100.0 * jax.random.normal(jax.random.key(0), (64, 3))
    noise = jax.random.gumbel(jax.random.key(1), logits.shape)

    def loss(x):
        return (skills.kl_to_uniform(x) + (skills.soft_sample(x, noise) ** 2).sum(-1)).sum()

    value, gradient = jax.value_and_grad(loss)(logits)
    assert np.isfinite(value) and np.isfinite(np.asarray(gradient)).all()


def test_samples_follow_the_distribution():
    logits = jnp.asarray([1.0, 0.0, -1.0])
    mask = jnp.ones((400, 10, 5), bool)
    noise = skills.slot_noise(jax.random.key(0), mask, 3)
    sample = skills.soft_sample(jnp.broadcast_to(logits, noise.shape), noise, 0.01)
    np.testing.assert_allclose(sample.sum(-1), 1.0, rtol=1e-5)
    counts = jax.nn.one_hot(sample.argmax(-1), 3).mean((0, 1, 2))
    np.testing.assert_allclose(counts, jax.nn.softmax(logits), atol=0.02)


def test_padding_does_not_change_the_noise_of_the_others():
    active = jnp.asarray([[True, False, True, True, False], [False, True, True, False, True]])[:, None]
    padded = skills.slot_noise(jax.random.key(3), active, 2)
    plain = skills.slot_noise(jax.random.key(3), jnp.ones((2, 1, 3), bool), 2)
    for row in range(2):
        np.testing.assert_array_equal(padded[row, 0][active[row, 0]], plain[row, 0])
    assert len(np.unique(np.asarray(plain))) == plain.size
