"""What every environment must keep, whatever its family."""

import dataclasses
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl import config
from mtmarl.envs.layout import Layout
from mtmarl.envs.registry import BUILT_IN, get_family, make_env
from mtmarl.types import Env
from tests.extras import needs_jaxmarl

MICRO = {
    "lbf": "lbf/5x5-2p-1f-t8",
    "connector": "connector/con-3x3x2a",
    "rware": "rware/1x3h2-2ag-t8",
    "smax": "smax/2m-t2",
}
BENCHMARKS = {"lbf_5": (5, 5), "connector_10": (10, 7), "rware_15": (15, 10)}
SMAX_SETS = {
    "marine_hard": (3, 9), "marine_easy": (3, 7), "stalker_zealot": (3, 10), "m3_easy": (4, 1), "m3_mixed": (4, 1),
}  # fmt: skip
SETS = {**BENCHMARKS, **SMAX_SETS}
# In these nothing happens of itself: where nobody moves, everything stays as it is.
STILL = ("lbf", "connector", "rware")


def each(names, of_smax):
    return [pytest.param(n, marks=needs_jaxmarl) if n in of_smax else n for n in names]


def tasks_of(name):
    return config.compose([f"+tasks={name}", "run=unused"], "evaluate").tasks


@pytest.fixture(scope="module", params=each(BUILT_IN, ["smax"]))
def env(request):
    return make_env(MICRO[request.param])


def test_is_a_frozen_env(env):
    assert isinstance(env, Env)
    assert env.spec.name == MICRO[env.spec.family]
    with pytest.raises(dataclasses.FrozenInstanceError):
        env.name = "another"
    assert env.obs_scale.dtype == np.float32 and (env.obs_scale > 0).all()


def test_its_family_says_what_it_is(env):
    family, spec = get_family(env.spec.family), env.spec
    assert family.fields and set(spec.task_features) == set(family.task_features)
    assert len(family.fields) == spec.obs and family.actions.count == spec.actions
    np.testing.assert_array_equal(family.obs_scale, env.obs_scale)
    assert spec.win_return == family.win_return and spec.max_return in (None, family.max_return)
    assert find_spec(family.package)


def test_a_step_returns_what_a_reset_returns(env):
    """Same structure, shapes and dtypes, so that the two can be the carry of one scan."""
    key, actions = jax.random.key(0), jnp.zeros(env.spec.agents, jnp.int32)
    start = jax.eval_shape(env.reset, key)
    after = jax.eval_shape(env.step, start[0], actions, key)
    kinds = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]
    assert jax.tree.structure(start) == jax.tree.structure(after)
    assert kinds(start) == kinds(after)


def test_a_task_can_be_told_inside_a_program(env):
    """What describes it are plain numbers, also where they are read while a program is traced."""
    told = Layout.of([env.spec], task_features=True)
    _, first = jax.eval_shape(told.wrap(env).reset, jax.random.key(0))
    assert first.obs.shape == (env.spec.agents, told.obs) and told.obs > env.spec.obs


def test_a_batch_is_its_rows_and_the_same_keys_give_the_same_play(env):
    keys = jax.random.split(jax.random.key(0), 3)
    actions = jax.random.randint(jax.random.key(1), (3, env.spec.agents), 0, env.spec.actions)

    def play(key, action):
        state, first = env.reset(key)
        return first, env.step(state, action, key)[1]

    batch = jax.jit(jax.vmap(play))(keys, actions)
    one = jax.jit(play)
    for i in range(3):
        row = jax.tree.map(lambda x, i=i: x[i], batch)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), row, one(keys[i], actions[i]))


def test_the_final_observation_is_kept(env):
    """Nobody moves, so the last observation is like the first one and not that of another episode."""
    key, still = jax.random.key(2), jnp.zeros(env.spec.agents, jnp.int32)
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    state, first = reset(key)
    last = first
    for t in range(env.spec.horizon):
        assert last.action_mask[:, 0].all(), "doing nothing is always legal"
        assert not last.terminated and not last.truncated
        state, last = step(state, still, jax.random.fold_in(key, t))
    assert last.truncated and not last.terminated
    assert int(state.step_count) == env.spec.horizon
    if env.spec.family in STILL:
        np.testing.assert_array_equal(last.obs, first.obs)
    else:
        np.testing.assert_allclose(last.obs, first.obs, atol=0.1)
    assert any(not np.array_equal(last.obs, reset(jax.random.key(s))[1].obs) for s in range(3, 6))


@pytest.mark.parametrize("name", each(SETS, SMAX_SETS))
def test_every_task_of_a_set_is_what_its_spec_says(name):
    tasks = tasks_of(name)
    assert (len(tasks.train), len(tasks.test)) == SETS[name]
    assert not set(tasks.train) & set(tasks.test)
    for task in (*tasks.train, *tasks.test):
        env = make_env(task)
        spec = env.spec
        _, first = jax.eval_shape(env.reset, jax.random.key(0))
        assert (spec.name, spec.family) == (task, task.partition("/")[0])
        assert (first.obs.shape, first.obs.dtype) == ((spec.agents, spec.obs), jnp.float32)
        assert (first.action_mask.shape, first.action_mask.dtype) == ((spec.agents, spec.actions), jnp.bool_)
        assert (first.reward.shape, first.reward.dtype) == ((), jnp.float32)
        for end in (first.terminated, first.truncated):
            assert (end.shape, end.dtype) == ((), jnp.bool_)


def test_the_sets_agree_with_each_other():
    """The held-out sets and the set of everything repeat the lists of the three benchmarks."""
    benchmarks = [tasks_of(name) for name in BENCHMARKS]
    everything = tasks_of("all_30")
    assert everything.train == tuple(t for b in benchmarks for t in b.train)
    assert everything.test == tuple(t for b in benchmarks for t in b.test)
    for family, benchmark in zip(("lbf", "connector", "rware"), benchmarks, strict=True):
        held_out = tasks_of(f"{family}_test")
        assert (tuple(held_out.train), held_out.test) == ((), benchmark.test)
