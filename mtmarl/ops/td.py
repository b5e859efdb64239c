"""Temporal-difference targets for a team value."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtmarl.ops import masked
from mtmarl.types import Batch, Params


def known(batch: Batch) -> Bool[Array, "B S"]:
    """Returns which of the S = T - 1 transitions have a TD target: the next state is in the window, or terminal.

    Truncated transitions have none, because their next state is not recorded. Only PPO on rollouts (`algos.ppo`) treats
    them as terminal.
    """
    follows = batch.time_mask[:, 1:] | batch.terminated[:, :-1]
    return batch.time_mask[:, :-1] & follows & ~batch.truncated[:, :-1]


def target(
    batch: Batch, reward_scale: float, gamma: float, value: Float[Array, "B T"]
) -> Float[Array, "B S"]:
    """Returns r_t + gamma * value_{t+1}, or r_t for terminal transitions. No gradient."""
    discount = gamma * ~batch.terminated[:, :-1]
    return jax.lax.stop_gradient(reward_scale * batch.reward[:, :-1] + discount * value[:, 1:])


def reward_scale(return_scale: float, value_range: tuple[float, float]) -> float:
    """Returns the reward scale at which the largest absolute value of the range is `return_scale`.

    The range has a margin around the discounted returns of the data.
    """
    return return_scale / max(abs(value_range[0]), abs(value_range[1]))


def best_legal(q: Float[Array, "*b A"], legal: Bool[Array, "*b A"]) -> Int[Array, "*b"]:
    """Returns the legal action with the highest value, 0 if none is legal."""
    return jnp.where(legal, q, masked.NEG_INF).argmax(-1)


def soft_max(q: Float[Array, "*b A"], legal: Bool[Array, "*b A"], temperature: float) -> Float[Array, "*b"]:
    """temperature * logsumexp(q / temperature) over legal actions, 0 if none is legal."""
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
    """Returns the conservative penalty: the mixed soft maximum of q minus the mixed q of recorded actions; never < 0.

    The soft maximum (conservative Q-learning, Kumar et al. 2020, equation 4) orders the values of actions by how often
    the data take them. If the mixer is a sum, it is the soft maximum over joint actions. The mixer gets no gradient: it
    would learn to ignore the agents, which closes any gap. Temperature 0 is the released form: a maximum, with a
    gradient for the mixer. It cannot order the actions that the data contain.
    """
    taken = masked.take(q, action)
    if temperature == 0:
        return mix(params, masked.take(q, best_legal(q, legal))) - mix(params, taken)
    params = jax.lax.stop_gradient(params)
    return mix(params, soft_max(q, legal, temperature)) - mix(params, taken)
