"""Replay buffer: it stores steps of the current policy and yields windows of the stored steps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from mtmarl.data.features import fits_int8
from mtmarl.data.source import Source
from mtmarl.errors import UserError
from mtmarl.training.rollout import RolloutState, Trajectory, as_batch, rollout, start
from mtmarl.types import Act, Batch, Env, Params


class Kept(NamedTuple):
    """A ring buffer with the latest C steps of each of E environments, [E, C, …]. Step s is at index s mod C.

    steps: number of steps written so far. Observations are in the stored dtype, see `kept_scale`.
    """

    seen: Trajectory
    steps: Int[Array, ""]


class ReplayState(NamedTuple):
    env: RolloutState
    kept: Kept
    update: Int[Array, ""]


def kept_length(capacity: int, num_envs: int, steps: int, context: int, option: str = "algo.context") -> int:
    """Returns the buffer length per environment, a multiple of `steps`. Raises UserError if no window fits."""
    length = capacity // num_envs // steps * steps
    if not 0 < context <= min(steps, length):
        raise UserError(
            f"{option}={context} must lie in 1 … collect.rollout_length={steps}, and algo.capacity ({capacity} per "
            f"task) must hold that many steps of each of collect.num_envs={num_envs} environments"
        )
    return length


def kept_scale(envs: Sequence[Env], width: int | None = None) -> tuple[np.ndarray, Any]:
    """Returns the scale [tasks, O] and dtype of stored observations: int8 for built-in families, else float32."""
    scales = np.stack([np.asarray(env.obs_scale, np.float32)[:width] for env in envs])
    return (scales, jnp.int8) if fits_int8(envs) else (np.ones_like(scales), jnp.float32)


def nothing_kept(num_envs: int, length: int, agents: int, obs: int, actions: int, dtype: Any) -> Kept:
    zero = jnp.zeros((num_envs, length), jnp.float32)
    no = zero.astype(bool)
    empty = Trajectory(
        obs=jnp.zeros((num_envs, length, agents, obs), dtype),
        action_mask=jnp.zeros((num_envs, length, agents, actions), bool),
        action=jnp.zeros((num_envs, length, agents), jnp.int32),
        reward=zero, first=no, terminated=no, truncated=no,
        episode_return=zero, episode_length=zero.astype(jnp.int32), extras=(),
    )  # fmt: skip
    return Kept(empty, jnp.zeros((), jnp.int32))


def play(
    env: Env, act: Act, init_carry, state: RolloutState, params: Params, key, steps: int, exploration, pool: int,
    scale: np.ndarray, dtype: Any,
) -> tuple[RolloutState, Trajectory]:  # fmt: skip
    """Runs `steps` steps in every environment. Returns them in the format of the buffer.

    The trajectory is batch-major. The first columns of its observations are in units of `scale` [O], see `kept_scale`.
    """
    state, seen = rollout(env, act, init_carry, params, state, key, steps, exploration, pool)
    raw = seen.obs[..., : scale.size] / jnp.asarray(scale)
    raw = jnp.round(raw).astype(dtype) if dtype == jnp.int8 else raw
    return state, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), seen._replace(obs=raw, extras=()))


def keep(kept: Kept, new: Trajectory) -> Kept:
    """Replaces the oldest steps of every environment by new ones."""
    steps, length = new.first.shape[1], kept.seen.first.shape[1]
    place = kept.steps % length
    write = lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x, place, axis=1)
    return Kept(jax.tree.map(write, kept.seen, new), kept.steps + steps)


def kept_windows(
    kept: Kept, row: Int[Array, "B"], context: int, key: jax.Array
) -> tuple[Trajectory, Int[Array, "B N"]]:
    """Samples a window of `context` steps from each environment `row`, uniformly: [B, T, …], observations unscaled.

    Also returns the previous action of each agent; -1 at the start of an episode or of the buffer.
    """
    length = kept.seen.first.shape[1]
    filled = jnp.minimum(kept.steps, length)
    oldest = kept.steps - filled
    begin = oldest + jax.random.randint(key, row.shape, 0, filled - context + 1)
    at = (begin[:, None] + jnp.arange(context)) % length
    seen = jax.tree.map(lambda x: x[row[:, None], at], kept.seen)
    nothing = seen.first[:, 0] | (begin == oldest)
    return seen, jnp.where(nothing[:, None], -1, kept.seen.action[row, (begin - 1) % length])


def ended(new: Trajectory, rows: int) -> Int[Array, "rows"]:
    """Returns the number of episodes that ended in new steps, as an array whose sum is the number."""
    return jnp.zeros(rows, jnp.int32).at[0].set(new.done.sum())


def replay_source(
    env: Env,
    act: Act,
    init_carry,
    num_envs: int,
    steps: int,
    pool: int,
    capacity: int,
    batch_size: int,
    context: int,
    exploration: Callable[[jax.Array], jax.Array],
) -> Source:
    """Returns a source that runs `steps` steps in every environment, then samples `batch_size` windows uniformly.

    capacity: env steps of all environments. context: window length. exploration(update): sample probability of acting.
    Windows may begin inside an episode and span several, but never wrap from the newest step to the oldest.
    """
    length = kept_length(capacity, num_envs, steps, context)
    spec = env.spec
    (scale,), dtype = kept_scale([env])

    def init(key: jax.Array) -> ReplayState:
        kept = nothing_kept(num_envs, length, spec.agents, spec.obs, spec.actions, dtype)
        return ReplayState(start(env, init_carry, num_envs, key), kept, jnp.zeros((), jnp.int32))

    def windows(kept: Kept, new: Trajectory, key: jax.Array) -> Batch:
        key_env, key_start = jax.random.split(key)
        row = jax.random.randint(key_env, (batch_size,), 0, num_envs)
        seen, before = kept_windows(kept, row, context, key_start)
        seen = seen._replace(obs=seen.obs.astype(jnp.float32) * scale)
        return as_batch(seen, {"episodes": ended(new, batch_size)})._replace(last_action=before)

    def next_batch(state: ReplayState, data: Any, x: Any, params: Params, key: jax.Array):
        key_steps, key_windows = jax.random.split(key)
        share = exploration(state.update)
        envs, new = play(env, act, init_carry, state.env, params, key_steps, steps, share, pool, scale, dtype)
        kept = keep(state.kept, new)
        return ReplayState(envs, kept, state.update + 1), windows(kept, new, key_windows)

    return Source(init, next_batch, env_steps=num_envs * steps)
