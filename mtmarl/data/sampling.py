"""Task-balanced sampling of windows inside a compiled program."""

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
    """All steps of K tasks, concatenated along one time axis S, in narrow dtypes.

    The agent axis is padded to the largest team: a padded slot has zero observations and only NOOP (0) is legal. Task k
    has the steps `offset[k] … offset[k] + length[k] - 1` and `agents[k]` agents.
    """

    obs: Int[Array, "S N O"] | Float[Array, "S N O"]
    action_mask: Bool[Array, "S N A"]
    action: Int[Array, "S N"]
    reward: Float[Array, "S"]
    first: Bool[Array, "S"]
    terminated: Bool[Array, "S"]
    truncated: Bool[Array, "S"]
    agents: Int[Array, "K"]
    offset: Int[Array, "K"]
    length: Int[Array, "K"]
    obs_scale: Float[Array, "K O"]
    return_to_go: Float[Array, "S"] | None = None

    @property
    def tasks(self) -> int:
        return self.offset.shape[0]


def returns_to_go(recording: Recording) -> np.ndarray:
    """Returns the undiscounted reward from each step to the recorded end of its episode, [S] float32."""
    reached = np.cumsum(recording.reward, dtype=np.float64)
    ends = np.append(np.flatnonzero(recording.first)[1:], len(reached)) - 1
    at_end = reached[ends[np.cumsum(recording.first) - 1]]
    return (at_end - reached + recording.reward).astype(np.float32)


