"""On-policy rollouts inside the compiled update."""

from typing import Any

import jax
import jax.numpy as jnp

from mtmarl.data.source import Source
from mtmarl.ops.agents import random_orders, reorder, reorder_agents
from mtmarl.training.rollout import as_batch, observe, rollout, start, where_rows
from mtmarl.types import Act, Env


def held_per_agent(init_carry) -> Any:
    """Returns which leaves of a carry have an agent axis (axis 1): those whose shape depends on the team size."""
    one, two = (jax.eval_shape(lambda n=n: init_carry(1, n)) for n in (1, 2))
    return jax.tree.map(lambda a, b: a.shape != b.shape, one, two)


def turn(carry: Any, order: jax.Array, held: Any) -> Any:
    """Permutes the agents of a carry by the order [B, N] of each row. Leaves without an agent axis stay unchanged."""
    return jax.tree.map(lambda x, per_agent: reorder(x, order) if per_agent else x, carry, held)


def in_order(act: Act, order: jax.Array, held: Any = None) -> Act:
    """Returns `act` in which the agents of each row act in that row's order [B, N].

    held: result of `held_per_agent`. The carry is in slot order before and after.
    """
    inverse = jnp.argsort(order, axis=1)

    def acting(params, carry, observation, key, sample_probability):
        per_agent = ("obs", "action_mask", "agent_mask")
        observation = observation._replace(
            **{name: reorder(getattr(observation, name), order) for name in per_agent}
        )
        carry, *out = act(params, turn(carry, order, held), observation, key, sample_probability)
        return turn(carry, inverse, held), *jax.tree.map(lambda x: reorder(x, inverse), out)

    return acting


def on_policy_source(
    env: Env, act: Act, init_carry, num_envs: int, steps: int, pool: int, at_limit: str | None = None
) -> Source:
    """Returns a source whose rows are `steps` steps of `num_envs` environments that continue from batch to batch.

    A random agent order is drawn per row and batch. The agents act in this order, and the batch has this order. So no
    agent is always first, and an autoregressive policy is trained on exactly the probabilities that it acted with.
    The released Sable shuffles agents after acting. That compares two different factorisations of the joint policy, and
    the PPO ratio drifts from 1 as the policy learns to coordinate.

    extras: those of `act`, the `carry` before the first step and `bootstrap`, the value after the last step. at_limit:
    see `rollout`.
    """
    held = held_per_agent(init_carry)

    def next_batch(state, data, x, params, key):
        key_steps, key_bootstrap, key_order = jax.random.split(key, 3)
        order = random_orders(key_order, num_envs, env.spec.agents)
        acting = in_order(act, order, held)
        carry_before = turn(state.carry, order, held)
        state, seen = rollout(env, acting, init_carry, params, state, key_steps, steps, 1.0, pool, at_limit)
        carry = where_rows(state.first, init_carry(num_envs, env.spec.agents), state.carry)
        _, _, after = acting(params, carry, observe(state.step), key_bootstrap, 1.0)
        rows = jax.tree.map(lambda y: jnp.swapaxes(y, 0, 1), seen)
        bootstrap = reorder(after["value"], order)
        extras = {"carry": carry_before, "bootstrap": bootstrap, "episodes": rows.done.sum(1)}
        batch = as_batch(rows, {**rows.extras, **extras})
        return state, reorder_agents(batch, order, tuple(seen.extras))

    return Source(lambda key: start(env, init_carry, num_envs, key), next_batch, env_steps=num_envs * steps)
