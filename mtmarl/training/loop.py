"""The training loop for all algorithms and sources, offline and online.

A chunk of updates is one compiled program (a `lax.scan`). The order at every chunk boundary is fixed: events on the
current state (evaluation, recording), checkpoint, next chunk, metrics of the previous chunk. Those are fetched while
the next chunk runs. Before any later evaluation or checkpoint, the metrics show whether a chunk diverged. Random keys
are functions of (seed, update index), so a resumed run gives the same results. The events before the first update run
on a copy of the parameters during the first chunk, so that training does not wait for their compilation.

Several seeds also run as one program: the update is vmapped over a leading seed axis of the state. The seeds are
independent. They are split over the devices if their number divides evenly.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl import divergence
from mtmarl.algos.base import Algorithm, Phase
from mtmarl.data.source import Source
from mtmarl.divergence import Divergence, Trace
from mtmarl.errors import Diverged, UserError
from mtmarl.random_streams import Stream, stream
from mtmarl.stops import Request
from mtmarl.training import sharding
from mtmarl.training.checkpoint import names
from mtmarl.types import Batch, Learner, Params


class TrainState(NamedTuple):
    """The contents of a checkpoint. update: number of completed updates."""

    learner: Learner
    source: Any
    update: jax.Array


class Event(NamedTuple):
    """Calls `run(update, params) -> metrics` before the first update, every `every` updates and after the last."""

    every: int
    run: Callable[[int, Params], Mapping[str, float]]


Log = Callable[[int, Mapping[str, float]], None]

# Metrics that are counts: episodes that ended in the chunk, and gradient steps since the start of the run.
EPISODES, GRADIENT_STEPS = "episodes", "gradient_steps"


class Plan(NamedTuple):
    """updates: of the whole run. chunk: updates per compiled call. checkpoint_every: updates, a multiple of chunk.

    seed: of all random numbers. Several seeds (a tuple) train in parallel and give the same results as single runs.
    """

    seed: int | tuple[int, ...]
    updates: int
    chunk: int
    checkpoint_every: int


def check_plan(plan: Plan, events: Sequence[Event]) -> None:
    """Raises UserError unless all events and checkpoints fall on chunk boundaries."""
    spans = {"trainer.updates": plan.updates, "trainer.checkpoint_every": plan.checkpoint_every}
    spans |= {f"an event every {e.every} updates": e.every for e in events}
    for name, span in spans.items():
        if span <= 0 or span % plan.chunk:
            raise UserError(f"{name} ({span}) must be a positive multiple of trainer.chunk ({plan.chunk})")


def _placement(seed: int | tuple[int, ...], mesh):
    """Returns the sharding of the training state: replicated, or split by seed."""
    return sharding.split_rows(mesh, len(seed)) if isinstance(seed, tuple) else sharding.replicated(mesh)


def initial_state(
    algo: Algorithm, source: Source, example: Batch, seed: int | tuple[int, ...], mesh=None
) -> TrainState:
    """Returns new parameters and source state, stacked for several seeds. Only the shapes of the example are used."""
    seeds = seed if isinstance(seed, tuple) else (seed,)

    @partial(jax.jit, out_shardings=sharding.replicated(mesh or sharding.make_mesh()))
    def init(seed):
        learner = algo.init(stream(seed, Stream.PARAMETERS), example)
        return TrainState(learner, source.init(stream(seed, Stream.SOURCE)), jnp.zeros((), jnp.int32))

    # Not vmapped: the batched decompositions for orthogonal kernels can deadlock (jaxlib 0.10.2, two CPU cores).
    states = [init(jnp.int32(one)) for one in seeds]
    return stack(states, seed, mesh) if isinstance(seed, tuple) else states[0]


def stack(states: Sequence[TrainState], seed: tuple[int, ...], mesh=None) -> TrainState:
    """Stacks the states of single seeds along a leading seed axis."""
    join = jax.jit(
        lambda states: jax.tree.map(lambda *x: jnp.stack(x), *states),
        out_shardings=_placement(seed, mesh or sharding.make_mesh()),
    )
    return join(tuple(states))


def unstack(state: Any, mesh=None) -> list[Any]:
    """Inverts `stack`, also for a part of a state. The results are replicated over the mesh."""
    pick = jax.jit(
        lambda state, i: jax.tree.map(lambda x: x[i], state),
        out_shardings=sharding.replicated(mesh or sharding.make_mesh()),
    )
    return [pick(state, i) for i in range(jax.tree.leaves(state)[0].shape[0])]


def make_chunk(phase: Phase, source: Source, plan: Plan, mesh=None) -> Callable:
    """Returns a compiled function (state, data, prefetched) -> (state, (metrics, whether all is finite), trace).

    Metrics are means over the chunk and two counts. The `divergence.Trace` is fetched only after a divergence.
    """
    mesh = mesh or sharding.make_mesh()
    several, place = isinstance(plan.seed, tuple), _placement(plan.seed, mesh)

    def one(data, seed, state: TrainState, x):
        keys = {name: stream(seed, name, state.update) for name in (Stream.DATA, Stream.UPDATE)}
        source_state, batch = source.next(state.source, data, x, state.learner.params, keys[Stream.DATA])
        if place.is_fully_replicated:
            if mesh.size > 1:
                # Packing the agents of all rows would move them to other devices than their rows.
                batch = batch._replace(present=None)
            rows = sharding.split_rows(mesh, batch.task_id.shape[0])
            batch = jax.lax.with_sharding_constraint(batch, rows)
        learner, metrics = phase.update(state.learner, batch, keys[Stream.UPDATE])
        if "episodes" in batch.extras:
            metrics = {**metrics, EPISODES: batch.extras["episodes"].sum()}
        return TrainState(learner, source_state, state.update + 1), (metrics, _largest_reward(batch))

    update = jax.vmap(one, (None, 0, 0, 0)) if several else one
    finite_leaves = jax.vmap(_finite_leaves) if several else _finite_leaves

    def chunk(state, data, xs):
        seeds = jnp.asarray(plan.seed, jnp.int32)
        state, (metrics, reward) = jax.lax.scan(
            lambda s, x: update(data, seeds, s, x), state, xs, length=plan.chunk
        )
        summary = {name: m.sum(0) if name == EPISODES else m.mean(0) for name, m in metrics.items()}
        trace = Trace(metrics, *reward, finite_leaves(state.learner))
        summary[GRADIENT_STEPS] = state.learner.step
        return state, (summary, _finite(trace, several)), trace

    replicated = sharding.replicated(mesh)
    return jax.jit(chunk, donate_argnums=0, out_shardings=(place, replicated, replicated))


def _largest_reward(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Returns the largest absolute reward of a batch (inf if one is not finite) and its task."""
    valid = jnp.where(batch.time_mask, jnp.abs(batch.reward), 0.0)
    size = jnp.where(jnp.isfinite(valid), valid, jnp.inf).max(1)
    row = size.argmax()
    return size[row], batch.task_id[row]


