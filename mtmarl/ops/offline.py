"""Parts of offline RL losses."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtmarl.ops.masked import NEG_INF

Grouping = Literal["task", "position", "awr"]


def icq_weights(
    score: Float[Array, "B T N"],
    valid: Bool[Array, "B T N"],
    task_id: Int[Array, "B"],
    tasks: int,
    temperature: float,
    grouping: Grouping = "task",
    max_weight: float = 20.0,
) -> Float[Array, "B T N"]:
    """Implicit-constraint weights exp(score / temperature) / Z (Yang et al. 2021, equation 8), mean 1 in each group.

    grouping: the entries that share a normaliser Z. `task`: all valid entries of a task, so that tasks do not compete.
    `position`: the batch at each (t, n), as in single-task Oryx. `awr`: no normaliser, exp clipped at `max_weight`.
    Invalid entries have weight 0.
    """
    z = score / temperature
    if grouping == "awr":
        return jnp.where(valid, jnp.minimum(jnp.exp(jnp.minimum(z, 50.0)), max_weight), 0.0)
    z = jnp.where(valid, z, NEG_INF)
    if grouping == "position":
        return jax.nn.softmax(z, axis=0) * valid * valid.sum(0, keepdims=True)
    row_max = z.max((1, 2))
    top = jnp.full(tasks, NEG_INF).at[task_id].max(row_max)[task_id][:, None, None]
    unnormalised = jnp.where(valid, jnp.exp(z - top), 0.0)
    total = jnp.zeros(tasks).at[task_id].add(unnormalised.sum((1, 2)))[task_id][:, None, None]
    count = jnp.zeros(tasks).at[task_id].add(valid.sum((1, 2)))[task_id][:, None, None]
    return unnormalised * count / jnp.maximum(total, 1e-30)


def counterfactual_baseline(
    log_prob: Float[Array, "*b A"], q: Float[Array, "*b A"], legal: Bool[Array, "*b A"]
) -> Float[Array, "*b"]:
    """sum_a pi(a) Q(a) over legal actions (COMA, Foerster et al. 2018, equation 4)."""
    return (jnp.exp(log_prob) * jnp.where(legal, q, 0.0)).sum(-1)


def expectile_loss(error: Float[Array, "*b"], expectile: float) -> Float[Array, "*b"]:
    """|tau - 1(u < 0)| u^2 with u = target - value (IQL, Kostrikov et al. 2022, equation 3).

    Element by element: over targets {0, 1} the value that minimises its mean is tau.
    """
    return jnp.where(error < 0, 1 - expectile, expectile) * error**2


def clipped_exponential(advantage: Float[Array, "*b"], scale: float, max_weight: float) -> Float[Array, "*b"]:
    """min(exp(scale * advantage), max_weight), without a gradient and without overflow."""
    bound = jnp.log(max_weight)
    return jax.lax.stop_gradient(jnp.exp(jnp.minimum(scale * advantage, bound)))
