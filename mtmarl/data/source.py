"""Sources of training batches."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.data.sampling import (
    TaskData,
    balanced_rows,
    gather_windows,
    random_task_rows,
    sample_starts,
)
from mtmarl.envs.layout import one_hot_ids
from mtmarl.errors import UserError
from mtmarl.ops.agents import shuffle_agents
from mtmarl.ops.slots import shuffle_slots
from mtmarl.random_streams import Stream, branch
from mtmarl.types import AtMost, Batch, Params, Slots


class Source(NamedTuple):
    """A stream of batches inside the compiled training loop.

    init(key) -> state. next(state, data, x, params, key) -> (state, Batch), called in the scan.
    data: constant device arrays; pass them to jit as an argument, so that they are not compiled into the program.
    prefetch(drawn, keys) -> host arrays for the next batches, one per key, after `drawn` batches; `next` gets one slice
    as `x` and the same key. None: no prefetching. env_steps: environment steps per `next`, over all tasks. The sum of
    extras["episodes"] over the rows is the number of episodes that ended in them.
    """

    init: Callable[[jax.Array], Any]
    next: Callable[[Any, Any, Any, Params, jax.Array], tuple[Any, Batch]]
    data: Any = None
    prefetch: Callable[[int, jax.Array], Any] | None = None
    env_steps: int = 0


def combine_phases(sources: Mapping[str, Source]) -> dict[str, Source]:
    """Returns sources that share one state; each updates its own part. A single source is returned unchanged."""
    if len(sources) == 1:
        return dict(sources)

    def init(key: jax.Array) -> dict[str, Any]:
        keys = jax.random.split(key, len(sources))
        return {name: source.init(k) for (name, source), k in zip(sources.items(), keys, strict=True)}

    def part(name: str) -> Callable:
        def next_batch(state, data, x, params, key):
            own, batch = sources[name].next(state[name], data, x, params, key)
            return {**state, name: own}, batch

        return next_batch

    return {name: source._replace(init=init, next=part(name)) for name, source in sources.items()}


def stack_task_sources(sources: Sequence[Source]) -> Source:
    """Combines single-task sources with equal numbers of rows. A single source is returned unchanged."""
    if len(sources) == 1:
        return sources[0]

    def init(key: jax.Array) -> tuple:
        return tuple(s.init(k) for s, k in zip(sources, jax.random.split(key, len(sources)), strict=True))

    def next_batch(state, data, x, params, key):
        parts = zip(sources, state, data, jax.random.split(key, len(sources)), strict=True)
        states, batches = zip(*(s.next(own, d, None, params, k) for s, own, d, k in parts), strict=True)
        return states, stack_tasks(batches)

    steps = sum(s.env_steps for s in sources)
    return Source(init, next_batch, tuple(s.data for s in sources), env_steps=steps)


def stack_tasks(batches: Sequence[Batch]) -> Batch:
    """Combines single-task batches with equal numbers of rows. Smaller teams are padded; tasks alternate by row."""
    slots = sum(b.action.shape[0] * b.action.shape[2] for b in batches)
    batches = [b._replace(task_id=jnp.full_like(b.task_id, k)) for k, b in enumerate(batches)]

    def join(*parts):
        shape = tuple(map(max, zip(*(x.shape for x in parts), strict=True)))
        pad = lambda x: jnp.pad(x, [(0, full - own) for own, full in zip(x.shape, shape, strict=True)])
        return jnp.stack([pad(x) for x in parts], axis=1).reshape(-1, *shape[1:])

    batch = jax.tree.map(join, *batches)
    noop = jnp.arange(batch.action_mask.shape[-1]) == 0
    mask = jnp.where(batch.agent_mask[..., None], batch.action_mask, noop)
    return batch._replace(action_mask=mask, present=AtMost(slots))


def with_offline_batch(played: Source, vault: Source) -> Source:
    """Returns the batches of `played`, each with an equally large batch of `vault` in extras["offline"].

    With the same keys, the online part equals the batches of `played` alone.
    """

    def init(key: jax.Array) -> tuple:
        return played.init(key), vault.init(branch(key, Stream.OFFLINE))

    def next_batch(state, data, x, params, key):
        fresh, batch = played.next(state[0], data[0], None, params, key)
        drawn, offline = vault.next(state[1], data[1], x, params, branch(key, Stream.OFFLINE))
        return (fresh, drawn), batch._replace(extras={**batch.extras, "offline": offline})

    def prefetch(drawn: int, keys: jax.Array) -> Any:
        assert vault.prefetch is not None
        return vault.prefetch(drawn, jax.vmap(lambda key: branch(key, Stream.OFFLINE))(keys))

    bring = None if vault.prefetch is None else prefetch
    return Source(init, next_batch, (played.data, vault.data), bring, played.env_steps)


def number_agents(batch: Batch, key: jax.Array, ids: int, random: bool) -> Batch:
    """Appends one-hot agent ids to the observations of real agents, as `envs.layout.LaidOut` does in rollouts."""
    rows, _, agents = batch.action.shape
    numbers = one_hot_ids(key, rows, agents, ids, random)[:, None] * batch.agent_mask[..., None]
    return batch._replace(obs=jnp.concatenate([batch.obs, numbers], axis=-1))


class Windows(NamedTuple):
    """Sampling and augmentation of windows, for data on the device and on the host.

    length: steps per task. shuffle: random agent order per row. balanced: equal rows per task; else one random task
    per batch. mask: padded slots are masked; else they are agents with zero observations that do nothing. ids: width of
    the one-hot agent ids, 0 for none. random_ids: draws new ids for every window. end_at_limits: truncated steps are
    terminal. agents: team size of each task, () if unknown. slots: per task, the groups of slots in which objects are
    shuffled; () for none.
    """

    length: tuple[int, ...]
    batch_size: int
    context: int
    shuffle: bool = True
    balanced: bool = True
    mask: bool = True
    ids: int = 0
    random_ids: bool = False
    end_at_limits: bool = False
    agents: tuple[int, ...] = ()
    slots: tuple[tuple[Slots, ...], ...] = ()

    def check(self) -> None:
        if self.batch_size < 1 or self.context < 1:
            raise UserError(f"batch_size={self.batch_size}, context={self.context}: both must be at least 1")
        k = int(np.argmin(self.length))
        if self.length[k] < self.context:
            raise UserError(
                f"task {k} has {self.length[k]} steps, fewer than a window of {self.context}; shorten windows or "
                "collect more"
            )

    @property
    def most_agents(self) -> int:
        """Largest number of real agents in all rows of a batch."""
        largest = sorted(self.agents, reverse=True)
        if not self.balanced:
            return self.batch_size * largest[0]
        each, left_over = divmod(self.batch_size, len(largest))
        return each * sum(largest) + sum(largest[:left_over])

    def draw(self, drawn: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the task of each row [B] and the first step of its window in that task [B], after `drawn` batches."""
        if self.balanced:
            task_id = balanced_rows(self.batch_size, len(self.length), drawn)
        else:
            task_id = random_task_rows(self.batch_size, len(self.length), branch(key, Stream.TASK))
        length = jnp.asarray(self.length, jnp.int32)
        return task_id, sample_starts(length, task_id, self.context, branch(key, Stream.START))

    def finish(self, batch: Batch, key: jax.Array) -> Batch:
        """Adds agent ids, shuffles agents and sets masks. key: the same as for `draw`."""
        if self.slots:
            batch = shuffle_slots(batch, branch(key, Stream.SLOTS), self.slots)
        if self.ids:
            batch = number_agents(batch, branch(key, Stream.AGENT_IDS), self.ids, self.random_ids)
        if self.shuffle:
            batch = shuffle_agents(batch, branch(key, Stream.ORDER))
        if self.end_at_limits:
            batch = batch._replace(
                terminated=batch.terminated | batch.truncated, truncated=jnp.zeros_like(batch.truncated)
            )
        if self.agents:
            batch = batch._replace(present=AtMost(self.most_agents))
        if not self.mask:
            batch = batch._replace(agent_mask=jnp.ones_like(batch.agent_mask), present=None)
        return batch


def vault_source(data: TaskData, batch_size: int, context: int, **options: Any) -> Source:
    """Returns a source of windows of `context` steps from data on the device. options: those of `Windows`.

    Its state is the number of batches drawn (int32).
    """
    length, agents = (tuple(np.asarray(x).tolist()) for x in (data.length, data.agents))
    windows = Windows(length, batch_size, context, **options, agents=agents)
    windows.check()

    def draw(drawn: jax.Array, data: TaskData, x: Any, params: Params, key: jax.Array):
        task_id, start = windows.draw(drawn, key)
        return drawn + 1, windows.finish(gather_windows(data, task_id, start, context), key)

    return Source(init=lambda key: jnp.zeros((), jnp.int32), next=draw, data=data)
