"""The loop: devices, phases, order of events."""

import itertools

import jax
import numpy as np
import pytest

from mtmarl.algos import mt_oryx
from mtmarl.algos.base import Algorithm, Phase, freeze, gradient_step
from mtmarl.data import sampling, vault
from mtmarl.data.source import vault_source
from mtmarl.errors import UserError
from mtmarl.networks import sable
from mtmarl.training import loop, sharding
from mtmarl.types import Dims, example_batch

DIMS = Dims(agents=3, obs=36, actions=6, horizon=20, tasks=2)
CONFIG = mt_oryx.Config(
    learning_rate=1e-3, max_grad_norm=10.0, gamma=0.9, tau=0.1, value_temperature=1.0, policy_temperature=0.5,
    critic_weight=1.0, icq_grouping="task", hl_gauss=True, bins=11, sigma_ratio=0.75,
    network=sable.Config(16, 2, 1, 0.5),
)  # fmt: skip
PLAN = loop.Plan(seed=0, updates=8, chunk=2, checkpoint_every=4)


@pytest.fixture(scope="module")
def source(micro_vaults):
    vaults = [vault.read_vault(p) for p in vault.list_vaults(micro_vaults).values()]
    return vault_source(sampling.make_task_data(vaults, DIMS), batch_size=6, context=5)


def run(source, mesh=None, plan=PLAN, **options):
    algo = mt_oryx.make(CONFIG, DIMS, (-1.0, 1.0))
    state = loop.initial_state(algo, source, example_batch(DIMS), plan.seed, mesh)
    return loop.train(algo, {"default": source}, plan, state, mesh=mesh, **options)


def test_two_devices_are_one(source):
    assert jax.device_count() == 2
    one, two = (run(source, sharding.make_mesh(n)) for n in (1, 2))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, one.learner.params, two.learner.params)


def test_order_of_events_and_metrics(source):
    seen = []
    event = loop.Event(4, lambda update, params: seen.append(("event", update)) or {"score": 1.0})
    log = lambda update, metrics: seen.append(("score" if "score" in metrics else "metrics", update))
    run(
        source,
        events=[event],
        log=log,
        save=lambda s: seen.append(("save", int(s.update))),
        task_names=["a", "b"],
    )
    assert seen == [
        ("event", 0), ("score", 0), ("metrics", 2),
        ("metrics", 4), ("event", 4), ("score", 4), ("save", 4), ("metrics", 6),
        ("metrics", 8), ("event", 8), ("score", 8), ("save", 8),
    ]  # fmt: skip


def test_the_time_of_a_chunk_is_counted_once(source, monkeypatch):
    """A chunk is handed over while the one before it runs: with a clock that each look puts forward by one."""
    ticks = itertools.count()
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(ticks)))
    speeds = []
    plan = PLAN._replace(checkpoint_every=8)
    run(source, plan=plan, log=lambda update, metrics: speeds.append(metrics["updates_per_second"]))
    assert len(speeds) == 4 and sum(plan.chunk / speed for speed in speeds) <= next(ticks)


def test_per_task_metrics_carry_the_names_of_tasks(source):
    seen = {}
    run(source, log=lambda update, metrics: seen.update(metrics), task_names=["a", "b"])
    assert {
        "oryx/q/a",
        "oryx/q/b",
        "oryx/target_clip_rate/a",
        "oryx/critic_loss",
        "updates_per_second",
    } <= seen.keys()


def test_spans_must_fall_on_chunks():
    with pytest.raises(UserError, match="multiple of trainer.chunk"):
        loop.check_plan(loop.Plan(0, 9, 2, 4), [])


def test_a_run_of_another_chunk_length_is_not_gone_on_with(source):
    algo = mt_oryx.make(CONFIG, DIMS, (-1.0, 1.0))
    state = loop.initial_state(algo, source, example_batch(DIMS), PLAN.seed)
    with pytest.raises(UserError, match=r"update 3.* multiple of trainer.chunk \(2\)"):
        loop.train(algo, {"default": source}, PLAN, state._replace(update=state.update + 3))


def test_phases_take_their_share_of_updates():
    update = lambda learner, batch, key: (learner, {})
    algo = Algorithm(None, (Phase("a", 0.25, update), Phase("b", 0.75, update)), None, None)
    plan = loop.Plan(0, 16, 2, 16)
    assert [loop.phase_of(algo, u, plan) for u in range(0, 16, 2)] == [0, 0, 1, 1, 1, 1, 1, 1]


def test_gradient_steps_keep_their_own_moments_and_frozen_parts():
    import jax.numpy as jnp
    import optax

    from mtmarl.algos.base import init_learner

    params, batch = {"a": jnp.ones(2), "b": jnp.ones(2)}, example_batch(DIMS)
    txs = {"all": optax.sgd(0.1), "part": freeze(optax.sgd(0.1), ["a"])}
    loss = lambda p, target, batch, key: (sum((x**2).sum() for x in p.values()), {})
    learner = init_learner(params, txs)
    part, metrics = gradient_step("part", loss, txs["part"])(learner, batch, jax.random.key(0))
    np.testing.assert_array_equal(part.params["a"], params["a"])
    np.testing.assert_allclose(part.params["b"], 0.8)
    both, further = gradient_step("all", loss, txs["all"])(part, batch, jax.random.key(0))
    np.testing.assert_allclose(both.params["b"], 0.64)
    assert int(both.step) == 2 and {*metrics, *further} == {"all/grad_norm", "part/grad_norm"}


@pytest.fixture(scope="module")
def alone(source):
    return run(source)


@pytest.mark.parametrize("seeds", [(5, 0), (5, 2, 0)], ids=["split over the devices", "rows split instead"])
def test_seeds_side_by_side_are_each_as_if_alone(source, alone, seeds):
    algo, plan = mt_oryx.make(CONFIG, DIMS, (-1.0, 1.0)), PLAN._replace(seed=seeds)
    state = loop.initial_state(algo, source, example_batch(DIMS), seeds)
    seen = [[] for _ in seeds]
    logs = [lambda update, metrics, to=to: to.append((update, metrics["oryx/critic_loss"])) for to in seen]
    state = loop.train(algo, {"default": source}, plan, state, log=logs)
    parts = loop.unstack(state)
    # Where a gradient is nearly zero, Adam makes a visible part of a step of a rounding error.
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    jax.tree.map(close, parts[-1].learner.params, alone.learner.params)
    assert [u for u, _ in seen[0]] == [2, 4, 6, 8] and seen[0] != seen[-1]
    again = loop.stack(parts, seeds)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    assert jax.tree.leaves(again)[0].sharding == jax.tree.leaves(state)[0].sharding
