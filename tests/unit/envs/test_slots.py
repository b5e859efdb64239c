"""Shuffled slots in play, in training windows and beside entities; columns that training never varies."""

import json
from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.data.coverage import unvaried_columns
from mtmarl.data.vault import Vault
from mtmarl.envs.entities import of_layout
from mtmarl.envs.layout import Layout
from mtmarl.envs.lbf import SLOTS
from mtmarl.envs.registry import make_env
from mtmarl.ops.slots import shuffled_columns, take_columns
from mtmarl.training.rollout import observe
from tests.unit.data.recordings import make_recording

LBF, CONNECTOR = "lbf/6x6-3p-2f-t8", "connector/con-3x3x2a"


def layout_of(*names, **options):
    return Layout.of([make_env(n).spec for n in names], shuffle_slots=True, **options)


def objects(obs, group):
    """The objects of a group as sorted rows, for each leading index."""
    part = np.asarray(obs)[..., group.start : group.stop].reshape(-1, group.count, group.width)
    return [sorted(map(tuple, x.tolist())) for x in part]


@pytest.mark.parametrize("names", [(LBF,), (CONNECTOR, LBF)])
def test_an_episode_keeps_its_order_and_holds_the_same_objects(names):
    raw, env = make_env(LBF), layout_of(*names).wrap(make_env(LBF))
    orders = set()
    for seed in range(6):
        key = jax.random.key(seed)
        own_state, own = raw.reset(key)
        state, step = env.reset(key)
        for _ in range(3):
            for group in SLOTS:
                assert objects(step.obs[:, : own.obs.shape[1]], group) == objects(own.obs, group)
            np.testing.assert_array_equal(
                take_columns(own.obs, state.columns), step.obs[:, : own.obs.shape[1]]
            )
            np.testing.assert_array_equal(step.obs[:, 18:21], own.obs[:, 18:21])  # self
            action = jnp.argmax(step.action_mask, axis=-1)
            columns = np.asarray(state.columns)
            state, step = env.step(state, action, key)
            own_state, own = raw.step(own_state, action, key)
            np.testing.assert_array_equal(state.columns, columns)
        orders |= {tuple(x) for x in columns}
    assert len(orders) > 12  # of 18 agents


def test_families_without_slots_are_left_alone():
    layout = layout_of(CONNECTOR, LBF)
    state, _ = layout.wrap(make_env(CONNECTOR)).reset(jax.random.key(0))
    assert state.columns is None
    env = make_env(CONNECTOR)
    assert layout_of(CONNECTOR).slots == () and layout_of(CONNECTOR).wrap(env) is env


def test_a_layout_is_recorded_and_one_from_before_has_fixed_slots():
    layout = layout_of(CONNECTOR, LBF)
    record = json.loads(json.dumps(asdict(layout)))
    assert Layout.from_record(record) == layout
    del record["slots"]
    before = Layout.from_record(record)
    assert before.slots == () and before == Layout.of([make_env(n).spec for n in (CONNECTOR, LBF)])


def test_entities_do_not_see_the_order_of_slots():
    """The same allies and foods, as sets, from shuffled and from fixed slots."""
    env = make_env(LBF)
    _, step = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 16))
    columns = shuffled_columns(jax.random.key(1), SLOTS, 36, step.obs.shape[:2])
    split = of_layout(Layout.of([env.spec]))
    fixed = split.observe(observe(step))
    shuffled = split.observe(observe(step._replace(obs=take_columns(step.obs, columns))))
    np.testing.assert_array_equal(fixed.own, shuffled.own)
    for tokens, mask in (("allies", "ally_mask"), ("objects", "object_mask")):
        as_sets = [
            [
                sorted(map(tuple, t[m].tolist()))
                for t, m in zip(
                    np.asarray(getattr(x, tokens)).reshape(48, -1, 3),
                    np.asarray(getattr(x, mask)).reshape(48, -1),
                    strict=True,
                )
            ]
            for x in (fixed, shuffled)
        ]
        assert as_sets[0] == as_sets[1]
        assert min(map(len, as_sets[0])) == 2


def recorded(task, obs):
    env = make_env(task)
    recording = make_recording(0, steps=len(obs), agents=env.spec.agents, features=36, actions=6)
    return env, Vault(recording._replace(obs=obs), {"obs_scale": env.obs_scale.tolist()}, None)


def test_columns_that_training_never_varies_are_counted():
    rng = np.random.default_rng(0)
    obs = rng.integers(0, 5, (50, 3, 36)).astype(np.int8)
    obs[..., 6:18] = np.tile([-1, -1, 0], 4)  # two foods
    obs[..., 27:] = np.tile([-1, -1, 0], 3)  # two other agents
    env, vault = recorded(LBF, obs)
    test = {name: make_env(name) for name in ("lbf/8x8-3p-2f", "lbf/8x8-4p-3f", "connector/con-3x3x2a")}
    (found,) = unvaried_columns([vault], [env], test, {})
    assert (found.family, found.columns, found.constant) == ("lbf", 36, 21)
    # A third food and a third other agent fill three columns each.
    assert found.held_out == {"lbf/8x8-3p-2f": 0, "lbf/8x8-4p-3f": 6}
    assert "21 of 36" in found.warning() and "up to 6 of them vary in 1 of 2" in found.warning()
    (shuffled,) = unvaried_columns([vault], [env], test, {"lbf": SLOTS})
    assert shuffled.constant == 0 and shuffled.held_out == {} and shuffled.warning() is None