def _finite_leaves(learner: Learner) -> dict[str, jax.Array]:
    """Returns whether each array of parameters, target parameters and optimiser moments is finite."""
    real = {name: x for name, x in names(learner).items() if jnp.issubdtype(x.dtype, jnp.inexact)}
    return {name: jnp.isfinite(x).all() for name, x in real.items()}


def _finite(trace: Trace, several: bool) -> jax.Array:
    """Returns whether all watched values of a trace are finite; one flag per seed for several seeds."""
    seeds = trace.reward.shape[1:]
    watched = [trace.reward, *(m for name, m in trace.metrics.items() if divergence.watched(name))]
    rest = lambda x: tuple(i for i in range(x.ndim) if not (several and i == 1))
    parts = [jnp.isfinite(x).all(rest(x)) for x in watched]
    return jnp.stack([*parts, *(jnp.broadcast_to(x, seeds) for x in trace.leaves.values())]).all(0)


def phase_ends(algo: Algorithm, plan: Plan) -> list[int]:
    """Returns the update at which each phase ends, rounded to chunk boundaries."""
    ends, end = [], 0.0
    for phase in algo.phases[:-1]:
        end += phase.fraction
        ends.append(round(end * plan.updates / plan.chunk) * plan.chunk)
    return [*ends, plan.updates]


def phase_of(algo: Algorithm, update: int, plan: Plan) -> int:
    """Returns the index of the phase of an update."""
    phases = (i for i, end in enumerate(phase_ends(algo, plan)) if update < end)
    return next(phases, len(algo.phases) - 1)


def check_phases(algo: Algorithm, plan: Plan) -> None:
    """Raises UserError if a phase with a positive fraction gets no chunk."""
    ends = phase_ends(algo, plan)
    for phase, begin, end in zip(algo.phases, [0, *ends], ends, strict=False):
        if phase.fraction > 0 and end <= begin:
            raise UserError(
                f"phase {phase.name} gets {phase.fraction * plan.updates:g} of trainer.updates={plan.updates}, less "
                f"than half of trainer.chunk={plan.chunk}; lower trainer.chunk"
            )


