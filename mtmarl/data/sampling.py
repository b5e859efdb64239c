"""Task-balanced windows out of the steps of many tasks, inside a compiled program."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mtmarl.data.vault import Recording, Vault
from mtmarl.errors import UserError
from mtmarl.types import Batch, Dims


class TaskData(NamedTuple):
    """All steps of K tasks, one task after the other along one time axis S, in narrow dtypes.

    The agent axis is padded to the largest team: a padded slot sees zeros and may only do NOOP (0). Task k
    owns steps `offset[k] … offset[k] + length[k] - 1` and has `agents[k]` agents.
    """

    obs: Int[Array, "S N O"] | Float[Array, "S N O"]
    mask: Bool[Array, "S N A"]
    action: Int[Array, "S N"]
    reward: Float[Array, "S"]
    first: Bool[Array, "S"]
    terminal: Bool[Array, "S"]
    truncated: Bool[Array, "S"]
    agents: Int[Array, "K"]
    offset: Int[Array, "K"]
    length: Int[Array, "K"]
    obs_scale: Float[Array, "K O"]

    @property
    def tasks(self) -> int:
        return self.offset.shape[0]


def thin(vault: Vault, fraction: float) -> Vault:
    """A share of a vault's episodes, spread evenly over the recording so that its mix of qualities stays.

    Half of the share is half of its episodes, not others. The metadata still describe the whole vault.
    """
    first = vault.recording.first
    episodes = int(first.sum())
    count = max(1, round(fraction * episodes))
    chosen = np.zeros(episodes, bool)
    chosen[np.arange(count) * episodes // count] = True
    steps = chosen[np.cumsum(first) - 1]
    return vault._replace(recording=Recording(*(column[steps] for column in vault.recording)))


def make_task_data(
    vaults: Sequence[Vault], dims: Dims, constants: Sequence[np.ndarray] | None = None
) -> TaskData:
    """Vaults joined and padded to `dims`, put on the device at their stored width; task id = position.

    `constants`: per task, what the observation of every real agent ends with ([F], the same F for all tasks).
    """
    if not vaults:
        raise UserError("no vaults to train on; name at least one task")
    for vault in vaults:
        r = vault.recording
        sizes = {"agents": r.mask.shape[1], "obs": r.obs.shape[2], "actions": r.mask.shape[2]}
        for key, size in sizes.items():
            if size > getattr(dims, key):
                raise UserError(
                    f"{vault.path or vault.metadata.get('task')}: {size} {key}, more than the "
                    f"{getattr(dims, key)} of the task set; derive dims from all training tasks"
                )
    records = [v.recording for v in vaults]
    length = np.array([len(r.first) for r in records])
    offset = np.cumsum(length) - length
    steps = int(length.sum())
    if steps >= 2**31:
        raise UserError(f"{steps} steps in all, more than an int32 can index; use fewer or smaller vaults")

    obs = np.zeros((steps, dims.agents, dims.obs), np.result_type(*(r.obs.dtype for r in records)))
    mask = np.zeros((steps, dims.agents, dims.actions), bool)
    action = np.zeros((steps, dims.agents), np.int8)
    scale = np.ones((len(vaults), dims.obs), np.float32)
    for k, (r, start) in enumerate(zip(records, offset, strict=True)):
        rows, (_, n, width) = slice(start, start + length[k]), r.obs.shape
        obs[rows, :n, :width] = r.obs
        mask[rows, :n, : r.mask.shape[2]] = r.mask
        mask[rows, n:, 0] = True
        action[rows, :n] = r.action
        scale[k, :width] = vaults[k].metadata["obs_scale"]
        if constants is not None:
            obs[rows, :n, dims.obs - constants[k].size :] = constants[k]

    def join(field: str) -> Array:
        return jnp.asarray(np.concatenate([getattr(r, field) for r in records]))

    return TaskData(
        obs=jnp.asarray(obs),
        mask=jnp.asarray(mask),
        action=jnp.asarray(action),
        reward=join("reward"),
        first=join("first"),
        terminal=join("terminal"),
        truncated=join("truncated"),
        agents=jnp.asarray([r.mask.shape[1] for r in records], jnp.int32),
        offset=jnp.asarray(offset, jnp.int32),
        length=jnp.asarray(length, jnp.int32),
        obs_scale=jnp.asarray(scale),
    )


def balanced_rows(batch_size: int, tasks: int, update: Int[Array, ""]) -> Int[Array, "B"]:
    """Task of each row: every task gets floor(B/M) rows, the r = B mod M left over go round robin.

    The round robin goes on where the last update stopped, so after M updates all tasks have had the same
    number of rows; starting at task 0 each time, as MT Oryx section "task-balanced batching" leaves open,
    would favour the first ones. Tasks alternate along the rows, so equal slices of a batch are as balanced as
    it is.
    """
    left_over = batch_size % tasks
    start = (jnp.asarray(update, jnp.int32) % tasks) * left_over % tasks
    return (start + jnp.arange(batch_size, dtype=jnp.int32)) % tasks


def random_task_rows(batch_size: int, tasks: int, key: jax.Array) -> Int[Array, "B"]:
    """The ablation of balanced batches: all rows from one task drawn at random."""
    return jnp.full(batch_size, jax.random.randint(key, (), 0, tasks, jnp.int32))


def sample_starts(data: TaskData, task_id: Int[Array, "B"], steps: int, key: jax.Array) -> Int[Array, "B"]:
    """First steps of windows, uniform over all that lie inside their task, counted from its first step."""
    return jax.random.randint(key, task_id.shape, 0, data.length[task_id] - steps + 1, jnp.int32)


def gather_windows(data: TaskData, task_id: Int[Array, "B"], start: Int[Array, "B"], steps: int) -> Batch:
    """Windows of `steps` steps from `start` within each row's task, observations scaled to float32.

    `first`, `terminal` and `truncated` are as stored: a window may begin inside an episode and span several.
    """
    at = (data.offset[task_id] + start)[:, None] + jnp.arange(steps, dtype=jnp.int32)
    active = jnp.arange(data.action.shape[1]) < data.agents[task_id][:, None]
    return Batch(
        obs=data.obs[at].astype(jnp.float32) * data.obs_scale[task_id][:, None, None, :],
        mask=data.mask[at],
        action=data.action[at].astype(jnp.int32),
        agent_mask=jnp.broadcast_to(active[:, None], (*at.shape, active.shape[1])),
        reward=data.reward[at].astype(jnp.float32),
        first=data.first[at],
        terminal=data.terminal[at],
        truncated=data.truncated[at],
        time_mask=jnp.ones(at.shape, bool),
        task_id=task_id,
    )
