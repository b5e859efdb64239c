"""The Sable network: sizes, masks, and acting equal to training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.networks import retention, sable
from mtmarl.types import Dims, Observation

DIMS = Dims(agents=4, obs=7, actions=5, horizon=20, tasks=2)
CONFIG = sable.Config(embed_dim=16, heads=2, blocks=2, decay_scale=0.8)


def make(seed=0, config=CONFIG, **options):
    net = sable.Sable.make(config, DIMS, q_bins=3, value=True, **options)
    keys = jax.random.split(jax.random.key(seed), 6)
    batch, steps, agents = 3, 6, 4
    observation = Observation(
        jax.random.normal(keys[0], (batch, steps, agents, 7)),
        jnp.ones((batch, steps, agents, 5), bool),
        jnp.broadcast_to(jnp.asarray([True, False, True, True]), (batch, steps, agents)),
    )
    action = jax.random.randint(keys[1], (batch, steps, agents), 0, 5)
    first = jax.random.bernoulli(keys[2], 0.3, (batch, steps))
    params = jax.jit(net.init)(keys[3], observation)
    # Small output layers would hide differences.
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(keys[4], p.shape), params)
    carry = jax.tree.map(lambda m: jax.random.normal(keys[5], m.shape), net.init_carry(batch))
    return net, params, observation, action, first, carry


def test_parameter_count_of_the_paper():
    """MT paper, section 3.4: 116k parameters at embed_dim 64."""
    dims = Dims(agents=6, obs=66, actions=5, horizon=500)
    net = sable.Sable.make(sable.Config(64, 4, 1, 0.5), dims, q_bins=51)
    observation = Observation(
        jnp.zeros((1, 2, 3, 66)), jnp.ones((1, 2, 3, 5), bool), jnp.ones((1, 2, 3), bool)
    )
    shapes = jax.eval_shape(net.init, jax.random.key(0), observation)
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 116_582


def active(x, mask):
    return np.asarray(x)[np.asarray(mask)]


def test_padded_agents_change_nothing():
    net, params, observation, action, first, carry = make()
    run = jax.jit(
        lambda view, action: net.window(params, observation._replace(obs=view), action, first, carry)
    )
    out, after = run(observation.obs, action)
    hidden = ~observation.agent_mask
    noisy = jnp.where(hidden[..., None], 99.0, observation.obs)
    other, other_after = run(noisy, jnp.where(hidden, 4, action))
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(active(a, observation.agent_mask), active(b, observation.agent_mask))
    jax.tree.map(np.testing.assert_array_equal, after, other_after)


def test_padded_observations_get_no_gradient():
    net, params, observation, action, first, carry = make()

    def total(view):
        out, _ = net.window(params, observation._replace(obs=view), action, first, carry)
        weigh = lambda x: (
            x * observation.agent_mask.reshape(*observation.agent_mask.shape, *[1] * (x.ndim - 3))
        ).sum()
        return sum(weigh(x) for x in jax.tree.leaves(out))

    grad = jax.grad(total)(observation.obs)
    assert not np.asarray(grad)[~np.asarray(observation.agent_mask)].any()
    assert active(grad, observation.agent_mask).any(axis=-1).all()


def test_equals_the_team_without_padding():
    net, params, observation, action, first, carry = make()
    keep = jnp.asarray([0, 2, 3])
    small = jax.tree.map(lambda x: x[:, :, keep], observation)
    out, after = net.window(params, observation, action, first, carry)
    alone, alone_after = net.window(params, small, action[:, :, keep], first, carry)
    pairs = [(a[:, :, keep], b) for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(alone), strict=True)]
    for a, b in pairs + list(zip(after, alone_after, strict=True)):
        # Another number of agents, another chunk: sums in another order, so what cancels keeps the sum's error.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(jnp.abs(b).max()))


def test_encoding_knows_no_order_of_agents():
    """In another order, padding included, every agent has the value that it had; the memory is the same."""
    net, params, observation, action, first, carry = make()
    encode = jax.jit(lambda observation: net.window(params, observation, action, first, carry))
    order = jnp.asarray([2, 0, 3, 1])
    out, after = encode(observation)
    other, other_after = encode(jax.tree.map(lambda x: x[:, :, order], observation))
    seen = observation.agent_mask[:, :, order]
    np.testing.assert_allclose(
        active(other.value, seen), active(out.value[:, :, order], seen), rtol=1e-4, atol=1e-4
    )
    assert np.ptp(active(out.value, observation.agent_mask)) > 0.1
    np.testing.assert_allclose(other_after.encoder, after.encoder, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("form", ["parallel", "factored"])
def test_acting_step_by_step_equals_the_window(form):
    config = sable.Config(16, 2, 2, 0.8, form)
    net, params, observation, action, first, carry = make(config=config)
    want, want_carry = net.window(params, observation, action, first, carry)
    for t in range(action.shape[1]):
        now = jax.tree.map(lambda x, t=t: x[:, t], observation)
        carry = jax.tree.map(lambda m, t=t: jnp.where(first[:, t].reshape(-1, 1, 1, 1, 1), 0.0, m), carry)
        key = jax.random.key(t)
        slots = jax.random.key_data(jax.random.split(key, action.shape[2]))

        def choose(logits, q, legal, k, t=t, slots=slots):
            # Acting hands every agent its own key: it tells whose turn it is.
            slot = jnp.argmax((slots == jax.random.key_data(k)).all(-1))
            return action[:, t, slot]

        carry, _, out = net.act(params, carry, now, key, choose)
        seen = observation.agent_mask[:, t]
        for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(active(a, seen), active(b[:, t], seen), rtol=1e-3, atol=1e-4)
    for a, b in zip(carry, want_carry, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_agents_draw_with_keys_of_their_own():
    """One shared key would make all agents of a fresh network choose alike."""
    net = sable.Sable.make(CONFIG, DIMS)
    observation = Observation(jnp.zeros((500, 2, 7)), jnp.ones((500, 2, 5), bool), jnp.ones((500, 2), bool))
    params = jax.jit(net.init)(jax.random.key(0), jax.tree.map(lambda x: x[:1, None], observation))
    choose = lambda logits, q, legal, key: sable.sample_policy(logits, q, legal, key, 1.0)
    _, action, _ = net.act(params, net.init_carry(500), observation, jax.random.key(1), choose)
    assert 0.1 < float((action[:, 0] == action[:, 1]).mean()) < 0.3


def test_previous_actions_skip_padding():
    mask = jnp.asarray([[False, True, False, True, True]])
    tokens = sable.previous_actions(jnp.asarray([[3, 2, 1, 0, 4]]), mask, 5)
    # Slots 0, 1 and 2 of the list: start, start (first active), then 1 + action of slot 1, again, of slot 3.
    np.testing.assert_array_equal(tokens.argmax(-1), [[0, 0, 3, 3, 1]])


def test_feed_forward_learns():
    net, _, observation, action, first, carry = make()
    params = jax.jit(net.init)(jax.random.key(0), observation)
    loss = lambda p: (net.window(p, observation, action, first)[0].value ** 2).sum()
    ffn = jax.grad(loss)(params)["encoder_0"]["ffn"]
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(ffn))


def test_a_head_says_its_biases_to_the_last_digit_under_half_width():
    bias = (-13.8155, 2.001)
    head = sable.Head(4, 2, bias)
    x = jax.random.normal(jax.random.key(1), (8, 4)).astype(jnp.bfloat16)
    params = head.init(jax.random.key(0), x)["params"]
    out = head.apply({"params": params}, jnp.zeros_like(x))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, np.broadcast_to(np.float32(bias), (8, 2)), rtol=1e-6)
    whole = head.apply({"params": params}, x.astype(jnp.float32))
    # What differs are the products and norms before the last one.
    np.testing.assert_allclose(head.apply({"params": params}, x), whole, atol=1e-3)


def test_half_width_products_keep_parameters_memory_and_outputs_in_float32():
    net, params, observation, action, first, carry = make()
    half, *_ = make(config=dataclasses.replace(CONFIG, dtype="bfloat16"))
    same = lambda a, b: a.shape == b.shape and a.dtype == b.dtype == jnp.float32
    init = lambda net: jax.eval_shape(net.init, jax.random.key(0), observation)
    assert all(jax.tree.leaves(jax.tree.map(same, init(half), init(net))))

    def run(net, params):
        out, after = net.window(params, observation, action, first, carry)
        return out, after

    want, got = run(net, params), run(half, params)
    assert all(jax.tree.leaves(jax.tree.map(same, got, want)))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        error = np.abs(np.asarray(a - b)).mean() / np.abs(np.asarray(b)).mean()
        assert 0 < error < 0.1  # roundings of 2^-9, one after another through the layers
    total = lambda params: sum((x**2).mean() for x in jax.tree.leaves(run(half, params)[0]))
    grads = jax.grad(total)(params)
    assert all(g.dtype == jnp.float32 and np.isfinite(g).all() for g in jax.tree.leaves(grads))

    now = jax.tree.map(lambda x: x[:, 0], observation)
    choose = lambda logits, q, legal, key: logits.argmax(-1).astype(jnp.int32)
    carried, _, out = half.act(params, carry, now, jax.random.key(0), choose)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((carried, out)))


def test_gradients_written_out_are_the_gradients():
    """Against plain matrix products and the norm as it is defined."""
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel, weight = (
        jax.random.normal(k, s) for k, s in zip(keys, [(5, 4, 6), (6, 8), (5, 4, 8)], strict=True)
    )
    of = lambda f: jax.grad(lambda x, kernel: (f(x, kernel) * weight).sum(), argnums=(0, 1))(x, kernel)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, of(retention.product), of(lambda x, kernel: x @ kernel))
    plain = lambda x: (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
    norm_of = lambda f: jax.grad(lambda x: (f(x) * weight[..., :6]).sum())(x)
    close(retention.standardise(x), plain(x))
    close(norm_of(retention.standardise), norm_of(plain))


def test_a_fresh_memory_is_one_of_zeros():
    net, params, observation, action, first, _ = make()
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    fresh, zeros = (
        net.window(params, observation, action, first),
        net.window(params, observation, action, first, net.init_carry(3)),
    )
    jax.tree.map(close, fresh, zeros)


@pytest.mark.parametrize("form", ["once", "every_block"])
def test_where_the_input_norm_of_the_decoder_is_applied(form):
    """The decoder, put together here block by block."""
    net, params, observation, action, first, carry = make(
        config=dataclasses.replace(CONFIG, decoder_norm=form)
    )
    module = net.module.bind({"params": params})
    o, _, _ = module.encode(observation.obs, observation.agent_mask, first, carry.encoder)
    tokens = sable.previous_actions(action, observation.agent_mask, 5)
    norm = lambda x: x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * params["norm_decoder"]["scale"]
    x = norm(jax.nn.gelu(tokens @ params["embed_action"]["kernel"]))
    for i, block in enumerate(module.decoder):
        x = norm(x) if i and form == "every_block" else x
        x, _ = block(x, o, observation.agent_mask, first, (carry.self_[:, i], carry.cross[:, i]))
    expected = module.policy_head(x)
    out, _ = net.window(params, observation, action, first, carry)
    real = np.asarray(observation.agent_mask)
    np.testing.assert_allclose(out.logits[real], expected[real], rtol=2e-5, atol=2e-5)


def golden(blocks):
    """Sums that depend on every output and every gradient, at fixed parameters."""
    net, params, observation, action, first, carry = make(config=dataclasses.replace(CONFIG, blocks=blocks))
    real = observation.agent_mask[..., None]

    def loss(params):
        out, _ = net.window(params, observation, action, first, carry)
        log_p = jax.nn.log_softmax(out.logits)
        chosen = jnp.take_along_axis(log_p, action[..., None], -1)
        return (
            -(chosen * real).sum() / real.sum()
            + ((out.value**2)[..., None] * real).mean()
            + ((out.q**2).mean((-2, -1))[..., None] * real).mean()
        )

    out, _ = net.window(params, observation, action, first, carry)
    value, grads = jax.value_and_grad(loss)(params)
    total = lambda x: float((jnp.asarray(x) * real).sum())
    norm = float(jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads))))
    return {
        "logits": total(jnp.abs(out.logits)),
        "values": total(jnp.abs(out.value[..., None])),
        "q": total(jnp.abs(out.q).sum(-1)),
        "loss": float(value),
        "gradient_norm": norm,
    }


GOLDEN = {
    1: {
        "logits": 279.51135,
        "values": 39.079708,
        "q": 789.23224,
        "loss": 3.8087573,
        "gradient_norm": 6.5013552,
    },
    2: {
        "logits": 261.23392,
        "values": 63.455055,
        "q": 762.15814,
        "loss": 4.2666802,
        "gradient_norm": 14.396727,
    },
}


@pytest.mark.parametrize("blocks", [1, 2])
def test_outputs_and_gradients_are_those_of_before(blocks):
    """With one block this network agreed with the released one to 1e-14 in float64 (logits, losses, gradients)."""
    assert golden(blocks) == pytest.approx(GOLDEN[blocks], rel=1e-4)
