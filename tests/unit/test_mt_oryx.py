"""MT Oryx's loss is the published one; what it may not do."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos import mt_oryx
from mtmarl.networks import sable
from mtmarl.ops import hl_gauss
from mtmarl.types import Dims
from tests.batches import ACTIONS, OBS, ROWS, STEPS, make_batch, pad

CONFIG = mt_oryx.Config(
    learning_rate=1e-3, max_grad_norm=10.0, gamma=0.9, tau=0.1, value_temperature=1.0, policy_temperature=0.5,
    critic_weight=1.0, icq_grouping="task", hl_gauss=True, bins=11, sigma_ratio=0.75,
    network=sable.Config(16, 2, 1, 0.5),
)  # fmt: skip


def losses(dims, batch, config=CONFIG):
    """(loss, metrics) through the public update: the loss is what its metrics add up to."""
    algo = mt_oryx.make(config, dims, (-3.0, 3.0))
    learner = jax.jit(algo.init)(jax.random.key(0), batch)
    noise = lambda p: p + 0.2 * jax.random.normal(jax.random.key(p.size), p.shape)
    learner = learner._replace(params=jax.tree.map(noise, learner.params))
    after, metrics = jax.jit(algo.phases[0].update)(learner, batch, jax.random.key(1))
    return after, metrics


def test_a_window_is_cut_at_an_episode_start():
    """What came before an episode start changes nothing after it."""
    batch = make_batch(3)
    batch = batch._replace(first=batch.first.at[:, 3].set(True))
    net = sable.Sable.make(CONFIG.network, Dims(3, OBS, ACTIONS, 10), q_bins=2)
    params = net.init(jax.random.key(0), batch.observation)
    whole, _ = net.window(params, batch.observation, batch.action, batch.first)
    late = jax.tree.map(lambda x: x[:, 3:], batch._replace(task_id=batch.first))
    alone, _ = net.window(params, late.observation, late.action, late.first)
    np.testing.assert_allclose(whole.q[:, 3:], alone.q, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("released", [False, True])
def test_loss_by_the_formulas(released):
    """The published equations, written out with plain sums for one task and one fresh network; as released: plain
    values, weights that are normalised at each position, and time limits that are ends.
    """
    batch = make_batch(2, tasks=1)
    support = hl_gauss.Support(-3.0, 3.0, 11, 0.75)
    config, bins, bias = CONFIG, 11, hl_gauss.initial_bias(0.0, support)
    if released:
        config, bins, bias = replace(CONFIG, hl_gauss=False, icq_grouping="position"), 1, jnp.zeros(1)
        batch = batch._replace(
            terminated=batch.terminated | batch.truncated, truncated=batch.truncated & False
        )
    dims = Dims(2, OBS, ACTIONS, 10, 1)
    algo = mt_oryx.make(config, dims, (-3.0, 3.0))
    learner = jax.jit(algo.init)(jax.random.key(0), batch)
    net = sable.Sable.make(config.network, dims, q_bins=bins, q_bias=bias)
    out, _ = net.window(learner.params, batch.observation, batch.action, batch.first)
    logits, q_logits = np.asarray(out.logits, np.float64), np.asarray(out.q, np.float64)
    centres, b = np.linspace(-3, 3, 11), jax.tree.map(np.asarray, batch)
    softmax = lambda x: (
        np.exp(x - x.max(-1, keepdims=True)) / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)
    )
    q = q_logits[..., 0] if released else softmax(q_logits) @ centres
    pi = softmax(np.where(b.action_mask, logits, -np.inf))
    index = (*np.indices(b.action.shape), b.action)
    q_a, pi_a = q[index], pi[index]
    together = lambda x: softmax(x.reshape(-1)).reshape(x.shape) * x.size
    each = lambda x: softmax(x.swapaxes(0, -1)).swapaxes(0, -1) * len(x)
    weigh = each if released else together
    w_value, w_policy = weigh(q_a / 1.0), weigh((q_a - (pi * np.where(b.action_mask, q, 0)).sum(-1)) / 0.5)
    policy = -(w_policy * np.log(pi_a)).mean()
    critic = []
    for row in range(ROWS):
        for t in range(STEPS - 1):
            if b.truncated[row, t]:
                continue
            for n in range(2):
                after = 0.0 if b.terminated[row, t] else (w_value * q_a)[row, t + 1, n]
                y = b.reward[row, t] + 0.9 * after
                if released:
                    critic.append((y - q_a[row, t, n]) ** 2 / 2)
                    continue
                p = np.asarray(hl_gauss.encode(jnp.float32(y), support))
                critic.append(-(p * np.log(softmax(q_logits[row, t, n, b.action[row, t, n]]))).sum())
    _, metrics = jax.jit(algo.phases[0].update)(learner, batch, jax.random.key(1))
    np.testing.assert_allclose(metrics["oryx/policy_loss"], policy, rtol=1e-4)
    np.testing.assert_allclose(metrics["oryx/critic_loss"], np.mean(critic), rtol=1e-4)


@pytest.mark.parametrize("grouping", ["task", "position", "awr"])
def test_every_grouping_gives_finite_gradients(grouping):
    config = mt_oryx.Config(**{**vars(CONFIG), "icq_grouping": grouping})
    after, metrics = losses(Dims(5, OBS, ACTIONS, 10, 2), pad(make_batch(3), 5), config)
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves((after.params, metrics)))


def test_target_moves_by_tau():
    dims, batch = Dims(3, OBS, ACTIONS, 10, 2), make_batch(3)
    algo = mt_oryx.make(CONFIG, dims, (-3.0, 3.0))
    before = jax.jit(algo.init)(jax.random.key(0), batch)
    after, _ = jax.jit(algo.phases[0].update)(before, batch, jax.random.key(1))
    expected = jax.tree.map(lambda t, p: 0.9 * t + 0.1 * p, before.target, after.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), after.target, expected)
