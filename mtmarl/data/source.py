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


def _no_prefetch(key: jax.Array, n: int) -> None:
    return None


class Source(NamedTuple):
    """A stream of batches inside the compiled training loop.

    init(key) -> state. next(state, data, x, params, key) -> (state, Batch), called in the scan; `x` is one
    slice of what `prefetch(key, n)` brought from the host for n updates (None: nothing). `data` are device
    arrays that no update changes: pass them to jit as an argument, so that they are not baked into the
    program.
    """

    init: Callable[[jax.Array], Any]
    next: Callable[[Any, Any, Any, Params, jax.Array], tuple[Any, Batch]]
    data: Any = None
    prefetch: Callable[[jax.Array, int], Any] = _no_prefetch


def number_agents(batch: Batch, key: jax.Array, ids: int, random: bool) -> Batch:
    """One-hot numbers appended to the observations of real agents, as `envs.layout.LaidOut` does in play."""
    rows, _, agents = batch.action.shape
    numbers = one_hot_ids(key, rows, agents, ids, random)[:, None] * batch.agent_mask[..., None]
    return batch._replace(obs=jnp.concatenate([batch.obs, numbers], axis=-1))


def vault_source(
    data: TaskData,
    batch_size: int,
    context: int,
    *,
    shuffle: bool = True,
    balanced: bool = True,
    mask: bool = True,
    ids: int = 0,
    random_ids: bool = False,
) -> Source:
    """Windows of `context` steps from data on the device; the state is the number of batches drawn (int32).

    shuffle: random agent order per row. balanced: equal rows per task; else one random task per batch. mask:
    padded slots are masked; else they are agents that see zeros and do nothing. ids: width of the one-hot agent
    numbers, if any; random_ids deals them out anew in every window.
    """
    length, tasks = np.asarray(data.length), data.tasks
    if batch_size < 1 or context < 1:
        raise UserError(f"batch_size={batch_size}, context={context}: both must be at least 1")
    if length.min() < context:
        k = int(length.argmin())
        raise UserError(
            f"task {k} has {length[k]} steps, fewer than context={context}; shorten it or collect more"
        )

    def draw(update: jax.Array, data: TaskData, x: Any, params: Params, key: jax.Array):
        key_task, key_start, key_order = jax.random.split(key, 3)
        key_ids = jax.random.fold_in(key, 1)
        if balanced:
            task_id = balanced_rows(batch_size, tasks, update)
        else:
            task_id = random_task_rows(batch_size, tasks, key_task)
        batch = gather_windows(data, task_id, sample_starts(data, task_id, context, key_start), context)
        if ids:
            batch = number_agents(batch, key_ids, ids, random_ids)
        if shuffle:
            batch = shuffle_agents(batch, key_order)
        if not mask:
            batch = batch._replace(agent_mask=jnp.ones_like(batch.agent_mask))
        return update + 1, batch

    return Source(init=lambda key: jnp.zeros((), jnp.int32), next=draw, data=data)
