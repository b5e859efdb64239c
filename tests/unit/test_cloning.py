"""BC-t, BC-r and UPDeT: one network, and what is told to it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos import bc_r, bc_t, updet
from mtmarl.data.sampling import returns_to_go
from mtmarl.networks import entities
from mtmarl.ops import masked, td
from mtmarl.types import Dims, Observation
from tests.batches import ACTIONS, OBS, TOY, make_batch
from tests.unit.data.recordings import make_recording

NETWORK = entities.Config(8, 1, 1)
DIMS = Dims(3, OBS, ACTIONS, 10, 2, TOY)
UPDET = updet.Config(
    learning_rate=1e-3, max_grad_norm=10.0, gamma=0.9, return_scale=2.0, conservative_weight=5.0,
    conservative_temperature=0.2, target_period=80, mixer="vdn", network=NETWORK,
)  # fmt: skip


def test_returns_to_go_are_what_is_still_to_come():
    first = np.isin(np.arange(8), [0, 3, 4])
    reward = np.asarray([1, 2, 4, 8, 16, 32, 64, 0], np.float32)
    got = returns_to_go(make_recording(steps=8)._replace(first=first, reward=reward))
    np.testing.assert_array_equal(got, [7, 6, 4, 8, 112, 96, 64, 0])
    assert got.dtype == np.float32


def test_the_return_that_is_asked_for_falls_by_what_was_received():
    algo = bc_r.make(bc_r.Config(1e-3, 10.0, 2.0, NETWORK), DIMS)
    learner = jax.jit(algo.init)(jax.random.key(0), make_batch(3))
    obs = lambda r: Observation(
        jnp.zeros((4, 3, OBS)), jnp.ones((4, 3, ACTIONS), bool), jnp.ones((4, 3), bool), jnp.full(4, r)
    )
    carry, left = algo.init_carry(4, 3), []
    act = jax.jit(algo.act)
    for reward in (0.0, 0.5, 0.25):
        carry, _, _ = act(learner.params, carry, obs(reward), jax.random.key(0), 0.0)
        left.append(float(carry[1][0]))
    assert left == [2.0, 1.5, 1.25]


def test_rows_are_told_their_own_return():
    """Changing one row's returns changes that row's log-probabilities and no other's."""
    net = entities.Agent.make(NETWORK, DIMS)
    batch = make_batch(3)
    params = net.init(jax.random.key(0), batch, batch.return_to_go)
    out = net.window(params, batch, batch.return_to_go)
    again = net.window(params, batch, batch.return_to_go.at[1].add(1.0))
    np.testing.assert_array_equal(out[jnp.asarray([0, 2, 3])], again[jnp.asarray([0, 2, 3])])
    assert (out[1] != again[1]).any(-1).all(), "every agent and step of the row"


def test_cloning_and_updet_are_one_network():
    algo = bc_t.make(bc_t.Config(1e-3, 10.0, NETWORK), DIMS)
    values = updet.make(UPDET, DIMS, (-1.0, 1.0))
    batch = make_batch(3)
    params = jax.jit(algo.init)(jax.random.key(0), batch).params
    same = {"agent": params, "mixer": {}}
    keys = jax.random.split(jax.random.key(1))
    carry, other = algo.init_carry(32, 3), values.init_carry(32, 3)
    for t in range(3):
        obs = Observation(
            jax.random.normal(jax.random.fold_in(keys[0], t), (32, 3, OBS)),
            jax.random.bernoulli(jax.random.fold_in(keys[1], t), 0.6, (32, 3, ACTIONS)).at[..., 0].set(True),
            jnp.ones((32, 3), bool),
        )
        carry, action, _ = jax.jit(algo.act)(params, carry, obs, keys[0], 0.0)
        other, again, _ = jax.jit(values.act)(same, other, obs, keys[0], 1.0)
        np.testing.assert_array_equal(action, again)