def subsample(vault: Vault, fraction: float) -> Vault:
    """Returns a fraction of a vault's episodes, evenly spaced so that the mix of qualities stays the same.

    For an even number of episodes, half the fraction selects a subset of them. The metadata still describe the complete
    vault.
    """
    if fraction == 1:
        return vault  # Indexing would read a memory-mapped vault into memory.
    first = vault.recording.first
    episodes = int(first.sum())
    count = max(1, round(fraction * episodes))
    chosen = np.zeros(episodes, bool)
    chosen[np.arange(count) * episodes // count] = True
    steps = chosen[np.cumsum(first) - 1]
    return vault._replace(recording=Recording(*(column[steps] for column in vault.recording)))


def make_task_data(
    vaults: Sequence[Vault],
    dims: Dims,
    constants: Sequence[np.ndarray] | None = None,
    constant_scale: np.ndarray | None = None,
) -> TaskData:
    """Concatenates vaults, pads them to `dims` and puts them on the device in their stored dtypes.

    The task id is the position of the vault. constants: per task, features appended to the observation of every real
    agent ([F], the same F for all tasks), in units of `constant_scale` ([F]; None: 1). Raises UserError.
    """
    check_dims(vaults, dims)
    records = [v.recording for v in vaults]
    length = np.array([len(r.first) for r in records])
    offset = np.cumsum(length) - length
    steps = int(length.sum())
    obs, mask, action = padded_columns(steps, dims, np.result_type(*(r.obs.dtype for r in records)))
    for k, (r, start) in enumerate(zip(records, offset, strict=True)):
        rows = slice(start, start + length[k])
        constant = None if constants is None else constants[k]
        write_padded((obs, mask, action), rows, (r.obs, r.mask, r.action), constant)

    def join(field: str) -> Array:
        return jnp.asarray(np.concatenate([getattr(r, field) for r in records]))

    return TaskData(
        obs=jnp.asarray(obs),
        action_mask=jnp.asarray(mask),
        action=jnp.asarray(action),
        reward=join("reward"),
        first=join("first"),
        terminated=join("terminal"),
        truncated=join("truncated"),
        agents=jnp.asarray([r.mask.shape[1] for r in records], jnp.int32),
        offset=jnp.asarray(offset, jnp.int32),
        length=jnp.asarray(length, jnp.int32),
        obs_scale=jnp.asarray(observation_scales(vaults, dims, constant_scale)),
        return_to_go=jnp.asarray(np.concatenate([returns_to_go(r) for r in records])),
    )


def check_dims(vaults: Sequence[Vault], dims: Dims) -> None:
    """Raises UserError if there are no vaults, one exceeds `dims` or their steps exceed int32 indices."""
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
    steps = sum(len(v.recording.first) for v in vaults)
    if steps >= 2**31:
        raise UserError(f"{steps} steps in total, too many for int32 indices; use fewer or smaller vaults")


def observation_scales(
    vaults: Sequence[Vault], dims: Dims, constant_scale: np.ndarray | None = None
) -> np.ndarray:
    """Returns the scale of each observation column, [K, O] float32: 1 for padding, `constant_scale` at the end."""
    scale = np.ones((len(vaults), dims.obs), np.float32)
    if constant_scale is not None:
        scale[:, dims.obs - constant_scale.size :] = constant_scale
    for k, vault in enumerate(vaults):
        scale[k, : vault.recording.obs.shape[2]] = vault.metadata["obs_scale"]
    return scale


Columns = tuple[np.ndarray, np.ndarray, np.ndarray]


def padded_columns(steps: int, dims: Dims, dtype: np.dtype) -> Columns:
    """Returns zeroed observations, action masks and actions for `steps` steps; `write_padded` fills them."""
    agents = (steps, dims.agents)
    return (
        np.zeros((*agents, dims.obs), dtype),
        np.zeros((*agents, dims.actions), bool),
        np.zeros(agents, np.int8),
    )


def write_padded(
    to: Columns, rows: slice | np.ndarray, columns: Columns, constant: np.ndarray | None
) -> None:
    """Writes steps of one task into `rows` of padded columns and appends `constant` to each agent's observation."""
    (obs, mask, action), (_, n, width) = to, columns[0].shape
    obs[rows, :n, :width] = columns[0]
    mask[rows, :n, : columns[1].shape[2]] = columns[1]
    mask[rows, n:, 0] = True
    action[rows, :n] = columns[2]
    if constant is not None:
        obs[rows, :n, obs.shape[2] - constant.size :] = constant


def balanced_rows(batch_size: int, tasks: int, update: Int[Array, ""]) -> Int[Array, "B"]:
    """Returns the task of each row: floor(B/M) rows per task; the B mod M remaining rows are assigned round robin.

    The round robin continues where the last update stopped, so after M updates all tasks have had the same number of
    rows (MT Oryx, "task-balanced batching", leaves this open). Starting at task 0 each time would favour the first
    tasks. Tasks alternate by row, so equal slices of a batch are equally balanced.
    """
    left_over = batch_size % tasks
    start = (jnp.asarray(update, jnp.int32) % tasks) * left_over % tasks
    return (start + jnp.arange(batch_size, dtype=jnp.int32)) % tasks


def random_task_rows(batch_size: int, tasks: int, key: jax.Array) -> Int[Array, "B"]:
    """Ablation of balanced batches: all rows are from one random task."""
    return jnp.full(batch_size, jax.random.randint(key, (), 0, tasks, jnp.int32))


def sample_starts(
    length: Int[Array, "K"], task_id: Int[Array, "B"], steps: int, key: jax.Array
) -> Int[Array, "B"]:
    """Returns the first steps of windows, relative to their task, uniform over all windows within the task."""
    return jax.random.randint(key, task_id.shape, 0, length[task_id] - steps + 1, jnp.int32)


def gather_windows(data: TaskData, task_id: Int[Array, "B"], start: Int[Array, "B"], steps: int) -> Batch:
    """Returns windows of `steps` steps from `start` in each row's task, with observations scaled to float32.

    `first`, `terminated` and `truncated` are as stored: a window may begin inside an episode and span several.
    """
    at = (data.offset[task_id] + start)[:, None] + jnp.arange(steps, dtype=jnp.int32)
    return gather(data, task_id, at, data.action[jnp.maximum(at[:, 0] - 1, 0)])


def gather(
    data: TaskData, task_id: Int[Array, "B"], at: Int[Array, "B T"], before: Int[Array, "B N"]
) -> Batch:
    """Returns the steps `at` of the time axis as a batch. before: previous actions; ignored at the first step."""
    active = jnp.arange(data.action.shape[1]) < data.agents[task_id][:, None]
    return Batch(
        obs=data.obs[at].astype(jnp.float32) * data.obs_scale[task_id][:, None, None, :],
        action_mask=data.action_mask[at],
        action=data.action[at].astype(jnp.int32),
        agent_mask=jnp.broadcast_to(active[:, None], (*at.shape, active.shape[1])),
        reward=data.reward[at].astype(jnp.float32),
        first=data.first[at],
        terminated=data.terminated[at],
        truncated=data.truncated[at],
        time_mask=jnp.ones(at.shape, bool),
        task_id=task_id,
        return_to_go=None if data.return_to_go is None else data.return_to_go[at],
        # Every recording begins with the first step of an episode.
        last_action=jnp.where(data.first[at[:, :1]], -1, before.astype(jnp.int32)),
    )
