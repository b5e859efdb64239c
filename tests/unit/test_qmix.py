"""QMIX: its loss on a window is the formula, agent by agent and step by step as play goes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos import qmix
from mtmarl.networks import entities, recurrent
from mtmarl.ops import masked
from mtmarl.types import Dims
from tests.batches import ACTIONS, OBS, TOY, by_hand, make_batch, pad, walk

CONFIG = qmix.Config(
    epsilon=1.0, final_epsilon=0.05, epsilon_fraction=0.2, learning_rate=1e-3, max_grad_norm=10.0, gamma=0.9,
    reward_scale=2.0, capacity=100, batch_size=4, context=6, gradient_steps=1, target_period=2,
    network=recurrent.Config(8),
)  # fmt: skip
DIMS = Dims(3, OBS, ACTIONS, 10, 2, TOY)


@pytest.fixture(scope="module")
def case():
    algo = qmix.make(CONFIG, DIMS, 10)
    learner = jax.jit(algo.init)(jax.random.key(0), make_batch(3))
    return algo, learner, jax.jit(algo.phases[0].update)


def values(params, batch):
    """(each agent's values [B, T, N, A], the mixer on what agents give)."""
    agent, mixer = recurrent.GruAgent(CONFIG.network, ACTIONS), entities.Mixer(8)
    step = lambda memory, obs, last: agent.apply({"params": params["agent"]}, obs, last, memory)
    return walk(batch, step, jnp.zeros((*batch.action[:, 0].shape, 8))), (
        lambda q: entities.mix(mixer, TOY, params, q, batch)
    )


def test_the_loss_is_that_of_double_q_learning_on_the_teams_value(case):
    """Actions are chosen by the online network, legal ones alone, and valued by the target network."""
    algo, learner, update = case
    other = jax.jit(algo.init)(jax.random.key(1), make_batch(3)).params
    batch = make_batch(3)
    assert batch.terminated.any() and batch.truncated.any() and batch.first[:, 1:].any()
    online, mix = values(learner.params, batch)
    frozen, mix_frozen = values(other, batch)
    chosen = np.where(batch.action_mask, online, -np.inf).argmax(-1)
    total = mix(masked.take(online, batch.action))
    following = mix_frozen(masked.take(frozen, jnp.asarray(chosen)))
    metrics = update(learner._replace(target=other), batch, jax.random.key(0))[1]
    assert metrics["qmix/td_loss"] == pytest.approx(
        by_hand(batch, total, following, 0.9, scale=2.0), rel=1e-5
    )


def test_padded_slots_change_nothing():
    """Neither the loss nor a gradient."""
    algo = qmix.make(CONFIG, replace(DIMS, agents=4), 10)
    learner, update = jax.jit(algo.init)(jax.random.key(0), make_batch(4)), jax.jit(algo.phases[0].update)
    small = make_batch(2)
    key = jax.random.key(0)
    plain, padded = update(learner, small, key), update(learner, pad(small, 4), key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain[1], padded[1])


def test_the_target_is_copied_every_so_many_steps(case):
    _, learner, update = case
    copied, batch = [], make_batch(3)
    for i in range(4):
        learner, _ = update(learner, batch, jax.random.key(i))
        same = jax.tree.map(lambda a, b: bool((a == b).all()), learner.params, learner.target)
        copied.append(all(jax.tree.leaves(same)))
    assert copied == [False, True, False, True]


def test_random_actions_become_rare():
    """`explore` is a multiple of the last share: it falls to 1 in the first fifth and stays."""
    share = [float(CONFIG.exploration(jnp.asarray(u), 100)) * CONFIG.final_epsilon for u in (0, 10, 20, 100)]
    np.testing.assert_allclose(share, [1.0, 0.525, 0.05, 0.05], rtol=1e-6)
