"""Batches of the current policy's own experience."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos import mappo
from mtmarl.algos import sable as ppo
from mtmarl.algos.base import no_carry
from mtmarl.data.on_policy import held_per_agent, in_order, on_policy_source
from mtmarl.data.source import stack_task_sources
from mtmarl.envs.registry import make_env
from mtmarl.networks import sable
from mtmarl.ops import masked
from mtmarl.types import Entities, Observation, example_batch
from tests.batches import TOY
from tests.counting import Counting

NETWORK = sable.Config(16, 2, 1, 0.5)
CONFIG = ppo.Config(
    learning_rate=1e-3, final_learning_rate=1e-3, max_grad_norm=0.5, gamma=0.99, gae_lambda=0.95, clip=0.2,
    entropy_weight=0.0, final_entropy_weight=0.0, value_weight=0.5, epochs=1, minibatches=1, advantage_floor=0.01,
    network=NETWORK,
)  # fmt: skip


PPO = {k: v for k, v in vars(CONFIG).items() if k not in ("network", "reshuffle_agents")}
NETWORKS = {
    "gru": mappo.Network(16, "gru"),
    "entity": mappo.Network(16, "entity", heads=2),
}


def test_agents_take_their_turns_in_the_order_given():
    """Numbered agents say who they are; the policy sees them in order and each gets its own answer back."""
    order = jnp.asarray([[2, 0, 1], [1, 2, 0]])
    seen = []

    def act(params, carry, obs, key, sample_probability):
        seen.append(np.asarray(obs.obs[..., 0]))
        return carry, obs.obs[..., 0].astype(jnp.int32), {"turn": jnp.tile(jnp.arange(3), (2, 1))}

    view = jnp.tile(jnp.arange(3.0)[None, :, None], (2, 1, 1))
    obs = Observation(view, jnp.ones((2, 3, 4), bool), jnp.ones((2, 3), bool))
    _, action, extras = in_order(act, order)(None, None, obs, None, 1.0)
    np.testing.assert_array_equal(seen[0], order)
    np.testing.assert_array_equal(action, [[0, 1, 2]] * 2)
    np.testing.assert_array_equal(extras["turn"], [[1, 2, 0], [2, 0, 1]])


def test_training_starts_from_the_probabilities_that_were_acted_with():
    """Over several batches, with memory carried on, episodes ending inside them and an order-sensitive policy."""
    env = make_env("lbf/6x6-3p-2f-t10")
    algo = ppo.make(CONFIG, env.spec.dims, 4)
    source = on_policy_source(env, algo.act, algo.init_carry, 8, 16, pool=8)
    params = jax.jit(algo.init)(jax.random.key(0), example_batch(env.spec.dims)).params
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    net = sable.Sable.make(NETWORK, env.spec.dims, value=True)

    @jax.jit
    def draw(state, key):
        state, batch = source.next(state, None, None, params, key)
        out, _ = net.window(params, batch.observation, batch.action, batch.first, batch.extras["carry"])
        return (
            state,
            batch,
            masked.take(masked.log_softmax(out.logits, batch.action_mask), batch.action),
            out.value,
        )

    state = source.init(jax.random.key(1))
    for i in range(3):
        state, batch, log_prob, value = draw(state, jax.random.key(i))
        np.testing.assert_allclose(batch.extras["log_prob"], log_prob, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(batch.extras["value"], value, rtol=1e-3, atol=1e-4)
    assert bool(batch.truncated.any())

    # In the order acted in, the first gradient step starts from a ratio of 1; as released, from anything.
    shuffling = ppo.make(replace(CONFIG, reshuffle_agents=True), env.spec.dims, 4)
    start = jax.jit(algo.init)(jax.random.key(0), example_batch(env.spec.dims))._replace(params=params)
    step = lambda a: jax.jit(a.phases[0].update)(start, batch, jax.random.key(0))[1]["ppo/approximate_kl"]
    assert abs(float(step(algo))) < 1e-4 < 1e-3 < abs(float(step(shuffling)))


def test_the_state_at_a_time_limit_is_valued_before_the_next_episode_begins():
    """Its observation is gone with the reset. A value that tells the time tells when it was asked for."""
    env, ends = Counting(0, agents=2, length=5, limited=True), Counting(0, agents=2, length=5)
    asked = lambda obs: obs.obs.sum(-1)

    def act(params, carry, obs, key, sample_probability):
        return carry, jnp.zeros(obs.obs.shape[:-1], jnp.int32), {"value": asked(obs)}

    def batch(env):
        source = on_policy_source(env, act, no_carry, 3, 12, pool=3, at_limit="value")
        return jax.jit(source.next)(source.init(jax.random.key(0)), None, None, None, jax.random.key(1))[1]

    limited = batch(env)
    at = np.asarray(limited.truncated)
    np.testing.assert_array_equal(at[0].nonzero()[0], [4, 9])
    value = np.asarray(limited.extras["limit_value"])
    assert (value[~at] == 0).all()
    # One more step than the value of the last state that was acted in, as between any two steps of an episode.
    seen = np.asarray(limited.extras["value"])
    np.testing.assert_allclose(
        value[at] - seen[at], (seen[:, 1] - seen[:, 0])[:, None].repeat(2, 1).reshape(-1, 2)
    )
    assert not np.asarray(batch(ends).extras["limit_value"]).any()


def test_a_memory_of_each_agent_goes_with_it():
    carry = {"team": jnp.arange(4.0).reshape(2, 2), "own": jnp.arange(6).reshape(2, 3)}
    init_carry = lambda rows, agents: {"team": jnp.zeros((rows, 2)), "own": jnp.zeros((rows, agents))}
    held, order = held_per_agent(init_carry), jnp.asarray([[2, 0, 1], [1, 2, 0]])
    assert held == {"team": False, "own": True} and held_per_agent(no_carry) is False

    def act(params, carry, obs, key, sample_probability):
        np.testing.assert_array_equal(carry["own"], [[2, 0, 1], [4, 5, 3]])
        return {**carry, "own": carry["own"] + 10}, obs.obs[..., 0].astype(jnp.int32), {}

    obs = Observation(jnp.zeros((2, 3, 1)), jnp.ones((2, 3, 4), bool), jnp.ones((2, 3), bool))
    after, _, _ = in_order(act, order, held)(None, carry, obs, None, 1.0)
    np.testing.assert_array_equal(after["own"], carry["own"] + 10)
    np.testing.assert_array_equal(after["team"], carry["team"])


@pytest.mark.parametrize("actor", NETWORKS)
def test_several_tasks_are_played_at_their_own_team_sizes(actor):
    """And padded beside each other afterwards: what is learned from is what was acted with, agent by agent."""
    envs = [Counting(0, agents=2, length=5, width=7), Counting(1, agents=3, length=7, limited=True, width=7)]
    split = Entities(3, False, TOY.observe, TOY.team)
    dims = replace(envs[1].spec.dims, tasks=2, entities=split if actor == "entity" else None)
    config = mappo.Config(**PPO, network=NETWORKS[actor])
    algo = mappo.make(config, dims, 4)
    make = lambda env: on_policy_source(env, algo.act, algo.init_carry, 4, 8, pool=4)
    alone = make(envs[0])
    assert stack_task_sources([alone]) is alone
    source = stack_task_sources([make(env) for env in envs])
    assert source.env_steps == 2 * 4 * 8
    params = jax.jit(algo.init)(jax.random.key(0), example_batch(dims)).params
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    model = mappo.make_model(mappo.make_actor(config.network, dims), config.network.transformer, dims)

    @jax.jit
    def draw(state, key):
        state, batch = source.next(state, source.data, None, params, key)
        logits, value = model.evaluate(params, batch)
        return state, batch, masked.take(masked.log_softmax(logits, batch.action_mask), batch.action), value

    state = source.init(jax.random.key(1))
    for i in range(3):
        state, batch, log_prob, value = draw(state, jax.random.key(i))
        seen = np.asarray(batch.agent_mask)
        for name, again in (("log_prob", log_prob), ("value", value)):
            acted = np.asarray(batch.extras[name])
            np.testing.assert_allclose(acted[seen], np.asarray(again)[seen], rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(batch.task_id, [0, 1] * 4)
    np.testing.assert_array_equal(seen.sum(-1)[:, 0], [2, 3] * 4)
    assert (np.asarray(batch.action_mask)[~seen] == np.eye(dims.actions)[0]).all() and not np.asarray(
        batch.obs
    )[~seen].any()
    assert np.asarray(batch.extras["carry"].history["agent"]).any()
    assert int(batch.extras["episodes"].sum()) == int((batch.terminated | batch.truncated).sum()) > 0
    learner = jax.jit(algo.init)(jax.random.key(0), example_batch(dims))._replace(params=params)
    metrics = jax.jit(algo.phases[0].update)(learner, batch, jax.random.key(0))[1]
    assert abs(float(metrics["ppo/approximate_kl"])) < 1e-4
