"""Reductions and categorical distributions under masks. Nothing here divides by zero or makes a NaN."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Large enough that exp underflows to exactly 0, small enough that sums of a few stay finite.
NEG_INF = -1e9


def mean(x: Float[Array, "*s"], valid: Bool[Array, "..."]) -> Float[Array, ""]:
    """Returns the mean of x over valid entries, 0 if there are none. `valid` broadcasts against x."""
    valid = jnp.broadcast_to(valid, x.shape).astype(x.dtype)
    return (x * valid).sum() / jnp.maximum(valid.sum(), 1.0)


def task_weights(valid: Bool[Array, "B *s"], task_id: Int[Array, "B"], tasks: int) -> Float[Array, "B *s"]:
    """Returns weights that give each present task, and each valid entry within a task, the same weight.

    They sum to 1, so `(w * loss).sum()` is the mean over tasks of the per-task mean losses
    (multi-task paper, equation 1). A task without valid entries has weight 0.
    """
    valid = valid.astype(jnp.float32)
    per_row = valid.reshape(valid.shape[0], -1).sum(-1)
    per_task = jnp.zeros(tasks, valid.dtype).at[task_id].add(per_row)
    present = jnp.maximum((per_task > 0).sum(), 1)
    share = 1.0 / (present * jnp.maximum(per_task, 1.0))
    return valid * share[task_id].reshape(-1, *[1] * (valid.ndim - 1))


def mean_over_tasks(
    x: Float[Array, "B *s"], valid: Bool[Array, "B *s"], task_id: Int[Array, "B"], tasks: int
) -> Float[Array, ""]:
    """Returns the mean over tasks of the per-task means of x over valid entries (see `task_weights`)."""
    return mean(x, valid) if tasks == 1 else (task_weights(valid, task_id, tasks) * x).sum()


def per_task(x: Array, valid: Array, task_id: Int[Array, "B"], tasks: int) -> Float[Array, "K"]:
    """Returns the mean of x over the valid entries of each task, 0 for a task without any."""
    valid = jnp.broadcast_to(valid, x.shape).astype(jnp.float32)
    rows = lambda y: y.reshape(y.shape[0], -1).sum(-1)
    total, count = (jnp.zeros(tasks, y.dtype).at[task_id].add(y) for y in (rows(x * valid), rows(valid)))
    return total / jnp.maximum(count, 1.0)


def log_softmax(logits: Float[Array, "*b A"], legal: Bool[Array, "*b A"]) -> Float[Array, "*b A"]:
    """Log-probabilities over legal actions; about NEG_INF for illegal ones."""
    return jax.nn.log_softmax(jnp.where(legal, logits, NEG_INF), axis=-1)


def take(x: Float[Array, "*b A"], index: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """x[..., index]."""
    return jnp.take_along_axis(x, index[..., None].astype(jnp.int32), axis=-1)[..., 0]


def take_rows(x: Float[Array, "*b A K"], index: Int[Array, "*b"]) -> Float[Array, "*b K"]:
    """x[..., index, :]."""
    return jnp.take_along_axis(x, index[..., None, None].astype(jnp.int32), axis=-2)[..., 0, :]


def entropy(log_prob: Float[Array, "*b A"]) -> Float[Array, "*b"]:
    """The entropy in nats; illegal actions have probability 0 and add nothing."""
    return -(jnp.exp(log_prob) * log_prob).sum(-1)


def varies(
    x: Float[Array, "B *s F"], valid: Bool[Array, "B *s"], task_id: Int[Array, "B"], tasks: int
) -> Bool[Array, "K F"]:
    """Returns which features vary within a task. Constants and padding do not."""
    rows = lambda fill: jnp.where(valid[..., None], x, fill).reshape(x.shape[0], -1, x.shape[-1])
    nothing = jnp.zeros((tasks, x.shape[-1]))
    highest = (nothing - jnp.inf).at[task_id].max(rows(-jnp.inf).max(1))
    lowest = (nothing + jnp.inf).at[task_id].min(rows(jnp.inf).min(1))
    return highest - lowest > 1e-6
