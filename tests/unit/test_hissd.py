"""HiSSD: which loss reaches which part, what can be left out, and what acting may see.

Its update takes half a minute to compile, so tests that need several are slow.
"""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos import hissd
from mtmarl.networks import entities
from mtmarl.networks.entities import Seen
from mtmarl.networks.hissd import Planner, Predictor, Value, next_state
from mtmarl.types import Dims
from tests.batches import ACTIONS, OBS, TOY, by_hand, make_batch, pad, walk
from tests.unit.test_odis import moved

CONFIG = hissd.Config(
    learning_rate=1e-3, weight_decay=0.0, max_grad_norm=1e9, gamma=0.9, return_scale=1.0, expectile=0.9,
    advantage_scale=10.0, max_weight=100.0, contrastive_weight=0.05, temperature=0.1, contrast="all", planning=True,
    prediction=True, task_skill=True, target_period=5, network=entities.Config(8, 1, 1),
)  # fmt: skip
DIMS = Dims(3, OBS, ACTIONS, 10, 2, TOY)
ALL = {"planner", "predictor", "task_encoder", "similarity", "controller", "value", "mixer"}


@cache
def build(dims=DIMS, **options):
    algo = hissd.make(replace(CONFIG, **options), dims, (-1.0, 1.0))
    learner = jax.jit(algo.init)(jax.random.key(0), make_batch(dims.agents, tasks=dims.tasks))
    return algo, learner, jax.jit(algo.phases[0].update)


@pytest.fixture(scope="module")
def full():
    return build()


def test_everything_trains_and_keeps_training(full):
    _, learner, update = full
    batch = make_batch(3)
    for i in range(3):
        after, metrics = update(learner, batch, jax.random.key(i))
        assert moved(learner.params, after.params) == ALL
        learner = after
    assert all(np.isfinite(np.asarray(x)).all() for x in metrics.values())


def test_value_and_plan_are_learned_by_the_formulas_step_by_step(full):
    """Expectile regression on the target network's next value; the planner foretells the next state of the same
    episode, the better the transition the more it counts.
    """
    algo, learner, update = full
    batch, params = make_batch(3), learner.params
    other = jax.jit(algo.init)(jax.random.key(1), batch).params
    width = CONFIG.network.embed_dim
    nothing = jnp.zeros((*batch.action[:, 0].shape, width))

    def along(module, params):
        step = lambda memory, obs, last: module.apply(
            {"params": params}, entities.agent_inputs(TOY, obs, last), memory
        )
        return walk(batch, step, nothing)

    value = lambda p: entities.mix(
        entities.Mixer(width), TOY, p, along(Value(CONFIG.network), p["value"]), batch
    )
    plans, state = (
        along(Planner(CONFIG.network), params["planner"]),
        next_state(TOY, batch.observation, batch.action),
    )
    net = Predictor(state.agents.shape[-1], state.objects.shape[-1])
    memory, wrong = jnp.zeros((*state.objects[:, 0].shape[:-1], width)), []
    for t in range(batch.first.shape[1] - 1):
        memory = jnp.where(batch.first[:, t, None, None], 0.0, memory)
        now = jax.tree.map(lambda x, t=t: x[:, t], plans)
        agents, objects, memory = net.apply(
            {"params": params["predictor"]}, now, batch.agent_mask[:, t], memory
        )
        there = state.object_mask[:, t]
        of_objects = (((objects - state.objects[:, t]) ** 2).mean(-1) * there).sum(-1)
        wrong.append(
            ((agents - state.agents[:, t]) ** 2).mean((-1, -2)) + of_objects / jnp.maximum(there.sum(-1), 1)
        )

    def expectile(row, t, error):
        return (0.9 if error > 0 else 0.1) * error**2

    def plan(row, t, error):
        return min(np.exp(10.0 * error), 100.0) * float(wrong[t][row])

    metrics = update(learner._replace(target=other), batch, jax.random.key(0))[1]
    hand = lambda of: by_hand(batch, value(params), value(other), CONFIG.gamma, of=of)
    assert metrics["hissd/value_loss"] == pytest.approx(hand(expectile), rel=1e-4)
    # Where an episode ends, no next state of its own follows; every term is of the mean over what does.
    inside = lambda row, t, error: None if batch.first[row, t + 1] else plan(row, t, error)
    assert metrics["hissd/plan_loss"] == pytest.approx(hand(inside), rel=1e-4)


