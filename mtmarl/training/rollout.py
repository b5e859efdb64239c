"""The act-step scan of evaluation, data collection and online training."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtmarl.types import Act, Batch, Carry, Env, Observation, Params, TimeStep


class RolloutState(NamedTuple):
    """B running environments and the carries of their policies."""

    env: Any
    step: TimeStep
    first: Bool[Array, "B"]
    carry: Carry
    episode_return: Float[Array, "B"]
    episode_length: Int[Array, "B"]


class Trajectory(NamedTuple):
    """Recorded steps, time-major: [T, B, …]. `episode_*` are running totals that include the step."""

    obs: Float[Array, "T B N O"]
    action_mask: Bool[Array, "T B N A"]
    action: Int[Array, "T B N"]
    reward: Float[Array, "T B"]
    first: Bool[Array, "T B"]
    terminated: Bool[Array, "T B"]
    truncated: Bool[Array, "T B"]
    episode_return: Float[Array, "T B"]
    episode_length: Int[Array, "T B"]
    extras: Any

    @property
    def done(self) -> Bool[Array, "T B"]:
        return self.terminated | self.truncated


def start(env: Env, init_carry, batch_size: int, key: jax.Array) -> RolloutState:
    """Starts B episodes."""
    state, step = jax.vmap(env.reset)(jax.random.split(key, batch_size))
    first, zero = jnp.ones(batch_size, bool), jnp.zeros(batch_size, jnp.float32)
    carry = init_carry(batch_size, env.spec.agents)
    return RolloutState(state, step, first, carry, zero, zero.astype(jnp.int32))


def observe(step: TimeStep) -> Observation:
    """Returns the observation of an unpadded team: every slot is an agent."""
    return Observation(step.obs, step.action_mask, jnp.ones(step.action_mask.shape[:-1], bool), step.reward)


def as_batch(trajectory: Trajectory, extras: Mapping[str, Any]) -> Batch:
    """Returns the batch-major trajectory ([B, T, …]) of one task and an unpadded team as a batch."""
    return Batch(
        obs=trajectory.obs,
        action_mask=trajectory.action_mask,
        action=trajectory.action,
        agent_mask=jnp.ones(trajectory.action.shape, bool),
        reward=trajectory.reward,
        first=trajectory.first,
        terminated=trajectory.terminated,
        truncated=trajectory.truncated,
        time_mask=jnp.ones(trajectory.first.shape, bool),
        task_id=jnp.zeros(trajectory.first.shape[0], jnp.int32),
        extras=extras,
    )


def where_rows(condition: Bool[Array, "B"], a, b):
    """Selects rows of the pytree a where the condition holds, else of b."""
    choose = lambda x, y: jnp.where(condition.reshape(-1, *[1] * (x.ndim - 1)), x, y)
    return jax.tree.map(choose, a, b)


def _at_limits(name: str, compute: Callable[[], Mapping[str, Any]], truncated: Bool[Array, "B"], like: Any):
    """Returns the extra `name` in truncated final states, else 0. It is computed only if a row is truncated."""
    zeros = jnp.zeros_like(like)
    value = jax.lax.cond(truncated.any(), lambda: compute()[name], lambda: zeros)
    return {f"limit_{name}": where_rows(truncated, value, zeros)}


def rollout(
    env: Env,
    act: Act,
    init_carry,
    params: Params,
    state: RolloutState,
    key: jax.Array,
    steps: int,
    sample_probability: float | jax.Array,
    pool: int = 0,
    at_limit: str | None = None,
) -> tuple[RolloutState, Trajectory]:
    """Runs `steps` environment steps in each of B environments.

    pool: number of initial states made once per call. An environment that ends restarts from a random one of them,
    because under vmap an automatic reset would reset on every step. With pool 0, ended environments keep running and
    the caller must use first episodes only.

    at_limit: name of an extra of `act`, such as the value. It is also recorded for the final state of truncated
    episodes, as `limit_…` [T, B, …]; 0 elsewhere.
    """
    batch_size = state.first.shape[0]
    key_pool, key_steps = jax.random.split(key)
    fresh_carry = init_carry(batch_size, env.spec.agents)
    if pool:
        fresh = jax.vmap(env.reset)(jax.random.split(key_pool, pool))

    def one(state: RolloutState, k):
        key_act, key_env, key_reset, key_limit = jax.random.split(k, 4)
        carry = where_rows(state.first, fresh_carry, state.carry)
        carry, action, extras = act(params, carry, observe(state.step), key_act, sample_probability)
        env_state, step = jax.vmap(env.step)(state.env, action, jax.random.split(key_env, batch_size))
        if at_limit is not None:
            compute = lambda: act(params, carry, observe(step), key_limit, sample_probability)[2]
            extras = {**extras, **_at_limits(at_limit, compute, step.truncated, extras[at_limit])}
        done = step.terminated | step.truncated
        total = jnp.where(state.first, 0.0, state.episode_return) + step.reward
        length = jnp.where(state.first, 0, state.episode_length) + 1
        recorded = Trajectory(
            state.step.obs, state.step.action_mask, action, step.reward, state.first, step.terminated, step.truncated,
            total, length, extras,
        )  # fmt: skip
        if pool:
            picks = jax.random.randint(key_reset, (batch_size,), 0, pool)
            env_state, step = where_rows(done, jax.tree.map(lambda x: x[picks], fresh), (env_state, step))
        return RolloutState(env_state, step, done & bool(pool), carry, total, length), recorded

    return jax.lax.scan(one, state, jax.random.split(key_steps, steps))
