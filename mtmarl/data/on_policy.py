"""Fresh experience of the current policy, rolled out inside the compiled update."""

from typing import Any

import jax
import jax.numpy as jnp

from mtmarl.data.source import Source
from mtmarl.ops.agents import random_orders, reorder, reorder_agents
from mtmarl.training.rollout import as_batch, observe, rollout, start, where_rows
from mtmarl.types import Act, Env


def held_per_agent(init_carry) -> Any:
    """Which leaves of a memory hold something of each agent, on axis 1: those that grow with the team."""
    one, two = (jax.eval_shape(lambda n=n: init_carry(1, n)) for n in (1, 2))
    return jax.tree.map(lambda a, b: a.shape != b.shape, one, two)


def turn(carry: Any, order: jax.Array, held: Any) -> Any:
    """A memory with its agents in the order [B, N] of each row; what belongs to the whole team stays."""
    return jax.tree.map(lambda x, own: reorder(x, order) if own else x, carry, held)


def in_order(act: Act, order: jax.Array, held: Any = None) -> Act:
    """`act` with the agents of each row taking their turns in that row's order [B, N].

    The memory, of which `held_per_agent` tells the leaves, goes in and comes out in the order of the slots.
    """
    back = jnp.argsort(order, axis=1)

    def acting(params, carry, observation, key, sample_probability):
        per_agent = ("obs", "action_mask", "agent_mask")
        observation = observation._replace(
            **{name: reorder(getattr(observation, name), order) for name in per_agent}
        )
        carry, *out = act(params, turn(carry, order, held), observation, key, sample_probability)
        return turn(carry, back, held), *jax.tree.map(lambda x: reorder(x, back), out)

    return acting


def on_policy_source(
    env: Env, act: Act, init_carry, num_envs: int, steps: int, pool: int, at_limit: str | None = None
) -> Source:
    """A row of a batch is `steps` steps of one of `num_envs` environments, which go on from batch to batch.

    Every row has an order of its own in which its agents act, drawn anew for each batch, and the batch comes in that
    order. So no agent is always the first, and a policy that acts agent after agent is trained on exactly the
    probabilities that it acted with; shuffling the agents afterwards, as the released Sable does, compares two
    different factorisations of the joint policy, and the ratio drifts from 1 as the policy learns to coordinate.

    `extras`: whatever acting wrote, the `carry` before the first step, and `bootstrap`, the value after the last.
    at_limit: as for `rollout`.
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
        more = {"carry": carry_before, "bootstrap": bootstrap, "episodes": rows.done.sum(1)}
        batch = as_batch(rows, {**rows.extras, **more})
        return state, reorder_agents(batch, order, tuple(seen.extras))

    return Source(lambda key: start(env, init_carry, num_envs, key), next_batch, env_steps=num_envs * steps)
