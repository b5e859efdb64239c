"""Methods over entities on made-up tasks whose answers are known."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos import bc_r, bc_t, hissd, odis, updet
from mtmarl.networks import entities
from mtmarl.types import Batch, Dims, Entities, Observation, TeamTokens, Tokens

pytestmark = pytest.mark.slow
NETWORK = entities.Config(32, 1, 1)
ROWS, STEPS, AGENTS, TARGETS = 32, 3, 2, 5


def _observe(obs: Observation) -> Tokens:
    """[own | distances of the objects]; a target is there where it can be aimed at."""
    mask = obs.action_mask[..., 1:]
    none = jnp.zeros((*obs.obs.shape[:-1], 0, 0))
    return Tokens(obs.obs[..., :1], none, obs.obs[..., 1:, None], jnp.zeros(none.shape[:-1], bool), mask)


def _team(obs: Observation) -> TeamTokens:
    seen = obs.action_mask[..., 1:] & obs.agent_mask[..., None]
    return TeamTokens(obs.obs, obs.obs[..., 1:, None].mean(-3), seen.any(-2))


AIMING = Entities(1, True, _observe, _team)
DIMS = Dims(AGENTS, 1 + TARGETS, 1 + TARGETS, STEPS, 1, AIMING)
PLAIN = replace(DIMS, entities=None)


def batch_of(key, present, act, tasks=1) -> Batch:
    """Episodes of one window with `present` of the objects in sight; `act(view, mask, key) -> action`."""
    keys = jax.random.split(key, 3)
    shape = (ROWS, STEPS, AGENTS)
    order = jnp.argsort(jax.random.uniform(keys[0], (*shape, TARGETS)), axis=-1)
    mask = jnp.concatenate([jnp.ones((*shape, 1), bool), order < present], axis=-1)
    view = jax.random.uniform(keys[1], (*shape, 1 + TARGETS))
    times = jnp.broadcast_to(jnp.arange(STEPS), shape[:2])
    return Batch(
        obs=view, action_mask=mask, action=act(view, mask, keys[2]), agent_mask=jnp.ones(shape, bool),
        reward=jnp.zeros(shape[:2]), first=times == 0, terminated=times == STEPS - 1, truncated=times < 0,
        time_mask=jnp.ones(shape[:2], bool), task_id=jnp.arange(ROWS) % tasks, return_to_go=jnp.zeros(shape[:2]),
    )  # fmt: skip


def nearest(view, mask, key):
    return 1 + jnp.where(mask[..., 1:], view[..., 1:], 9.0).argmin(-1)


def anything(view, mask, key):
    return jax.random.categorical(key, jnp.where(mask, 0.0, -1e9))


def train(algo, make, updates, phases=None):
    """(learner, metrics of every update) after that many updates in each phase, on ever new batches."""
    learner, history = jax.jit(algo.init)(jax.random.key(0), make(jax.random.key(0))), []
    for phase in algo.phases if phases is None else algo.phases[:phases]:
        one = lambda learner, key, phase=phase: phase.update(learner, make(key), jax.random.fold_in(key, 1))
        keys = jax.random.split(jax.random.key(1), updates)
        learner, metrics = jax.jit(lambda s, k, one=one: jax.lax.scan(one, s, k))(learner, keys)
        history.append(jax.tree.map(np.asarray, metrics))
    return learner, history


def greedy(algo, params, batch: Batch):
    """The actions of fresh agents at the first step."""
    obs = Observation(*jax.tree.map(lambda x: x[:, 0], batch.observation))
    return algo.act(params, algo.init_carry(ROWS, AGENTS), obs, jax.random.key(0), 0.0)[1]


def test_cloning_attacks_the_nearest_and_one_enemy_more_does_not_confuse_it():
    algo = bc_t.make(bc_t.Config(3e-3, 10.0, NETWORK), DIMS)
    learner, (metrics,) = train(algo, lambda key: batch_of(key, 3, nearest), 600)
    assert metrics["bc/accuracy"][-20:].mean() > 0.95
    fresh = batch_of(jax.random.key(7), 4, nearest)
    assert (greedy(algo, learner.params, fresh) == fresh.action[:, 0]).mean() > 0.9


def test_cloning_by_return_does_what_is_asked_for():
    """Half of the data take the nearest target and return 1, half stand still and return 0."""

    def make(key):
        batch = batch_of(key, 3, nearest)
        good = (jnp.arange(ROWS) % 2 == 0)[:, None]
        to_go = jnp.broadcast_to(good, batch.reward.shape).astype(jnp.float32)
        return batch._replace(return_to_go=to_go, action=jnp.where(good[..., None], batch.action, 0))

    settings = bc_r.Config(3e-3, 10.0, 1.0, NETWORK)
    learner, _ = train(bc_r.make(settings, DIMS), make, 600)
    fresh = batch_of(jax.random.key(7), 3, nearest)
    for target, expected in ((1.0, fresh.action[:, 0]), (0.0, jnp.zeros((ROWS, AGENTS), int))):
        algo = bc_r.make(replace(settings, target_return=target), DIMS)
        assert (greedy(algo, learner.params, fresh) == expected).mean() > 0.9


@pytest.mark.parametrize("mixer", ["attention", "vdn"])
def test_values_find_what_pays_in_random_data(mixer):
    """Each agent that attacks its nearest target adds to the reward; the data do anything."""

    def make(key):
        batch = batch_of(key, 3, anything)
        right = batch.action == nearest(batch.obs, batch.action_mask, None)
        return batch._replace(reward=right.mean(-1, dtype=jnp.float32))

    config = updet.Config(
        learning_rate=3e-3, max_grad_norm=10.0, gamma=0.5, return_scale=10.0, conservative_weight=0.1,
        conservative_temperature=0.2, target_period=20, mixer=mixer, network=NETWORK,
    )  # fmt: skip
    algo = updet.make(config, DIMS, (0.0, 1.5))
    learner, _ = train(algo, make, 800)
    fresh = batch_of(jax.random.key(7), 3, nearest)
    assert (greedy(algo, learner.params, fresh) == fresh.action[:, 0]).mean() > 0.85


def test_skills_say_what_cannot_be_seen():
    """Two tasks whose actions are drawn by lot: only the skill can tell the decoder which."""

    def make(key):
        batch = batch_of(key, 3, anything, tasks=2)
        three = jnp.broadcast_to(jnp.arange(1 + TARGETS) < 3, batch.action_mask.shape)
        return batch._replace(action_mask=three, action=jax.random.randint(key, batch.action.shape, 0, 3))

    config = odis.Config(
        learning_rate=3e-3, max_grad_norm=10.0, gamma=0.9, return_scale=1.0, skills=4, skill_fraction=0.5,
        kl_weight=1e-3, gumbel=True, conservative_weight=5.0, conservative_temperature=0.2, skill_weight=5.0,
        target_period=27, network=NETWORK,
    )  # fmt: skip
    algo = odis.make(config, replace(PLAIN, tasks=2), (-1.0, 1.0))
    _, (metrics,) = train(algo, make, 800, phases=1)
    assert metrics["skills/loss"][:5].mean() > 0.9
    assert metrics["skills/loss"][-20:].mean() < 0.1
    assert metrics["skills/skill_entropy"][-20:].mean() > 0.3


HISSD = hissd.Config(
    learning_rate=3e-3, weight_decay=0.0, max_grad_norm=10.0, gamma=0.9, return_scale=1.0, expectile=0.9,
    advantage_scale=0.0, max_weight=100.0, contrastive_weight=1.0, temperature=0.1, contrast="all", planning=True,
    prediction=True, task_skill=True, target_period=5, network=NETWORK,
)  # fmt: skip


@pytest.mark.parametrize("linear", [True, False])
def test_the_planner_foretells_what_can_be_foretold(linear):
    """Views that turn by a fixed rule from step to step, and the same views in an order that means nothing.

    Nobody acts: what was done is part of the next state, and no plan could tell what a random agent will do.
    """

    def make(key):
        batch = batch_of(key, 3, lambda view, mask, key: jnp.zeros(mask.shape[:-1], int))
        start = batch.obs[:, 0]
        views = jnp.stack([jnp.roll(start, -t, axis=-1) for t in range(STEPS)], axis=1)
        return batch._replace(obs=views if linear else batch.obs)

    algo = hissd.make(replace(HISSD, contrast="off"), PLAIN, (-1.0, 1.0))
    _, (metrics,) = train(algo, make, 800)
    error = metrics["hissd/prediction_error"][:, 0]
    ratio = error[:3].mean() / error[-20:].mean()
    spread = 0.5 * 1 / 12  # half of the state are views, uniform over 0 … 1
    assert ratio > 10 if linear else error[-20:].mean() > 0.5 * spread


def test_without_plans_and_contrast_it_clones_as_well_as_cloning_does():
    """With alpha = 0 and beta = 0; as many updates on the same data."""
    make = lambda key: batch_of(key, 3, nearest)
    _, (floor,) = train(bc_t.make(bc_t.Config(3e-3, 10.0, NETWORK), DIMS), make, 400)
    _, (metrics,) = train(hissd.make(replace(HISSD, contrastive_weight=0.0), DIMS, (-1.0, 1.0)), make, 400)
    last = lambda accuracy: accuracy[-50:].mean()
    assert last(metrics["hissd/accuracy"]) > last(floor["bc/accuracy"]) - 0.02
    assert last(floor["bc/accuracy"]) > 0.9


@pytest.mark.parametrize("different", [True, False])
def test_task_skills_tell_tasks_apart_where_they_differ(different):
    def make(key):
        batch = batch_of(key, 3, anything, tasks=2)
        shift = different * 0.5 * batch.task_id.astype(jnp.float32)[:, None, None, None]
        return batch._replace(obs=0.5 * batch.obs + shift)

    algo = hissd.make(replace(HISSD, planning=False), replace(PLAIN, tasks=2), (-1.0, 1.0))
    _, (metrics,) = train(algo, make, 500)
    loss, chance = metrics["hissd/contrast_loss"][-20:].mean(), np.log(1 + ROWS / 2)
    found = metrics["hissd/contrast_accuracy"][-20:].mean()
    assert (loss < 0.5 * chance and found > 0.95) if different else (loss > 0.75 * chance and found < 0.5)
