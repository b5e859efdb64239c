"""ODIS: two phases, what each may touch, and what its losses promise."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos import odis
from mtmarl.networks import entities
from mtmarl.networks.odis import SKILL_MODULES, Odis, StateEncoder
from mtmarl.ops import masked
from mtmarl.types import Dims
from tests.batches import ACTIONS, OBS, TOY, by_hand, make_batch, walk

CONFIG = odis.Config(
    learning_rate=1e-3, max_grad_norm=10.0, gamma=0.9, return_scale=1.0, skills=3, skill_fraction=0.3, kl_weight=1e-3,
    gumbel=True, conservative_weight=5.0, conservative_temperature=0.2,
    skill_weight=5.0, target_period=2, network=entities.Config(8, 1, 1),
)  # fmt: skip
DIMS = Dims(3, OBS, ACTIONS, 10, 2, TOY)


@pytest.fixture(scope="module")
def case():
    algo = odis.make(CONFIG, DIMS, (-1.0, 1.0))
    learner = jax.jit(algo.init)(jax.random.key(0), make_batch(3))
    updates = [jax.jit(phase.update) for phase in algo.phases]
    return algo, learner, updates


def moved(before, after):
    """Top-level modules of which anything differs."""
    differ = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    return {name for name in before if any(jax.tree.leaves(differ[name]))}


def test_each_phase_leaves_the_other_s_parts_bit_for_bit_as_they_are(case):
    _, learner, (discover, choose) = case
    batch = make_batch(3)
    skilled, _ = discover(learner, batch, jax.random.key(0))
    assert moved(learner.params, skilled.params) == set(SKILL_MODULES)
    after = skilled
    for i in range(3):
        after, metrics = choose(after, batch, jax.random.key(i))
        assert metrics["policy/gap_loss"] >= 0
    assert moved(skilled.params, after.params) == {"look", "observer", "q_head", "mixer"}


def test_the_penalty_is_nothing_where_the_best_skills_are_those_taken(case):
    """All agents value skill 0 most; they are said to follow it, or another. The penalty is the released maximum."""
    _, learner, _ = case
    choose = jax.jit(
        odis.make(replace(CONFIG, conservative_temperature=0.0), DIMS, (-1.0, 1.0)).phases[1].update
    )
    batch, gaps = make_batch(3), []
    for named in (0, 1):
        always = lambda head, skill: {
            "kernel": 0.0 * learner.params[head]["kernel"],
            "bias": jax.nn.one_hot(skill, 3),
        }
        params = {**learner.params, "q_head": always("q_head", 0), "skill_head": always("skill_head", named)}
        gaps.append(
            float(choose(learner._replace(params=params), batch, jax.random.key(0))[1]["policy/gap_loss"])
        )
    assert gaps[0] == 0.0 < gaps[1]


def test_skills_are_valued_by_double_q_learning_step_by_step_as_play_goes(case):
    """The skill that the state names is the action; the best one next is chosen online and valued by the target."""
    algo, learner, (_, choose) = case
    batch, params = make_batch(3), learner.params
    other = jax.jit(algo.init)(jax.random.key(1), batch).params
    net = Odis(CONFIG.network, TOY, CONFIG.skills, StateEncoder(CONFIG.network.embed_dim))
    apply = lambda params, method, *args: net.apply(
        {"params": {k: v for k, v in params.items() if k != "mixer"}}, *args, method=method
    )

    def values(params):
        def step(carry, obs, last):
            q, recognised, carry = apply(params, "value", entities.agent_inputs(TOY, obs, last), carry)
            return (q, recognised), carry

        return walk(batch, step, jnp.zeros((*batch.action[:, 0].shape, CONFIG.network.embed_dim)))

    team = entities.team_inputs(TOY, batch.observation, entities.last_actions(batch), batch.action)
    logits = apply(params, "label", team, batch.agent_mask)
    named = logits.argmax(-1)
    (q, recognised), (q_target, _) = values(params), values(other)
    mix = lambda params, x: entities.mix(entities.Mixer(CONFIG.network.embed_dim), TOY, params, x, batch)
    total, following = mix(params, masked.take(q, named)), mix(other, masked.take(q_target, q.argmax(-1)))
    metrics = choose(learner._replace(target=other), batch, jax.random.key(0))[1]
    assert metrics["policy/td_loss"] == pytest.approx(by_hand(batch, total, following, 0.9), rel=1e-5)
    # Both tasks have as many rows.
    assert metrics["policy/skill_loss"] == pytest.approx(
        -float(masked.take(jax.nn.log_softmax(recognised), named).mean()), rel=1e-5
    )
    # HyGen, equation 5: KL(recognised || named).
    said, meant = (np.asarray(jax.nn.log_softmax(x)) for x in (recognised, logits))
    whole = odis.make_model(
        CONFIG, DIMS, (-1.0, 1.0), StateEncoder(CONFIG.network.embed_dim), consistency="kl"
    )
    given = params, other, batch, 0.0, jnp.ones(batch.task_id.shape, bool)
    assert jax.jit(whole.choose)(*given)[1]["skill_loss"] == pytest.approx(
        float((np.exp(said) * (said - meant)).sum(-1).mean()), rel=1e-5
    )


def test_the_first_phase_keeps_skills_near_uniform(case):
    _, learner, _ = case
    discover = odis.make(replace(CONFIG, kl_weight=100.0), DIMS, (-1.0, 1.0)).phases[0].update
    sharp = jax.tree.map(lambda x: 3 * x, learner.params["skill_head"])
    learner = learner._replace(params={**learner.params, "skill_head": sharp})
    step = lambda learner, key: discover(learner, make_batch(3), key)
    _, metrics = jax.jit(lambda x: jax.lax.scan(step, x, jax.random.split(jax.random.key(0), 20)))(learner)
    assert metrics["skills/kl"][-1] < 0.9 * metrics["skills/kl"][0]


def test_the_target_is_copied_every_so_many_updates(case):
    _, learner, (_, choose) = case
    batch, changed = make_batch(3), []
    for i in range(4):
        after, _ = choose(learner, batch, jax.random.key(i))
        changed.append(bool(moved(learner.target, after.target)))
        learner = after
    assert changed == [False, True, False, True]


def test_one_task_and_one_agent_train():
    algo = odis.make(CONFIG, Dims(1, OBS, ACTIONS, 10, 1, TOY), (-1.0, 1.0))
    batch = make_batch(1, tasks=1)
    learner = jax.jit(algo.init)(jax.random.key(0), batch)
    for phase in algo.phases:
        learner, metrics = jax.jit(phase.update)(learner, batch, jax.random.key(0))
        assert all(np.isfinite(np.asarray(x)).all() for x in metrics.values())
