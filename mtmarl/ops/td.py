"""Temporal-difference targets of a team's value."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtmarl.ops import masked
from mtmarl.types import Batch, Params


def known(batch: Batch) -> Bool[Array, "B S"]:
    """Of S = T - 1 transitions those that a value can learn from: their next state is in the window, or there is none.

    What follows a truncated step is not recorded, so a time limit is neither bootstrapped nor taken for an end. The
    exception among all algorithms is PPO on rollouts (`algos.ppo`), where it is an end.
    """
    follows = batch.time_mask[:, 1:] | batch.terminated[:, :-1]
    return batch.time_mask[:, :-1] & follows & ~batch.truncated[:, :-1]


def target(
    batch: Batch, reward_scale: float, gamma: float, value: Float[Array, "B T"]
) -> Float[Array, "B S"]:
    """r_t + gamma * value_{t+1}, or r_t alone at the end of an episode. No gradient."""
    discount = gamma * ~batch.terminated[:, :-1]
    return jax.lax.stop_gradient(reward_scale * batch.reward[:, :-1] + discount * value[:, 1:])


def reward_scale(return_scale: float, value_range: tuple[float, float]) -> float:
    """What to multiply rewards by so that the farther end of the range of values is `return_scale`.

    The range has a margin around the discounted returns of the data, so these come near it and do not reach it.
    """
    return return_scale / max(abs(value_range[0]), abs(value_range[1]))


def best_legal(q: Float[Array, "*b A"], legal: Bool[Array, "*b A"]) -> Int[Array, "*b"]:
    """The legal action of the highest value; 0 where none is legal."""
    return jnp.where(legal, q, masked.NEG_INF).argmax(-1)


def soft_max(q: Float[Array, "*b A"], legal: Bool[Array, "*b A"], temperature: float) -> Float[Array, "*b"]:
    """temperature * logsumexp(q / temperature) over the legal actions; 0 where none is legal."""
    soft = temperature * jax.nn.logsumexp(jnp.where(legal, q / temperature, masked.NEG_INF), axis=-1)
    return jnp.where(legal.any(-1), soft, 0.0)


def conservative_gap(
    mix: Callable[[Params, Array], Array],
    params: Params,
    q: Float[Array, "*b N A"],
    legal: Bool[Array, "*b N A"],
    action: Int[Array, "*b N"],
    temperature: float,
) -> Float[Array, "*b"]:
    """How far mix(params, q of each agent's action) of the best actions is above that of the recorded ones; never < 0.

    The best are taken as `soft_max` (conservative Q-learning, Kumar et al. 2020, equation 4): values of actions are
    then ordered by how often data take them. Where the team's value is the sum of its agents', this is the soft
    maximum over joint actions. The mixer does not learn from it: it would learn to ignore the agents, which closes any
    gap. Temperature 0 is the released form, max, which every action that is ever taken satisfies alike, and there the
    mixer learns.
    """
    taken = masked.take(q, action)
    if temperature == 0:
        return mix(params, masked.take(q, best_legal(q, legal))) - mix(params, taken)
    params = jax.lax.stop_gradient(params)
    return mix(params, soft_max(q, legal, temperature)) - mix(params, taken)
