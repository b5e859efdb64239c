"""What PPO makes of a rollout, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos import ppo
from mtmarl.algos.base import init_learner, no_carry
from mtmarl.ops.policy import clipped_surrogate, clipped_value_loss
from mtmarl.types import Dims, example_batch

SETTINGS = dict(
    learning_rate=0.1, final_learning_rate=0.1, max_grad_norm=1e9, gamma=0.5, gae_lambda=0.5, clip=0.2,
    entropy_weight=0.0, final_entropy_weight=0.0, value_weight=1.0, epochs=1, minibatches=1, advantage_floor=0.01,
)  # fmt: skip
DIMS = Dims(agents=2, obs=1, actions=3, horizon=10)


def evaluate(params, batch):
    """Logits and values that are the same for everybody; the parameters are both."""
    agents = batch.action.shape
    return jnp.broadcast_to(params["actor"], (*agents, 3)), jnp.broadcast_to(params["critic"], agents)


def case(more=None, **settings):
    model = ppo.Model(None, None, evaluate, no_carry, ("critic",))
    trained = ppo.training(ppo.Config(**{**SETTINGS, **settings}), 1, 4, model, more=more)
    params = {"actor": jnp.asarray([0.0, 0.5, 1.0]), "critic": jnp.asarray(0.25)}
    learner = init_learner(params, trained.txs, target=False)._replace(target=trained.target)
    batch = example_batch(DIMS, 1, 3)
    log_prob = jax.nn.log_softmax(params["actor"])[batch.action]
    extras = {"log_prob": log_prob, "value": jnp.full((1, 3, 2), 0.25), "bootstrap": jnp.full((1, 2), 4.0)}
    batch = batch._replace(reward=jnp.asarray([[1.0, 2.0, 3.0]]), extras=extras)
    return trained, learner, batch


def show(params, target, batch, key):
    """Metrics are means over minibatches, of which there is one."""
    return 0.0 * params["critic"], {k: batch.extras[k] for k in ("advantage", "returns")}


def test_advantages_end_with_the_episode_also_at_its_time_limit():
    """gamma = lambda = 1/2: deltas 1 + v/2 - v, 2 - v (the episode ends), 3 + 4/2 - v."""
    trained, learner, batch = case(show)
    for end in ("terminated", "truncated"):
        one = batch._replace(**{end: jnp.asarray([[False, True, False]])})
        _, metrics = jax.jit(trained.phases[0].update)(learner, one, jax.random.key(0))
        deltas = [1 + 0.125 - 0.25, 2 - 0.25, 3 + 2 - 0.25]
        expected = np.asarray([deltas[0] + 0.25 * deltas[1], deltas[1], deltas[2]])
        np.testing.assert_allclose(metrics["ppo/advantage"][0, :, 0], expected, rtol=1e-6)
        np.testing.assert_allclose(metrics["ppo/returns"][0, :, 1], expected + 0.25, rtol=1e-6)


def test_a_time_limit_can_cut_a_return_short():
    """What the critic makes of the state in which it fell comes in place of what would have followed: half of 8."""
    trained, learner, batch = case(show, bootstrap_limits=True)
    limit = jnp.zeros((1, 3, 2)).at[:, 1].set(8.0)
    truncated = batch._replace(
        truncated=jnp.asarray([[False, True, False]]), extras={**batch.extras, "limit_value": limit}
    )
    for one, last in (
        (truncated, 4.0),
        (truncated._replace(terminated=truncated.truncated, truncated=truncated.terminated), 0.0),
    ):
        _, metrics = jax.jit(trained.phases[0].update)(learner, one, jax.random.key(0))
        deltas = [1 + 0.125 - 0.25, 2 + last - 0.25, 3 + 2 - 0.25]
        expected = np.asarray([deltas[0] + 0.25 * deltas[1], deltas[1], deltas[2]])
        np.testing.assert_allclose(metrics["ppo/advantage"][0, :, 0], expected, rtol=1e-6)


def test_normalised_values_are_taken_for_what_they_mean():
    """The second update knows a mean and a spread, in whose units the critic speaks."""
    trained, learner, batch = case(show, normalise_values=True)
    update = jax.jit(trained.phases[0].update)
    learner, _ = update(learner, batch, jax.random.key(0))

    def mean_and_spread(known):
        mean = float(known.mean[0] / known.weight[0])
        return mean, np.sqrt(float(known.square[0] / known.weight[0]) - mean**2)

    mean, spread = mean_and_spread(learner.target)
    learner, metrics = update(learner, batch, jax.random.key(0))
    value, last = 0.25 * spread + mean, 4.0 * spread + mean
    advantage = np.asarray(metrics["ppo/advantage"])
    np.testing.assert_allclose(advantage[0, 2, 0], 3 + 0.5 * last - value, rtol=1e-4)
    mean, spread = mean_and_spread(learner.target)
    np.testing.assert_allclose(metrics["ppo/returns"], (advantage + value - mean) / spread, rtol=1e-3)


def test_agents_without_a_choice_do_not_count_for_the_actor():
    dead = jnp.ones((1, 3, 2, 3), bool).at[:, :, 1, 1:].set(False)
    seen = []
    for choices in (True, False):
        trained, learner, batch = case(only_choices=choices)
        for old in (0.0, -0.5):
            log_prob = batch.extras["log_prob"].at[:, :, 1].set(old)
            one = batch._replace(action_mask=dead, extras={**batch.extras, "log_prob": log_prob})
            _, metrics = jax.jit(trained.phases[0].update)(learner, one, jax.random.key(0))
            seen.append([float(metrics[f"ppo/{k}"]) for k in ("actor_loss", "entropy", "approximate_kl")])
    assert seen[0] == seen[1]
    assert seen[2] != seen[3] and seen[0][1] > seen[2][1], "else they halve the entropy"


def test_the_losses_of_a_single_step():
    log_prob, advantage = jnp.asarray([-1.0, -2.0]), jnp.asarray([3.0, -1.0])
    np.testing.assert_allclose(clipped_surrogate(log_prob, log_prob, advantage, 0.2), -advantage)
    far = clipped_surrogate(log_prob + 1.0, log_prob, advantage, 0.2)
    np.testing.assert_allclose(far, [-3.0 * 1.2, np.e], rtol=1e-6)
    value, old, target = jnp.asarray([2.0, 0.1]), jnp.asarray([0.0, 0.0]), jnp.asarray([2.0, 30.0])
    np.testing.assert_allclose(
        clipped_value_loss(value, old, target, 0.5), [0.5 * 1.5**2, 0.5 * 29.9**2], rtol=1e-6
    )
    huber = clipped_value_loss(value, old, target, 0.5, 10.0)
    np.testing.assert_allclose(huber, [0.5 * 1.5**2, 10 * (29.9 - 5)], rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_the_schedules_span_what_follows_the_warm_up(warmup):
    """The last step is taken at the last learning rate and under the last weight of entropy."""
    trained, learner, batch = case(
        critic_warmup=warmup, final_learning_rate=0.0, entropy_weight=1.0, final_entropy_weight=0.0
    )
    assert len(trained.phases) == (2 if warmup else 1) and len(trained.txs) == len(trained.phases)
    actors = []
    for i in range(4):
        phase = trained.phases[0 if i < warmup else -1]
        learner, _ = jax.jit(phase.update)(learner, batch, jax.random.key(i))
        actors.append(np.asarray(learner.params["actor"]))
    moved = [
        bool((a != b).any()) for a, b in zip([np.asarray([0.0, 0.5, 1.0]), *actors], actors, strict=False)
    ]
    assert moved == [i >= warmup for i in range(4)]
    after = jax.jit(trained.phases[-1].update)(learner, batch, jax.random.key(4))[0]
    np.testing.assert_array_equal(after.params["actor"], learner.params["actor"])