def train(
    algo: Algorithm,
    sources: Mapping[str, Source],
    plan: Plan,
    state: TrainState,
    events: Sequence[Event] = (),
    log: Log | Sequence[Log] = lambda step, metrics: None,
    save: Callable[[TrainState], object] = lambda state: None,
    task_names: Sequence[str] = (),
    mesh=None,
    diverged: Callable[[int, Divergence], None] = lambda i, found: _raise(found),
    stop: Request | None = None,
) -> TrainState:
    """Trains from `state` (new or restored) to the last update. Returns the final state.

    log(update, metrics): gets floats; a per-task metric is logged as `metric/task`. Several seeds have one `log` each.
    diverged(i, divergence): called once when seed i diverges, before any later evaluation or checkpoint. By default
    it raises Diverged, which ends training. stop: after a signal, the state is saved at the next chunk boundary and
    Stopped is raised. Raises UserError if the plan does not fit the events or the state.
    """
    check_plan(plan, events)
    mesh = mesh or sharding.make_mesh()
    several, failed = isinstance(plan.seed, tuple), set()
    logs = [log] * (len(plan.seed) if isinstance(plan.seed, tuple) else 1) if callable(log) else list(log)
    chunks: dict[int, Callable] = {}
    data: dict[str, Any] = {}
    update = int(jnp.max(state.update))
    if update % plan.chunk:
        raise UserError(
            f"the state is at update {update}, which is not a multiple of trainer.chunk ({plan.chunk})"
        )
    restored, pending, finished = update > 0, None, 0.0

    def flush():
        nonlocal pending, finished
        if pending is not None:
            done, summary, trace, began = pending
            (metrics, finite), now = jax.device_get(summary), time.perf_counter()
            # A chunk is dispatched while the previous one runs.
            speed, finished = plan.chunk / (now - max(began, finished)), now
            pending = None
            for i, log_seed in enumerate(logs):
                if i in failed:
                    continue
                seed_metrics = jax.tree.map(lambda x, i=i: x[i], metrics) if several else metrics
                log_seed(done, {**_flatten(seed_metrics, task_names), "updates_per_second": speed})
                if not np.ravel(finite)[i]:
                    failed.add(i)
                    seed_trace = _of_seed(jax.device_get(trace), i) if several else jax.device_get(trace)
                    diverged(i, divergence.find(seed_trace, done - plan.chunk, task_names))

    def run_events(update: int, params: Params) -> None:
        due = [e for e in events if update % e.every == 0 or update == plan.updates]
        if due:
            flush()
        for event in due:
            metrics = event.run(update, params)
            for i, log_seed in enumerate(logs):
                if i not in failed:
                    log_seed(update, metrics)

    while True:
        stopping = stop is not None and sharding.on_any_process(stop.signum is not None)
        # The events of a restored state ran before it was saved.
        if update > 0 and not restored:
            run_events(update, state.learner.params)
            if update % plan.checkpoint_every == 0 or update == plan.updates or stopping:
                flush()
                save(state)
        restored = False
        if stopping and stop is not None and update > 0:
            raise stop.stopped(update)
        if update >= plan.updates:
            break
        index = phase_of(algo, update, plan)
        name = algo.phases[index].source
        source = sources[name]
        if index not in chunks:
            chunks[index] = make_chunk(algo.phases[index], source, plan, mesh)
        if name not in data:
            data[name] = sharding.place_data(source.data, mesh)
        initial = jax.jit(partial(jax.tree.map, jnp.copy))(state.learner.params) if update == 0 else None
        began = time.perf_counter()
        state, summary, trace = chunks[index](state, data[name], _prefetch(algo, source, plan, update))
        flush()
        if initial is not None:
            run_events(0, initial)
        update += plan.chunk
        pending = (update, summary, trace, began)
    flush()
    return state


def _raise(found: Divergence) -> None:
    raise Diverged(found.line)


def _of_seed(trace: Trace, i: int) -> Trace:
    later = jax.tree.map(lambda x: x[:, i], trace._replace(leaves={}))
    return later._replace(leaves={name: x[i] for name, x in trace.leaves.items()})


def _drawn(algo: Algorithm, plan: Plan, update: int) -> int:
    """Returns how many batches the source of this update's phase has yielded before it, in all phases."""
    name = algo.phases[phase_of(algo, update, plan)].source
    begin, total = 0, 0
    for phase, end in zip(algo.phases, phase_ends(algo, plan), strict=True):
        total += max(0, min(update, end) - begin) if phase.source == name else 0
        begin = end
    return total


def _prefetch(algo: Algorithm, source: Source, plan: Plan, update: int) -> Any:
    """Returns the prefetched arrays of the next chunk: [chunk, …], or [chunk, seeds, …] for several seeds."""
    if source.prefetch is None:
        return None
    seeds = plan.seed if isinstance(plan.seed, tuple) else (plan.seed,)
    with sharding.on_host():
        keys = [_data_keys(jnp.int32(s), jnp.int32(update), plan.chunk) for s in seeds]
        drawn = _drawn(algo, plan, update)
        parts = [source.prefetch(drawn, k) for k in keys]
    return jax.tree.map(lambda *x: np.stack(x, axis=1), *parts) if isinstance(plan.seed, tuple) else parts[0]


@partial(jax.jit, static_argnums=2)
def _data_keys(seed: jax.Array, update: jax.Array, count: int) -> jax.Array:
    """Returns the keys that `Source.next` gets in the next `count` updates."""
    return jax.vmap(lambda u: stream(seed, Stream.DATA, u))(update + jnp.arange(count))


def _flatten(metrics: Mapping[str, Any], task_names: Sequence[str]) -> dict[str, float]:
    out = {}
    for name, value in metrics.items():
        if value.ndim:
            names = task_names or [str(k) for k in range(len(value))]
            out |= {f"{name}/{task}": float(v) for task, v in zip(names, value, strict=True)}
        else:
            out[name] = float(value)
    return out
