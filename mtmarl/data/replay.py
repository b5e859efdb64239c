"""Replayed experience: what the policy of the moment does is kept, and windows of all that is kept come out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from mtmarl.data.source import Source
from mtmarl.errors import UserError
from mtmarl.rollout import RolloutState, Trajectory, as_batch, rollout, start
from mtmarl.types import Act, Batch, Env


class Kept(NamedTuple):
    """The latest C steps of each of E environments, [E, C, …], observations as raw int8. `steps`: written so far.

    Step number s lies at s mod C.
    """

    seen: Trajectory
    steps: Int[Array, ""]


class ReplayState(NamedTuple):
    env: RolloutState
    kept: Kept
    update: Int[Array, ""]


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
    explore: Callable[[jax.Array], jax.Array],
) -> Source:
    """Each batch: `steps` more steps in every environment, then `batch_size` windows of `context` steps, uniformly.

    `capacity` counts env steps of all environments; `explore(update)` is what acting is told. Windows may begin inside
    an episode and span several; none reaches from the newest step to the oldest.
    """
    length = capacity // num_envs // steps * steps
    if not 0 < context <= min(steps, length):
        raise UserError(
            f"algo.context={context} must lie in 1 … collect.rollout_length={steps}, and algo.capacity={capacity} must "
            f"hold that many steps of each of collect.num_envs={num_envs}"
        )
    scale = jnp.asarray(env.obs_scale)

    def collect(state: RolloutState, params, key, share) -> tuple[RolloutState, Trajectory]:
        state, seen = rollout(env, act, init_carry, params, state, key, steps, share, pool)
        seen = seen._replace(obs=jnp.round(seen.obs / scale).astype(jnp.int8), extras=())
        return state, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), seen)

    def init(key: jax.Array) -> ReplayState:
        state = start(env, init_carry, num_envs, key)
        agents, zero = env.spec.agents, jnp.zeros((num_envs, length))
        no = zero.astype(bool)
        empty = Trajectory(
            obs=jnp.zeros((num_envs, length, agents, env.spec.obs), jnp.int8),
            mask=jnp.zeros((num_envs, length, agents, env.spec.actions), bool),
            action=jnp.zeros((num_envs, length, agents), jnp.int32),
            reward=zero, first=no, terminal=no, truncated=no,
            episode_return=zero, episode_length=zero.astype(jnp.int32), extras=(),
        )  # fmt: skip
        return ReplayState(state, Kept(empty, jnp.zeros((), jnp.int32)), jnp.zeros((), jnp.int32))

    def windows(kept: Kept, key: jax.Array) -> Batch:
        key_env, key_start = jax.random.split(key)
        filled = jnp.minimum(kept.steps, length)
        oldest = kept.steps - filled
        row = jax.random.randint(key_env, (batch_size,), 0, num_envs)
        begin = oldest + jax.random.randint(key_start, (batch_size,), 0, filled - context + 1)
        at = (begin[:, None] + jnp.arange(context)) % length
        seen = jax.tree.map(lambda x: x[row[:, None], at], kept.seen)
        return as_batch(seen._replace(obs=seen.obs.astype(jnp.float32) * scale), {})

    def next_batch(state: ReplayState, data: Any, x: Any, params: Any, key: jax.Array):
        key_steps, key_windows = jax.random.split(key)
        envs, new = collect(state.env, params, key_steps, explore(state.update))
        place = state.kept.steps % length
        write = lambda old, x: jax.lax.dynamic_update_slice_in_dim(old, x, place, axis=1)
        kept = Kept(jax.tree.map(write, state.kept.seen, new), state.kept.steps + steps)
        return ReplayState(envs, kept, state.update + 1), windows(kept, key_windows)

    return Source(init, next_batch)
