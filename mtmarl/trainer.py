"""The only training loop: offline or online, any algorithm, any source.

Chunks of updates are one compiled program each (a `lax.scan`). The order at every chunk boundary is fixed:
events on the state as it is (evaluation, recording) → checkpoint → next chunk → metrics of the chunk before,
fetched while the next one runs. Keys are functions of (seed, update index), so a resumed run replays.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtmarl import sharding
from mtmarl.algos.base import Algorithm, Phase
from mtmarl.data.source import Source
from mtmarl.errors import UserError
from mtmarl.types import Batch, Learner


class TrainState(NamedTuple):
    """All that a checkpoint must hold. `update` is the number of updates done."""

    learner: Learner
    source: Any
    update: jax.Array


class Event(NamedTuple):
    """`run(state) -> metrics` before the first update, every `every` updates, and after the last."""

    every: int
    run: Callable[[TrainState], Mapping[str, float]]


class Plan(NamedTuple):
    """updates: of the whole run; chunk: per compiled call; checkpoint_every: in updates, a multiple of chunk."""

    seed: int
    updates: int
    chunk: int
    checkpoint_every: int


def check_plan(plan: Plan, events: Sequence[Event]) -> None:
    """Everything must fall on chunk boundaries."""
    spans = {"trainer.updates": plan.updates, "trainer.checkpoint_every": plan.checkpoint_every}
    spans |= {f"an event every {e.every} updates": e.every for e in events}
    for name, span in spans.items():
        if span <= 0 or span % plan.chunk:
            raise UserError(f"{name} ({span}) must be a positive multiple of trainer.chunk ({plan.chunk})")


def initial_state(algo: Algorithm, source: Source, example: Batch, seed: int, mesh=None) -> TrainState:
    """Fresh parameters and source state, replicated over the mesh. Only the shapes of the example matter."""
    mesh = mesh or sharding.make_mesh()
    key = jax.random.fold_in(jax.random.key(seed), 2**31 - 1)

    def init(key):
        key_algo, key_source = jax.random.split(key)
        return TrainState(algo.init(key_algo, example), source.init(key_source), jnp.zeros((), jnp.int32))

    return jax.jit(init, out_shardings=sharding.replicated(mesh))(key)


def make_chunk(phase: Phase, source: Source, plan: Plan, mesh=None) -> Callable:
    """One compiled function: (state, data, prefetched) -> (state, metrics averaged over the chunk)."""
    mesh = mesh or sharding.make_mesh()

    def one(data, state: TrainState, x):
        key = jax.random.fold_in(jax.random.key(plan.seed), state.update)
        key_data, key_update = jax.random.split(key)
        source_state, batch = source.next(state.source, data, x, state.learner.params, key_data)
        rows = sharding.split_rows(mesh, batch.task_id.shape[0])
        batch = jax.lax.with_sharding_constraint(batch, rows)
        learner, metrics = phase.update(state.learner, batch, key_update)
        return TrainState(learner, source_state, state.update + 1), metrics

    def chunk(state, data, xs):
        state, metrics = jax.lax.scan(lambda s, x: one(data, s, x), state, xs, length=plan.chunk)
        return state, jax.tree.map(lambda m: m.mean(0), metrics)

    return jax.jit(chunk, donate_argnums=0, out_shardings=sharding.replicated(mesh))


def phase_of(algo: Algorithm, update: int, plan: Plan) -> int:
    """The index of the phase that update belongs to; borders fall on chunk boundaries."""
    end = 0.0
    for i, phase in enumerate(algo.phases[:-1]):
        end += phase.fraction
        if update < round(end * plan.updates / plan.chunk) * plan.chunk:
            return i
    return len(algo.phases) - 1


def train(
    algo: Algorithm,
    sources: Mapping[str, Source],
    plan: Plan,
    state: TrainState,
    events: Sequence[Event] = (),
    log: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
    save: Callable[[TrainState], None] = lambda state: None,
    task_names: Sequence[str] = (),
    mesh=None,
) -> TrainState:
    """Runs from `state` (fresh or restored) to the last update.

    `log(update, metrics)` gets plain floats; a metric of one number per task is logged as `metric/task`.
    """
    check_plan(plan, events)
    mesh = mesh or sharding.make_mesh()
    chunks: dict[int, Callable] = {}
    update, restored, pending = int(state.update), int(state.update) > 0, None

    def flush():
        nonlocal pending
        if pending is not None:
            done, metrics, began = pending
            metrics = _flatten(jax.device_get(metrics), task_names)
            log(done, {**metrics, "updates_per_second": plan.chunk / (time.perf_counter() - began)})
        pending = None

    while True:
        # A restored state was saved after its events had run.
        if not restored:
            due = [e for e in events if update % e.every == 0 or update == plan.updates]
            if due:
                flush()
            for event in due:
                log(update, event.run(state))
            if update % plan.checkpoint_every == 0 or update == plan.updates:
                save(state)
        restored = False
        if update >= plan.updates:
            break
        index = phase_of(algo, update, plan)
        source = sources[algo.phases[index].source]
        if index not in chunks:
            chunks[index] = make_chunk(algo.phases[index], source, plan, mesh)
        began = time.perf_counter()
        key = jax.random.fold_in(jax.random.key(plan.seed), update)
        state, metrics = chunks[index](state, source.data, source.prefetch(key, plan.chunk))
        flush()
        update += plan.chunk
        pending = (update, metrics, began)
    flush()
    return state


def _flatten(metrics: Mapping[str, Any], task_names: Sequence[str]) -> dict[str, float]:
    out = {}
    for name, value in metrics.items():
        if value.ndim:
            names = task_names or [str(k) for k in range(len(value))]
            out |= {f"{name}/{task}": float(v) for task, v in zip(names, value, strict=True)}
        else:
            out[name] = float(value)
    return out
