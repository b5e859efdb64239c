"""Fine-tuning of M3 and MADT: PPO with their actors, and what AWAC's term adds."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos import m3, m3_finetune, madt, madt_finetune, mappo, ppo
from mtmarl.data.on_policy import on_policy_source
from mtmarl.envs import entities
from mtmarl.envs.layout import Layout
from mtmarl.envs.registry import make_env
from mtmarl.errors import UserError
from mtmarl.networks import causal
from mtmarl.networks.entities import Config as Critic
from mtmarl.networks.m3 import Config as Network
from mtmarl.ops import masked
from mtmarl.ops.policy import clipped_surrogate
from mtmarl.types import Dims, Observation, example_batch
from tests.batches import ACTIONS, OBS, ROWS, TOY, make_batch

DIMS = Dims(3, OBS, ACTIONS, 10, 2, TOY, (5, 7))
PPO = dict(
    learning_rate=1e-3, final_learning_rate=1e-3, max_grad_norm=10.0, gamma=0.9, gae_lambda=0.95, clip=0.2,
    entropy_weight=0.01, final_entropy_weight=0.01, value_weight=1.0, epochs=2, minibatches=2, advantage_floor=0.01,
    huber_delta=10.0, normalise_values=True, only_choices=True,
)  # fmt: skip
NETWORK = Network(8, 2, 1, 3)
M3 = m3_finetune.Config(
    **PPO, awac_weight=0.1, awac_temperature=0.5, awac_max_weight=2.0, network=NETWORK, critic=Critic(8, 1, 1)
)
PRETRAINING = m3.Config(
    learning_rate=3e-3, weight_decay=0.0, max_grad_norm=10.0, codes=6, specific_width=3, reconstruction_weight=1.0,
    kl_weight=1.0, codebook_weight=1.0, commitment_weight=0.25, usage_decay=0.9, usage_floor=0.0, quantise=True,
    split=True, network=NETWORK,
)  # fmt: skip


def with_play(algo, params, batch):
    """The batch as if the policy had played it, with another one from a vault beside it."""
    carry = algo.init_carry(ROWS, batch.action.shape[2])
    obs = Observation(*jax.tree.map(lambda x: x[:, 0], batch.observation[:3]))
    _, _, said = algo.act(params, carry, obs, jax.random.key(0), 1.0)
    repeat = lambda x: jnp.repeat(x[:, None], batch.action.shape[1], axis=1)
    extras = {name: repeat(x) for name, x in said.items()}
    more = {"carry": carry, "bootstrap": said["value"], "offline": make_batch(3, seed=1)}
    return batch._replace(extras={**extras, **more})


@cache
def case(config=M3):
    algo = m3_finetune.make(config, DIMS, 4)
    return algo, jax.jit(algo.init)(jax.random.key(0), example_batch(DIMS))


def differing(a, b):
    return {
        name
        for name in a
        if any(jax.tree.leaves(jax.tree.map(lambda x, y: (x != y).any(), a[name], b[name])))
    }


def test_it_begins_with_the_logits_of_pre_training():
    """What both call the actor is one network."""
    before = m3.make(PRETRAINING, DIMS)
    params = jax.jit(before.init)(jax.random.key(1), make_batch(3)).params
    algo, learner = case()
    like = lambda tree: jax.tree.map(lambda x: x.shape, tree)
    assert like(learner.params["actor"]) == like(params["actor"])
    tuned = {**learner.params, "actor": params["actor"]}
    carry, other = before.init_carry(ROWS, 3), algo.init_carry(ROWS, 3)
    act, again = jax.jit(before.act), jax.jit(algo.act)
    pretrained = jax.jit(m3.make_actor(NETWORK, DIMS, latents=True).act)
    for t in range(4):
        batch = make_batch(3, seed=t)
        obs = Observation(*jax.tree.map(lambda x: x[:, 0], batch.observation[:3]))
        logits = pretrained(params["actor"], carry, obs)[1].logits
        carry, action, _ = act(params, carry, obs, jax.random.key(t), 1.0)
        other, same, said = again(tuned, other, obs, jax.random.key(t), 1.0)
        np.testing.assert_array_equal(action, same)
        log_prob = masked.take(masked.log_softmax(logits, obs.action_mask), action)
        np.testing.assert_allclose(said["log_prob"], log_prob, rtol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, carry, other)


def test_the_surrogate_at_a_ratio_of_one_is_minus_the_advantage():
    """Unavailable actions have probability 0 under old and new policy, so they change neither."""
    batch = make_batch(3)
    logits = jax.random.normal(jax.random.key(0), batch.action_mask.shape)
    log_probs = masked.log_softmax(logits, batch.action_mask)
    assert not jnp.exp(log_probs)[~batch.action_mask].any()
    log_prob, advantage = (
        masked.take(log_probs, batch.action),
        jax.random.normal(jax.random.key(1), batch.action.shape),
    )
    np.testing.assert_allclose(clipped_surrogate(log_prob, log_prob, advantage, 0.2), -advantage, rtol=1e-6)
    other = masked.log_softmax(jnp.where(batch.action_mask, logits, logits + 5.0), batch.action_mask)
    np.testing.assert_allclose(masked.take(other, batch.action), log_prob, rtol=1e-5, atol=1e-6)


def test_without_weight_it_is_mappo_with_this_actor():
    """From the same seeds, on the same rollouts, bit for bit; and it needs no vaults."""
    plain = mappo.make_model(m3.make_actor(NETWORK, DIMS, latents=False), M3.critic, DIMS)
    ends = []
    for algo in (
        ppo.make(ppo.Config(**PPO), 2, 4, plain),
        m3_finetune.make(replace(M3, awac_weight=0.0), DIMS, 4),
    ):
        assert [phase.source for phase in algo.phases] == ["on_policy"]
        learner = jax.jit(algo.init)(jax.random.key(0), example_batch(DIMS))
        update = jax.jit(algo.phases[0].update)
        for i in range(2):
            batch = with_play(algo, learner.params, make_batch(3, seed=i))
            learner, _ = update(learner, batch, jax.random.key(i))
        ends.append(learner.params)
    jax.tree.map(np.testing.assert_array_equal, *ends)


def test_the_term_of_awac_by_its_formula():
    algo, learner = case()
    model = mappo.make_model(m3.make_actor(NETWORK, DIMS, latents=False), M3.critic, DIMS)
    batch = with_play(algo, learner.params, make_batch(3))
    offline = batch.extras["offline"]
    more = m3_finetune.near_data(replace(M3, normalise_values=False), model, DIMS)
    run = jax.jit(jax.value_and_grad(lambda params: more(params, (), batch, None), has_aux=True))
    (loss, metrics), grads = run(learner.params)
    fresh = offline._replace(extras={"carry": algo.init_carry(ROWS, 3)})
    logits, value = jax.jit(model.evaluate)(learner.params, fresh)
    log_prob = np.asarray(masked.take(masked.log_softmax(logits, offline.action_mask), offline.action))
    per_task = {0: [], 1: []}
    for b in range(ROWS):
        for t in range(logits.shape[1] - 1):
            if offline.truncated[b, t]:
                continue
            goes_on = 0.0 if offline.terminated[b, t] else 0.9
            for n in range(3):
                better = offline.reward[b, t] + goes_on * value[b, t + 1, n] - value[b, t, n]
                weight = min(np.exp(better / 0.5), 2.0)
                per_task[int(offline.task_id[b])].append(weight * log_prob[b, t, n])
    expected = -np.mean([np.mean(x) for x in per_task.values()])
    np.testing.assert_allclose(metrics["awac_loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(loss, 0.1 * expected, rtol=1e-4)
    assert any(x.any() for x in jax.tree.leaves(grads["actor"]))
    assert not any(x.any() for x in jax.tree.leaves(grads["critic"])), (
        "the weights are no way to change values"
    )


def test_the_critic_learns_alone_at_first():
    algo = m3_finetune.make(replace(M3, critic_warmup=1), DIMS, 4)
    assert [phase.fraction for phase in algo.phases] == [0.25, 0.75]
    assert {phase.source for phase in algo.phases} == {"on_policy+vault"}
    learner = jax.jit(algo.init)(jax.random.key(0), example_batch(DIMS))
    batch = with_play(algo, learner.params, make_batch(3))
    after, _ = jax.jit(algo.phases[0].update)(learner, batch, jax.random.key(0))
    assert differing(learner.params, after.params) == {"critic"}


def test_awac_takes_vaults_of_one_family():
    with pytest.raises(UserError, match="vaults of several families"):
        m3_finetune.make(M3, replace(DIMS, entities=None, families=2), 4)


def test_training_starts_from_the_probabilities_that_were_acted_with():
    """Over several batches of real play, memory carried on and episodes ending inside them; asked for a return."""
    env = make_env("lbf/6x6-3p-2f-t10")
    dims = replace(env.spec.dims, entities=entities.of_layout(Layout.of([env.spec])))
    config = madt_finetune.Config(
        **PPO, tell_actions=True, target_return=0.8, network=causal.Config(8, 2, 1, 4), critic=M3.critic
    )
    algo = madt_finetune.make(config, dims, 4)
    model = mappo.make_model(madt.make_actor(config.network, True, 0.8, dims), M3.critic, dims)
    source = on_policy_source(env, algo.act, algo.init_carry, 4, 12, 4)
    params = jax.jit(algo.init)(jax.random.key(0), example_batch(dims)).params
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)

    @jax.jit
    def draw(state, key):
        state, batch = source.next(state, None, None, params, key)
        logits, value = model.evaluate(params, batch)
        return state, batch, masked.take(masked.log_softmax(logits, batch.action_mask), batch.action), value

    state = source.init(jax.random.key(1))
    for i in range(3):
        state, batch, log_prob, value = draw(state, jax.random.key(i))
        np.testing.assert_allclose(batch.extras["log_prob"], log_prob, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(batch.extras["value"], value, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(batch.extras["to_go"][batch.first], 0.8)
    assert bool(batch.truncated.any())
