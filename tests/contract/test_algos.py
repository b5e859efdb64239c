"""What every algorithm promises, by its registration alone."""

from dataclasses import replace
from typing import get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl import build, config
from mtmarl.algos import ALGOS, ONLINE
from mtmarl.networks import entities
from mtmarl.types import Dims, Observation, example_batch
from tests.batches import TOY, extreme_batches

DIMS = Dims(agents=3, obs=7, actions=5, horizon=10, tasks=2, entities=TOY)


def make(name, dims=DIMS):
    """The algorithm, small. `dims` are of tasks that do not tell what they are, or of some that do."""
    options, command = [f"+algo={name}", "+tasks=lbf_5"], "collect" if name in ONLINE else "train"
    sizes = config.compose(options, command).algo.get("network", {})
    small = [f"algo.network.{k}={v}" for k, v in {"embed_dim": 16, "heads": 2}.items() if k in sizes]
    # A decay would move what no gradient reaches.
    small += [f"algo.{k}=0" for k in config.compose(options, command).algo if k == "weight_decay"]
    cfg = config.compose([*options, *small], command)
    spec, settings = build.parse_algorithm(cfg, ALGOS)
    if dims.task_features == (0, 0) and spec.task_features:
        dims = replace(dims, task_features=(dims.obs - 2, dims.obs))  # The last two columns.
    return build.make_algorithm(spec, settings, dims, 4, (-1.0, 1.0))


def make_batch(algo, learner, dims=DIMS, rows=4, steps=6):
    """A random batch with two tasks and a padded slot, with the extras that acting writes."""
    keys = jax.random.split(jax.random.key(0), 5)
    batch = example_batch(dims, rows, steps)
    mask = jax.random.bernoulli(keys[0], 0.6, batch.action_mask.shape).at[..., 0].set(True)
    agent_mask = batch.agent_mask.at[::2, :, 1].set(False)
    batch = batch._replace(
        obs=jax.random.normal(keys[1], batch.obs.shape),
        action_mask=mask,
        agent_mask=agent_mask,
        action=jax.random.categorical(keys[2], jnp.where(mask, 0.0, -jnp.inf)) * agent_mask,
        reward=jax.random.normal(keys[3], batch.reward.shape, batch.reward.dtype),
        task_id=jnp.arange(rows) % dims.tasks,
    )
    _, _, extras = jax.jit(algo.act)(
        learner.params, algo.init_carry(rows, dims.agents), first_step(batch), keys[4], 1.0
    )
    if extras:
        repeat = lambda x: jnp.repeat(x[:, None], steps, axis=1)
        more = {"carry": algo.init_carry(rows, dims.agents), "bootstrap": extras["value"]}
        batch = batch._replace(extras={**{k: repeat(v) for k, v in extras.items()}, **more})
    if any("vault" in phase.source for phase in algo.phases):
        batch = batch._replace(extras={**batch.extras, "offline": batch._replace(extras={})})
    return batch


def first_step(batch):
    return jax.tree.map(lambda x: x[:, 0], batch.observation)


def checked(update):
    """Compiled once, whatever the batch; no key is used for two things."""
    compiled = jax.jit(update)

    def run(*args):
        with jax.debug_key_reuse(True):
            found = compiled(*args)
        assert compiled._cache_size() == 1
        return found

    return run


@pytest.fixture(scope="module", params=sorted(ALGOS))
def case(request):
    algo = make(request.param)
    # Several tests call the updates, which take long to compile.
    algo = algo._replace(phases=tuple(p._replace(update=checked(p.update)) for p in algo.phases))
    with jax.debug_key_reuse(True):
        learner = jax.jit(algo.init)(jax.random.key(0), example_batch(DIMS))
        return algo, learner, make_batch(algo, learner)


def not_finite(tree):
    found = jax.tree_util.tree_leaves_with_path(tree)
    return [jax.tree_util.keystr(at) for at, x in found if not np.isfinite(x).all()]


def test_updates_are_finite(case):
    algo, learner, batch = case
    for phase in algo.phases:
        for i in range(2):
            learner, metrics = phase.update(learner, batch, jax.random.key(i))
        assert not not_finite((learner, metrics))


def test_updates_are_finite_at_the_ends_of_what_batches_hold(case):
    algo, fresh, batch = case
    wrong = {}
    for name, extreme in extreme_batches(batch).items():
        learner = fresh
        for phase in algo.phases:
            for i in range(2):
                learner, metrics = phase.update(learner, extreme, jax.random.key(i))
                wrong[name] = wrong.get(name) or not_finite((learner, metrics))
    assert not {name: found for name, found in wrong.items() if found}