def reached(one, two):
    """Top-level modules whose gradients differ by more than two programs round, by the first moments they left."""

    def moments(learner):
        leaves = jax.tree_util.tree_leaves_with_path(learner.opt)
        return {jax.tree_util.keystr(path): x for path, x in leaves if ".mu" in jax.tree_util.keystr(path)}

    a, b = moments(one), moments(two)
    close = lambda x, y: np.allclose(x, y, rtol=1e-3, atol=1e-3 * float(abs(x).max()))
    differ = [path for path in a if not close(a[path], b[path])]
    return {name for name in ALL for path in differ if f".mu['{name}']" in path}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "options", "parts"),
    [
        # Rewards enter the value alone where the planner is not weighted by it.
        ("reward", {"advantage_scale": 0.0}, {"value", "mixer"}),
        ("contrastive_weight", {}, {"task_encoder", "similarity"}),
        ("advantage_scale", {}, {"planner", "predictor"}),
    ],
)
def test_each_loss_reaches_its_own_parts(changed, options, parts):
    batch = make_batch(3)
    _, learner, update = build(**options)
    before, _ = update(learner, batch, jax.random.key(0))
    if changed == "reward":
        after, _ = update(learner, batch._replace(reward=-5 * batch.reward), jax.random.key(0))
    else:
        _, _, other = build(**{changed: 3.0})
        after, _ = other(learner, batch, jax.random.key(0))
    assert reached(before, after) == parts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "parts"),
    [
        # What is left is cloning and contrast: nothing of the value.
        ({"prediction": False}, ALL - {"predictor", "value", "mixer"}),
        ({"planning": False}, {"task_encoder", "similarity", "controller"}),
        ({"task_skill": False}, ALL - {"task_encoder", "similarity"}),
        ({"contrast": "half"}, ALL),
        ({"contrast": "l2"}, ALL - {"similarity"}),
    ],
)
def test_parts_can_be_left_out(options, parts):
    _, learner, update = build(**options)
    after, metrics = update(learner, make_batch(3), jax.random.key(0))
    assert moved(learner.params, after.params) == parts == set(learner.params)
    assert all(np.isfinite(np.asarray(x)).all() for x in metrics.values())


@pytest.mark.slow
@pytest.mark.parametrize(("agents", "tasks"), [(3, 1), (1, 2)])
def test_one_task_has_no_contrast_and_one_agent_no_pair(agents, tasks):
    _, learner, update = build(Dims(agents, OBS, ACTIONS, 10, tasks, TOY))
    _, metrics = update(learner, make_batch(agents, tasks=tasks), jax.random.key(0))
    assert metrics["hissd/contrast_loss"] == 0
    assert all(np.isfinite(np.asarray(x)).all() for x in metrics.values())


@pytest.mark.slow
def test_padded_agents_change_nothing(full):
    """The draws of the contrast included."""
    _, learner, update = full
    batch = make_batch(3)
    _, plain = update(learner, batch, jax.random.key(0))
    _, padded = build(replace(DIMS, agents=5))[2](learner, pad(batch, 5), jax.random.key(0))
    assert plain.keys() == padded.keys() and plain["hissd/contrast_loss"] > 0
    for name in plain:
        np.testing.assert_allclose(plain[name], padded[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_the_predictor_knows_no_order_of_objects_and_no_absent_agents():
    keys = jax.random.split(jax.random.key(0), 5)
    skills = Seen(
        own=jax.random.normal(keys[0], (2, 3, 8)), objects=jax.random.normal(keys[1], (2, 3, 4, 8)),
        allies=jnp.zeros((2, 3, 0, 8)), mask=jax.random.bernoulli(keys[2], 0.7, (2, 3, 5)),
    )  # fmt: skip
    memory, active = jax.random.normal(keys[3], (2, 4, 8)), jnp.asarray([[True, True, False]] * 2)
    net = Predictor(5, 2)
    params = net.init(keys[4], skills, active, memory)
    agents, objects, after = net.apply(params, skills, active, memory)
    order = jnp.asarray([2, 0, 3, 1])
    moved = skills._replace(
        objects=skills.objects[:, :, order],
        mask=jnp.concatenate([skills.mask[..., :1], skills.mask[..., 1:][..., order]], axis=-1),
        own=skills.own.at[:, 2].set(9.0),
    )
    again = net.apply(params, moved, active, memory[:, order])
    for x, y in (
        (agents[:, :2], again[0][:, :2]),
        (objects[:, order], again[1]),
        (after[:, order], again[2]),
    ):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_what_is_to_be_predicted_is_the_next_state_and_the_actions_that_led_there():
    batch = make_batch(3)
    state = next_state(TOY, batch.observation, batch.action)
    team = TOY.team(batch.observation)
    np.testing.assert_array_equal(state.agents[..., :OBS], team.agents[:, 1:])
    np.testing.assert_array_equal(state.agents[..., OBS:], entities.compact(batch.action[:, :-1], TOY))
    np.testing.assert_array_equal(state.objects[..., :1], team.objects[:, 1:])
    for k in range(2):
        aimed = (np.asarray(batch.action[:, :-1]) == 3 + k).any(-1)
        np.testing.assert_array_equal(state.objects[..., k, 1], aimed)
