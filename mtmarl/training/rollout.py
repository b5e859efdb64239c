"""The only act-step scan: evaluation, data collection and online training all call it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtmarl.types import Act, Batch, Carry, Env, Observation, Params, TimeStep


class RolloutState(NamedTuple):
    """B environments in the middle of their episodes, and the memory of who acts in them."""

    env: Any
    step: TimeStep
    first: Bool[Array, "B"]
    carry: Carry
    episode_return: Float[Array, "B"]
    episode_length: Int[Array, "B"]


class Trajectory(NamedTuple):
    """What was seen and done, time first: [T, B, …]. `episode_*` count up to and including the step."""

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
    """B fresh episodes."""
    state, step = jax.vmap(env.reset)(jax.random.split(key, batch_size))
    first, zero = jnp.ones(batch_size, bool), jnp.zeros(batch_size, jnp.float32)
    carry = init_carry(batch_size, env.spec.agents)
    return RolloutState(state, step, first, carry, zero, zero.astype(jnp.int32))


def observe(step: TimeStep) -> Observation:
    """An unpadded team's observation: every slot is an agent."""
    return Observation(step.obs, step.action_mask, jnp.ones(step.action_mask.shape[:-1], bool), step.reward)


def as_batch(seen: Trajectory, extras: Mapping[str, Any]) -> Batch:
    """What an unpadded team of one task saw and did, rows first ([B, T, …]), as a batch."""
    return Batch(
        obs=seen.obs,
        action_mask=seen.action_mask,
        action=seen.action,
        agent_mask=jnp.ones(seen.action.shape, bool),
        reward=seen.reward,
        first=seen.first,
        terminated=seen.terminated,
        truncated=seen.truncated,
        time_mask=jnp.ones(seen.first.shape, bool),
        task_id=jnp.zeros(seen.first.shape[0], jnp.int32),
        extras=extras,
    )


def where_rows(condition: Bool[Array, "B"], a, b):
    """Row by row, a where the condition holds, else b; over any pytree."""
    choose = lambda x, y: jnp.where(condition.reshape(-1, *[1] * (x.ndim - 1)), x, y)
    return jax.tree.map(choose, a, b)


def _at_limits(name: str, ask: Callable[[], Mapping[str, Any]], truncated: Bool[Array, "B"], like: Any):
    """What acting says under `name` where time limits have just fallen: asked only then, which is not often."""
    nothing = jnp.zeros_like(like)
    said = jax.lax.cond(truncated.any(), lambda: ask()[name], lambda: nothing)
    return {f"limit_{name}": where_rows(truncated, said, nothing)}


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
    """`steps` environment steps in each of B environments.

    With a pool, that many fresh starts are made at once and every environment that ends copies one of them at
    random: under vmap an automatic reset would cost a reset on every step. Without one, an environment that has
    ended goes on unobserved; the caller looks at first episodes only.

    at_limit: what acting writes beside an action, such as the value; it is then kept of the state in which a time
    limit ended an episode as well, before the next one begins (`limit_…` [T, B, …]; 0 where none did).
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
            ask = lambda: act(params, carry, observe(step), key_limit, sample_probability)[2]
            extras = {**extras, **_at_limits(at_limit, ask, step.truncated, extras[at_limit])}
        done = step.terminated | step.truncated
        total = jnp.where(state.first, 0.0, state.episode_return) + step.reward
        length = jnp.where(state.first, 0, state.episode_length) + 1
        seen = Trajectory(
            state.step.obs, state.step.action_mask, action, step.reward, state.first, step.terminated, step.truncated,
            total, length, extras,
        )  # fmt: skip
        if pool:
            picks = jax.random.randint(key_reset, (batch_size,), 0, pool)
            env_state, step = where_rows(done, jax.tree.map(lambda x: x[picks], fresh), (env_state, step))
        return RolloutState(env_state, step, done & bool(pool), carry, total, length), seen

    return jax.lax.scan(one, state, jax.random.split(key_steps, steps))
