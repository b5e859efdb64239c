"""ODIS: two phases, what each may touch, and what its losses promise."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from mtmarl.algos import odis
from mtmarl.networks import entities
from mtmarl.networks.odis import SKILL_MODULES
from mtmarl.types import Dims
from tests.batches import ACTIONS, OBS, TOY, make_batch

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
