"""Where the trainer's batches come from."""

from collections.abc import Callable
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
from mtmarl.types import Batch, Params


class Source(NamedTuple):
    """A stream of batches inside the compiled training loop.

    init(key) -> state. next(state, data, x, params, key) -> (state, Batch), called in the scan; `x` is one
    slice of what `prefetch(update, keys)` brought from the host for the updates from `update` on, one per key; the
    keys are those that `next` will get (None: it brings nothing). `data` are device arrays that no update changes:
    pass them to jit as an argument, so that they are not baked into the program.
    """

    init: Callable[[jax.Array], Any]
    next: Callable[[Any, Any, Any, Params, jax.Array], tuple[Any, Batch]]
    data: Any = None
    prefetch: Callable[[int, jax.Array], Any] | None = None


def number_agents(batch: Batch, key: jax.Array, ids: int, random: bool) -> Batch:
    """One-hot numbers appended to the observations of real agents, as `envs.layout.LaidOut` does in play."""
    rows, _, agents = batch.action.shape
    numbers = one_hot_ids(key, rows, agents, ids, random)[:, None] * batch.agent_mask[..., None]
    return batch._replace(obs=jnp.concatenate([batch.obs, numbers], axis=-1))


class Windows(NamedTuple):
    """Which windows make a batch, and what is done to it; the same wherever the steps lie.

    `length`: steps per task. shuffle: random agent order per row. balanced: equal rows per task; else one random task
    per batch. mask: padded slots are masked; else they are agents that see zeros and do nothing. ids: width of the
    one-hot agent numbers, if any; random_ids deals them out anew in every window.
    """

    length: tuple[int, ...]
    batch_size: int
    context: int
    shuffle: bool = True
    balanced: bool = True
    mask: bool = True
    ids: int = 0
    random_ids: bool = False

    def check(self) -> None:
        if self.batch_size < 1 or self.context < 1:
            raise UserError(f"batch_size={self.batch_size}, context={self.context}: both must be at least 1")
        k = int(np.argmin(self.length))
        if self.length[k] < self.context:
            raise UserError(
                f"task {k} has {self.length[k]} steps, fewer than context={self.context}; "
                "shorten it or collect more"
            )

    def draw(self, update: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The task of each row [B], and the first step of its window within the task [B]."""
        key_task, key_start, _ = jax.random.split(key, 3)
        if self.balanced:
            task_id = balanced_rows(self.batch_size, len(self.length), update)
        else:
            task_id = random_task_rows(self.batch_size, len(self.length), key_task)
        length = jnp.asarray(self.length, jnp.int32)
        return task_id, sample_starts(length, task_id, self.context, key_start)

    def finish(self, batch: Batch, key: jax.Array) -> Batch:
        """Numbers, order and masks of the agents; `key` is that of `draw`."""
        key_ids, key_order = jax.random.fold_in(key, 1), jax.random.split(key, 3)[2]
        if self.ids:
            batch = number_agents(batch, key_ids, self.ids, self.random_ids)
        if self.shuffle:
            batch = shuffle_agents(batch, key_order)
        if not self.mask:
            batch = batch._replace(agent_mask=jnp.ones_like(batch.agent_mask))
        return batch


def vault_source(data: TaskData, batch_size: int, context: int, **options: Any) -> Source:
    """Windows of `context` steps from data on the device; the state is the number of batches drawn (int32).

    `options` are those of `Windows`.
    """
    windows = Windows(tuple(np.asarray(data.length).tolist()), batch_size, context, **options)
    windows.check()

    def draw(update: jax.Array, data: TaskData, x: Any, params: Params, key: jax.Array):
        task_id, start = windows.draw(update, key)
        return update + 1, windows.finish(gather_windows(data, task_id, start, context), key)

    return Source(init=lambda key: jnp.zeros((), jnp.int32), next=draw, data=data)