@pytest.mark.parametrize("temperature", [0.0, 0.2])
def test_updet_loss_by_its_formula(temperature):
    """VDN: sums of the agents' values, double Q-learning over legal actions, a penalty that is never negative."""
    config = replace(UPDET, conservative_temperature=temperature)
    algo = updet.make(config, replace(DIMS, tasks=1), (-1.0, 1.0))
    batch = make_batch(3, tasks=1)
    learner = jax.jit(algo.init)(jax.random.key(0), batch)
    learner = learner._replace(target=jax.tree.map(lambda p: p + 0.1, learner.target))
    net = entities.Agent.make(NETWORK, DIMS)
    q, q_target = (np.asarray(net.window(p["agent"], batch)) for p in (learner.params, learner.target))
    legal, action = np.asarray(batch.action_mask), np.asarray(batch.action)
    best = np.where(legal, q, -np.inf).argmax(-1)
    at = lambda x, a: np.take_along_axis(x, a[..., None], -1)[..., 0].sum(-1)
    y = 2.0 * np.asarray(batch.reward)[:, :-1]
    y = y + 0.9 * ~np.asarray(batch.terminated)[:, :-1] * at(q_target, best)[:, 1:]
    known = np.asarray(td.known(batch))
    _, metrics = jax.jit(algo.phases[0].update)(learner, batch, jax.random.key(0))
    np.testing.assert_allclose(
        metrics["updet/td_loss"], ((at(q, action)[:, :-1] - y) ** 2)[known].mean(), rtol=1e-4
    )
    highest = np.where(legal, q, -np.inf).max(-1)
    if temperature:
        weights = np.where(legal, np.exp((q - highest[..., None]) / temperature), 0.0)
        highest = highest + temperature * np.log(weights.sum(-1))
    gap = highest.sum(-1) - at(q, action)
    assert (gap >= 0).all()
    np.testing.assert_allclose(metrics["updet/gap_loss"], gap.mean(), rtol=1e-4)


def test_the_soft_penalty_orders_actions_by_how_often_they_are_taken():
    """The released maximum is as content with any value that favours an action that is taken at all."""
    action = jnp.repeat(jnp.arange(3), jnp.array([6, 3, 1]), total_repeat_length=10)[:, None]
    legal = jnp.ones((10, 1, 4), bool)
    mix = lambda slope, q: slope * q.sum(-1)
    values = jnp.array([2.0, 2.0, 2.0, 0.0])

    def gap(q, slope, temperature):
        q = jnp.broadcast_to(q, legal.shape)
        return td.conservative_gap(mix, slope, q, legal, action, temperature).mean()

    assert gap(values, 1.0, 0.0) == 0.0
    slopes = [jax.grad(gap, argnums=1)(jnp.arange(4.0), 1.0, t) for t in (0.0, 0.2)]
    assert slopes[0] != 0.0 == slopes[1], "only the released form teaches the mixer"
    step = jax.jit(lambda q: q - 0.1 * jax.grad(gap)(q, 1.0, 0.2))
    for _ in range(500):
        values = step(values)
    share = jax.nn.softmax(values / 0.2)
    np.testing.assert_allclose(share, [0.6, 0.3, 0.1, 0.0], atol=0.02)


def test_padded_steps_add_exactly_nothing():
    """Steps that are not real and hold no legal action change neither loss nor gradient."""
    for algo in (bc_t.make(bc_t.Config(1e-3, 10.0, NETWORK), DIMS), updet.make(UPDET, DIMS, (-1.0, 1.0))):
        batch = make_batch(3)
        real = batch.time_mask.at[:, 4:].set(False)
        batch = batch._replace(time_mask=real, action_mask=batch.action_mask & real[..., None, None])
        rubbish = batch._replace(
            reward=jnp.where(real, batch.reward, 1e3), obs=jnp.where(real[..., None, None], batch.obs, 9.0)
        )
        learner = jax.jit(algo.init)(jax.random.key(0), batch)
        update = jax.jit(algo.phases[0].update)
        (one, _), (two, metrics) = (update(learner, b, jax.random.key(0)) for b in (batch, rubbish))
        jax.tree.map(np.testing.assert_array_equal, one.params, two.params)
        assert all(np.isfinite(np.asarray(x)).all() for x in metrics.values())


def test_accuracy_counts_agents_with_a_choice():
    batch = make_batch(3)
    alone = batch.action_mask.at[:, :, 0].set(jax.nn.one_hot(0, ACTIONS, dtype=bool))
    batch = batch._replace(action_mask=alone, action=batch.action.at[:, :, 0].set(0))
    logits = jnp.where(jax.nn.one_hot(batch.action, ACTIONS, dtype=bool), -5.0, 5.0)
    _, metrics = bc_t.cloning(logits, batch, DIMS)
    choices = masked.per_task(
        (batch.action_mask.sum(-1) > 1).astype(jnp.float32), batch.agent_mask, batch.task_id, 2
    )
    assert (choices < 1).all() and not metrics["accuracy"].any()
