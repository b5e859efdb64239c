"""MT Oryx's loss: what padding, order and task mix may not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos import mt_oryx
from mtmarl.networks import sable
from mtmarl.ops import hl_gauss
from mtmarl.ops.agents import shuffle_agents
from mtmarl.types import Batch, Dims

CONFIG = mt_oryx.Config(
    learning_rate=1e-3, max_grad_norm=10.0, gamma=0.9, tau=0.1, value_temperature=1.0, policy_temperature=0.5,
    critic_weight=1.0, icq_grouping="task", bins=11, sigma_ratio=0.75, network=sable.Config(16, 2, 1, 0.5),
)  # fmt: skip
OBS, ACTIONS, ROWS, STEPS = 7, 5, 4, 6


def make_batch(agents, seed=0, tasks=2):
    keys = jax.random.split(jax.random.key(seed), 8)
    mask = jax.random.bernoulli(keys[0], 0.7, (ROWS, STEPS, agents, ACTIONS)).at[..., 0].set(True)
    action = jax.random.categorical(keys[1], jnp.where(mask, 0.0, -jnp.inf))
    ends = jax.random.bernoulli(keys[2], 0.3, (ROWS, STEPS))
    terminal = ends & jax.random.bernoulli(keys[3], 0.5, (ROWS, STEPS))
    first = jnp.concatenate([jax.random.bernoulli(keys[4], 0.5, (ROWS, 1)), ends[:, :-1]], 1)
    return Batch(
        obs=jax.random.normal(keys[5], (ROWS, STEPS, agents, OBS)),
        mask=mask,
        action=action,
        agent_mask=jnp.ones((ROWS, STEPS, agents), bool),
        reward=jax.random.normal(keys[6], (ROWS, STEPS)),
        first=first,
        terminal=terminal,
        truncated=ends & ~terminal,
        time_mask=jnp.ones((ROWS, STEPS), bool),
        task_id=jnp.arange(ROWS) % tasks,
    )


def pad(batch, agents):
    """Padded slots hold rubbish wherever nothing may look."""
    grow = lambda x, value: jnp.concatenate(
        [x, jnp.full((*x.shape[:2], agents - x.shape[2], *x.shape[3:]), value, x.dtype)], axis=2
    )
    return batch._replace(
        obs=grow(batch.obs, 7.0),
        mask=grow(batch.mask, False).at[:, :, batch.action.shape[2] :, 0].set(True),
        action=grow(batch.action, 0),
        agent_mask=grow(batch.agent_mask, False),
    )


def losses(dims, batch, config=CONFIG):
    """(loss, metrics) through the public update: the loss is what its metrics add up to."""
    algo = mt_oryx.make(config, dims, (-3.0, 3.0))
    learner = jax.jit(algo.init)(jax.random.key(0), batch)
    noise = lambda p: p + 0.2 * jax.random.normal(jax.random.key(p.size), p.shape)
    learner = learner._replace(params=jax.tree.map(noise, learner.params))
    after, metrics = jax.jit(algo.phases[0].update)(learner, batch, jax.random.key(1))
    return after, metrics


def assert_same(a, b, rtol=1e-5):
    for name in ("oryx/critic_loss", "oryx/policy_loss", "oryx/grad_norm", "oryx/entropy"):
        np.testing.assert_allclose(a[name], b[name], rtol=rtol, atol=1e-6, err_msg=name)


def test_padding_changes_nothing():
    batch = make_batch(3)
    _, plain = losses(Dims(3, OBS, ACTIONS, 10, 2), batch)
    _, padded = losses(Dims(5, OBS, ACTIONS, 10, 2), pad(batch, 5))
    assert_same(plain, padded)


def test_padding_may_stand_anywhere():
    """A padded and shuffled batch is the unpadded batch in that agent order."""
    padded = shuffle_agents(pad(make_batch(3), 5), jax.random.key(3))
    order = jnp.argsort(~padded.agent_mask[:, 0], axis=1, stable=True)[:, :3]
    pick = lambda x: jnp.take_along_axis(x, order.reshape(ROWS, 1, 3, *[1] * (x.ndim - 3)), axis=2)
    plain = padded._replace(
        obs=pick(padded.obs),
        mask=pick(padded.mask),
        action=pick(padded.action),
        agent_mask=pick(padded.agent_mask),
    )
    assert bool(plain.agent_mask.all())
    _, a = losses(Dims(3, OBS, ACTIONS, 10, 2), plain)
    _, b = losses(Dims(5, OBS, ACTIONS, 10, 2), padded)
    assert_same(a, b)


def test_copies_of_a_task_are_that_task():
    batch = make_batch(3)._replace(task_id=jnp.zeros(ROWS, jnp.int32))
    double = jax.tree.map(lambda x: jnp.concatenate([x, x]), batch)
    double = double._replace(task_id=jnp.repeat(jnp.arange(2), ROWS))
    _, one = losses(Dims(3, OBS, ACTIONS, 10, 1), batch)
    _, two = losses(Dims(3, OBS, ACTIONS, 10, 2), double)
    assert_same(one, two)


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


def test_loss_by_the_formulas():
    """The published equations, written out with plain sums for one task and one fresh network."""
    batch = make_batch(2, tasks=1)
    dims, support = Dims(2, OBS, ACTIONS, 10, 1), hl_gauss.Support(-3.0, 3.0, 11, 0.75)
    algo = mt_oryx.make(CONFIG, dims, (-3.0, 3.0))
    learner = jax.jit(algo.init)(jax.random.key(0), batch)
    net = sable.Sable.make(CONFIG.network, dims, q_bins=11, q_bias=hl_gauss.initial_bias(0.0, support))
    out, _ = net.window(learner.params, batch.observation, batch.action, batch.first)
    logits, q_logits = np.asarray(out.logits, np.float64), np.asarray(out.q, np.float64)
    centres, b = np.linspace(-3, 3, 11), jax.tree.map(np.asarray, batch)
    softmax = lambda x: (
        np.exp(x - x.max(-1, keepdims=True)) / np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)
    )
    q = softmax(q_logits) @ centres
    pi = softmax(np.where(b.mask, logits, -np.inf))
    index = (*np.indices(b.action.shape), b.action)
    q_a, pi_a = q[index], pi[index]
    weigh = lambda x: softmax(x.reshape(-1)).reshape(x.shape) * x.size
    w_value, w_policy = weigh(q_a / 1.0), weigh((q_a - (pi * np.where(b.mask, q, 0)).sum(-1)) / 0.5)
    policy = -(w_policy * np.log(pi_a)).mean()
    critic = []
    for row in range(ROWS):
        for t in range(STEPS - 1):
            if b.truncated[row, t]:
                continue
            for n in range(2):
                after = 0.0 if b.terminal[row, t] else (w_value * q_a)[row, t + 1, n]
                y = b.reward[row, t] + 0.9 * after
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
