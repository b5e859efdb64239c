"""InfoNCE by its formula, and who is compared with whom."""

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.ops import contrastive

TASK = jnp.asarray([0, 0, 1, 1, 2])
NEGATIVE = TASK[:, None] != TASK[None, :]
EVERYONE = jnp.ones(5, bool)


def test_loss_by_the_formula():
    alike = jax.random.normal(jax.random.key(0), (5, 5))
    loss, counts = contrastive.info_nce(alike, NEGATIVE, EVERYONE)
    a = np.asarray(alike, np.float64)
    for b in range(5):
        rivals = np.exp(a[b][np.asarray(NEGATIVE[b])]).sum()
        np.testing.assert_allclose(loss[b], -np.log(np.exp(a[b, b]) / (np.exp(a[b, b]) + rivals)), rtol=1e-5)
    assert counts.all()
    loss, _ = contrastive.info_nce(jnp.zeros((5, 5)), NEGATIVE, EVERYONE)
    np.testing.assert_allclose(loss, np.log(1 + np.asarray(NEGATIVE.sum(1))), rtol=1e-6)


def test_the_order_of_rows_does_not_matter():
    alike = jax.random.normal(jax.random.key(0), (5, 5))
    order = jnp.asarray([3, 1, 4, 0, 2])
    loss, _ = contrastive.info_nce(alike, NEGATIVE, EVERYONE)
    again, _ = contrastive.info_nce(alike[order][:, order], NEGATIVE[order][:, order], EVERYONE)
    np.testing.assert_allclose(again, loss[order], rtol=1e-6)


def test_without_other_tasks_there_is_nothing_to_learn():
    alike = jax.random.normal(jax.random.key(0), (5, 5))
    loss, counts = contrastive.info_nce(alike, jnp.zeros((5, 5), bool), EVERYONE)
    assert not counts.any() and not loss.any()
    loss, counts = contrastive.info_nce(alike, NEGATIVE, jnp.asarray([True, True, False, False, False]))
    assert not counts.any() and not loss.any()


def test_two_agents_are_different_and_active_whatever_the_padding():
    active = jax.random.bernoulli(jax.random.key(0), 0.6, (4000, 5))
    one, other = map(np.asarray, contrastive.two_agents(jax.random.key(1), active))
    rows, active = np.arange(4000), np.asarray(active)
    pair = active.sum(1) > 1
    assert (one != other)[pair].all() and active[rows, one][pair].all() and active[rows, other][pair].all()
    full = jnp.ones((4000, 3), bool)
    a, b = map(np.asarray, contrastive.two_agents(jax.random.key(1), full))
    np.testing.assert_allclose(
        np.bincount(3 * a + b, minlength=9)[[1, 2, 3, 5, 6, 7]] / 4000, 1 / 6, atol=0.03
    )
    spread = jnp.zeros((4000, 6), bool).at[:, jnp.asarray([1, 2, 5])].set(True)
    c, d = map(np.asarray, contrastive.two_agents(jax.random.key(1), spread))
    np.testing.assert_array_equal(np.asarray([1, 2, 5])[a], c)
    np.testing.assert_array_equal(np.asarray([1, 2, 5])[b], d)


def test_a_valid_step_is_taken():
    valid = jax.random.bernoulli(jax.random.key(0), 0.5, (1000, 4)).at[0].set(False)
    t = np.asarray(contrastive.one_of(jax.random.key(1), valid))
    there = np.asarray(valid)[np.arange(1000), t]
    assert there[np.asarray(valid).any(1)].all() and t[0] == 0
