"""Fresh experience of the current policy, rolled out inside the compiled update."""

import jax
import jax.numpy as jnp

from mtmarl.data.source import Source
from mtmarl.rollout import observe, rollout, start, where_rows
from mtmarl.types import Act, Batch, Env


def on_policy_source(env: Env, act: Act, init_carry, num_envs: int, steps: int, pool: int) -> Source:
    """A row of a batch is `steps` steps of one of `num_envs` environments, which go on from batch to batch.

    `extras`: whatever acting wrote, the memory before the first step, and `bootstrap`, the value after the last.
    """

    def next_batch(state, data, x, params, key):
        key_steps, key_bootstrap = jax.random.split(key)
        memory = state.carry
        state, seen = rollout(env, act, init_carry, params, state, key_steps, steps, 1.0, pool)
        carry = where_rows(state.first, init_carry(num_envs), state.carry)
        _, _, after = act(params, carry, observe(state.step), key_bootstrap, 1.0)
        rows = jax.tree.map(lambda y: jnp.swapaxes(y, 0, 1), seen)
        yes = jnp.ones_like(rows.first)
        batch = Batch(
            obs=rows.obs,
            mask=rows.mask,
            action=rows.action,
            agent_mask=jnp.ones(rows.action.shape, bool),
            reward=rows.reward,
            first=rows.first,
            terminal=rows.terminal,
            truncated=rows.truncated,
            time_mask=yes,
            task_id=jnp.zeros(num_envs, jnp.int32),
            extras={**rows.extras, "memory": memory, "bootstrap": after["value"]},
        )
        return state, batch

    return Source(lambda key: start(env, init_carry, num_envs, key), next_batch)
