"""The forms of retention are one function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.networks import retention as r

B, H, T, N, F = 3, 2, 12, 4, 5
KAPPA = r.head_decays(H, 0.8)


def inputs(dtype, seed=0):
    keys = jax.random.split(jax.random.key(seed), 6)
    q, k, v = (jax.random.normal(key, (B, H, T, N, F), dtype) for key in keys[:3])
    carry = jax.random.normal(keys[3], (B, H, F, F), dtype)
    first = jax.random.bernoulli(keys[4], 0.2, (B, T)).at[0].set(False).at[1, 0].set(True)
    mask = jax.random.bernoulli(keys[5], 0.7, (B, 1, 1, N, 1))
    return q, k * mask, v, first, carry


FORMS = {
    "parallel": r.chunked(T),
    "chunks of 4 steps": r.chunked(4),
    "chunks of 3 steps": r.chunked(3),
    "timestep-factored": r.chunked(1),
    "chosen": r.choose("auto", T, N),
}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-4), ("float64", 1e-12)])
def test_equals_recurrent(form, causal, dtype, rtol):
    with jax.enable_x64(dtype == "float64"):
        args = (*inputs(jnp.dtype(dtype)), KAPPA.astype(dtype), causal)
        want, want_carry = r.recurrent(*args)
        got, carry = FORMS[form](*args)
        scale = float(jnp.abs(want).max())
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * scale)
        np.testing.assert_allclose(carry, want_carry, rtol=rtol, atol=rtol * float(jnp.abs(want_carry).max()))


def test_definition_by_hand():
    """One head, two steps, two agents, features of width 1: worked out on paper."""
    one = lambda *x: jnp.asarray(x, jnp.float32).reshape(1, 1, 2, 2, 1)
    q, k, v = one(1, 2, 3, 4), one(1, 1, 2, 1), one(1, 2, 1, 3)
    carry, first, kappa = jnp.full((1, 1, 1, 1), 10.0), jnp.zeros((1, 2), bool), jnp.asarray([0.5])
    full, after = r.recurrent(q, k, v, first, carry, kappa, causal=False)
    # Step 1: 10/2 + 1 + 2 = 8; step 2: 8/2 + 2 + 3 = 9.
    np.testing.assert_allclose(full.ravel(), [8, 16, 27, 36])
    np.testing.assert_allclose(after.ravel(), [9])
    causal, _ = r.recurrent(q, k, v, first, carry, kappa, causal=True)
    np.testing.assert_allclose(causal.ravel(), [6, 16, 18, 36])


def test_nothing_crosses_an_episode_start():
    q, k, v, _, carry = inputs(jnp.float32)
    first = jnp.zeros((B, T), bool).at[:, 5].set(True)
    whole, after = r.chunked(6)(q, k, v, first, carry, KAPPA, True)
    late = [x[:, :, 5:] for x in (q, k, v)]
    alone, alone_after = r.chunked(7)(*late, first[:, 5:], jnp.zeros_like(carry), KAPPA, True)
    np.testing.assert_allclose(whole[:, :, 5:], alone, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(after, alone_after, rtol=1e-4, atol=1e-4)


def test_long_windows_stay_finite():
    kappa = r.head_decays(1, 0.3)
    decay = r.decay_matrix(kappa, jnp.zeros((1, 400), bool))
    assert bool(jnp.isfinite(decay).all())


def test_no_memory_at_all_keeps_the_present():
    decay = r.decay_matrix(jnp.zeros(1), jnp.zeros((1, 3), bool))
    np.testing.assert_array_equal(decay[0, 0], np.eye(4))


@pytest.mark.parametrize(
    ("steps", "agents", "chunk"), [(20, 4, 10), (32, 4, 8), (20, 32, 1), (19, 2, 19), (23, 4, 1)]
)
def test_chunks_divide_the_window(steps, agents, chunk):
    """What is chosen runs, and pairs stay few: a prime number of steps falls back to single steps."""
    shape = (1, 1, steps, agents, 2)
    out, _ = r.choose("auto", steps, agents)(
        *[jnp.ones(shape)] * 3, jnp.zeros((1, steps), bool), jnp.zeros((1, 1, 2, 2)), jnp.ones(1), True
    )
    want, _ = r.chunked(chunk)(
        *[jnp.ones(shape)] * 3, jnp.zeros((1, steps), bool), jnp.zeros((1, 1, 2, 2)), jnp.ones(1), True
    )
    np.testing.assert_allclose(out, want)