def test_every_parameter_is_trained(case):
    algo, learner, batch = case
    after = learner
    for phase in algo.phases:
        for i in range(2):
            after, _ = phase.update(after, batch, jax.random.key(i))
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), learner.params, after.params)
    still = [jax.tree_util.keystr(k) for k, m in jax.tree_util.tree_leaves_with_path(moved) if not m]
    assert not still


@pytest.mark.parametrize("name", sorted(ALGOS))
def test_trains_by_its_defaults(name):
    """As far as settings can tell: its phases and those of the trainer fit each other."""
    build.run_spec(config.compose([f"+algo={name}", "+tasks=lbf/5x5-2p-1f-t20"], "train"))


def test_fractions_of_phases_add_up(case):
    assert abs(sum(phase.fraction for phase in case[0].phases) - 1.0) < 1e-9


@pytest.mark.parametrize("sample_probability", [0.0, 1.0])
def test_acts_legally_at_any_team_size(case, sample_probability):
    algo, learner, _ = case
    for agents in (1, 3, 7):
        keys = jax.random.split(jax.random.key(agents), 3)
        mask = jax.random.bernoulli(keys[0], 0.4, (64, agents, 5)).at[..., 2].set(True)
        active = jax.random.bernoulli(keys[1], 0.8, (64, agents))
        obs = Observation(jax.random.normal(keys[2], (64, agents, 7)), mask, active)
        _, action, _ = jax.jit(algo.act)(
            learner.params, algo.init_carry(64, agents), obs, keys[0], sample_probability
        )
        chosen = np.take_along_axis(np.asarray(mask), np.asarray(action)[..., None], -1)[..., 0]
        assert chosen[np.asarray(active)].all()
        assert not np.asarray(action)[~np.asarray(active)].any(), "a padded slot emits NOOP"


def test_greedy_acting_needs_no_luck(case):
    algo, learner, batch = case
    act = lambda seed: jax.jit(algo.act)(
        learner.params, algo.init_carry(4, DIMS.agents), first_step(batch), jax.random.key(seed), 0.0
    )[1]
    np.testing.assert_array_equal(act(0), act(1))


@pytest.mark.parametrize("case", [n for n, spec in ALGOS.items() if spec.decentralised], indirect=True)
def test_agents_act_on_what_they_see_alone(case):
    """Acting takes one observation and no state, and an agent's action follows from its own part of it."""
    algo, learner, _ = case
    everything = jnp.ones((64, 3, 5), bool), jnp.ones((64, 3), bool)

    @jax.jit
    def act(view, carry):
        return algo.act(learner.params, carry, Observation(view, *everything), jax.random.key(0), 0.0)[:2]

    view = jax.random.normal(jax.random.key(1), (64, 3, 7))
    carry = other = algo.init_carry(64, 3)
    for _ in range(2):
        carry, action = act(view, carry)
        other, again = act(view.at[:, 1].add(2.0), other)
        np.testing.assert_array_equal(action[:, [0, 2]], again[:, [0, 2]])
    differ = jax.tree.map(lambda a, b: (a != b).reshape(64, -1).any(-1), carry, other)
    remembers = any(x.size for x in jax.tree.leaves(carry))
    assert remembers == any(bool(x.any()) for x in jax.tree.leaves(differ)), "a memory knows what it saw"


# Networks that read entities leave out actions at targets that no task has. HiSSD's takes half a minute to compile.
AIMING = [
    pytest.param(name, marks=pytest.mark.slow if name in ("hissd", "hygen") else ())
    for name, spec in ALGOS.items()
    if get_type_hints(spec.Config).get("network") is entities.Config
]


@pytest.mark.parametrize("name", AIMING)
def test_objects_that_no_task_has_are_left_out_and_change_nothing(name):
    """The last of the toy's two objects is never there: with and without it updates are the same but for rounding."""
    found = []
    for split in (TOY, replace(TOY, most_objects=1)):
        algo = make(name, replace(DIMS, entities=split))
        learner = jax.jit(algo.init)(jax.random.key(0), example_batch(DIMS))
        batch = make_batch(algo, learner)
        aimed = batch.action == DIMS.actions - 1
        batch = batch._replace(
            obs=batch.obs.at[..., 3].set(-2.0),
            action_mask=batch.action_mask.at[..., -1].set(False),
            action=jnp.where(aimed, 0, batch.action),
        )
        given = learner, batch, jax.random.key(0)
        programs = [jax.jit(phase.update).lower(*given).compile() for phase in algo.phases]
        metrics = [program(*given)[1] for program in programs]
        found.append((metrics, sum(program.cost_analysis()["flops"] for program in programs)))
    (whole, more), (less, fewer) = found
    assert fewer < more
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), whole, less)
