"""Vector quantisation, by hand."""

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.ops import vq

CODES = jnp.asarray([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]])


def test_the_nearest_code():
    z = jnp.asarray([[0.4, 0.1], [1.5, 0.5], [1.0, 0.0], [-1.0, 3.0]])
    np.testing.assert_array_equal(vq.nearest(z, CODES), [0, 1, 0, 2])
    z = jax.random.normal(jax.random.key(0), (50, 3, 7))
    codes = jax.random.normal(jax.random.key(1), (11, 7))
    distance = np.linalg.norm(np.asarray(z)[..., None, :] - np.asarray(codes), axis=-1)
    np.testing.assert_array_equal(vq.nearest(z, codes), distance.argmin(-1))


def test_gradients_go_straight_through():
    """A loss on the code moves what was quantised by its own gradient at the code, and never the code."""
    z, weight = jnp.asarray([1.5, 0.5]), jnp.asarray([3.0, -1.0])
    loss = lambda z, code: (weight * vq.straight_through(z, code) ** 2).sum()
    value, (to_z, to_code) = jax.value_and_grad(loss, (0, 1))(z, CODES[1])
    assert value == 12.0, "the value is that of the code"
    np.testing.assert_allclose(to_z, 2 * weight * CODES[1])
    assert not to_code.any()


def test_each_embedding_loss_moves_one_side():
    """|(1.5, 0.5) - (2, 0)|^2 = 0.5, a mean of 0.25 over two features."""
    z = jnp.asarray([1.5, 0.5])
    for i, (moved, other) in enumerate(((1, 0), (0, 1))):
        value, grads = jax.value_and_grad(lambda z, e, i=i: vq.embedding_losses(z, e)[i], (0, 1))(z, CODES[1])
        assert value == 0.25
        np.testing.assert_allclose(grads[moved], [0.5, -0.5] if moved else [-0.5, 0.5])
        assert not grads[other].any()


def test_perplexity_counts_the_codes_in_use():
    assert np.isclose(vq.perplexity(jnp.asarray([0.25] * 4 + [0.0] * 4)), 4.0)
    assert np.isclose(vq.perplexity(jnp.asarray([1.0, 0.0])), 1.0)
    np.testing.assert_allclose(vq.perplexity(jnp.asarray([0.5, 0.25, 0.25])), 2**1.5, rtol=1e-6)
    share = vq.usage(jnp.asarray([[0, 2], [2, 2]]), jnp.asarray([[0.5, 0.0], [0.25, 0.25]]), 4)
    np.testing.assert_allclose(share, [0.5, 0, 0.5, 0])


def test_dead_codes_come_back_where_there_are_vectors():
    z = jnp.asarray([[5.0, 5.0], [6.0, 6.0], [7.0, 7.0]])
    weight, share = jnp.asarray([0.5, 0.0, 0.5]), jnp.asarray([0.9, 0.02, 0.08])
    restart = lambda seed, z=z, w=weight: vq.restart_dead(jax.random.key(seed), CODES, share, z, w, 0.1)
    chosen = set()
    for seed in range(16):
        codes, after = restart(seed)
        np.testing.assert_array_equal(codes[jnp.asarray([0, 2])], CODES[jnp.asarray([0, 2])])
        np.testing.assert_allclose(after, [0.9, 1 / 3, 0.08])
        chosen.add(float(codes[1, 0]))
        np.testing.assert_array_equal(codes, restart(seed)[0], "the same key, the same codes")
    assert chosen == {5.0, 7.0}, "drawn from what has weight"
    padded = jnp.concatenate([z[:1], jnp.full((3, 2), 9.0), z[1:]])
    for seed in range(8):
        more = restart(seed, padded, jnp.asarray([0.5, 0.0, 0.0, 0.0, 0.0, 0.5]))
        jax.tree.map(np.testing.assert_array_equal, more, restart(seed))
    alive = vq.restart_dead(jax.random.key(0), CODES, jnp.full(3, 1 / 3), z, weight, 0.1)
    np.testing.assert_array_equal(alive[0], CODES)
