"""Running mean and standard deviation of returns per task, to normalise the targets of a critic."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mtmarl.ops import masked

# Decay of the running averages per update.
DECAY = 0.99
SMALLEST = 1e-2


class Moments(NamedTuple):
    """Exponential averages of x and x^2, and the weight that has gone into them so far: they start at 0."""

    mean: Float[Array, "K"]
    square: Float[Array, "K"]
    weight: Float[Array, "K"]


def start(tasks: int) -> Moments:
    return Moments(*jnp.zeros((3, tasks)))


def update(
    moments: Moments, x: Float[Array, "B *s"], valid: Bool[Array, "B *s"], task_id: Int[Array, "B"]
) -> Moments:
    """Adds the valid entries of x of each task. A task without any keeps its moments."""
    tasks = moments.mean.shape[0]
    of = lambda y: masked.per_task(y, valid, task_id, tasks)
    present = jnp.zeros(tasks).at[task_id].add(valid.reshape(valid.shape[0], -1).any(-1)) > 0
    new = Moments(of(x), of(x**2), jnp.ones(tasks))
    average = lambda old, now: jnp.where(present, DECAY * old + (1 - DECAY) * now, old)
    return Moments(*map(average, moments, new))


def _shift_and_scale(moments: Moments, task_id: Array, rank: int) -> tuple[Array, Array]:
    """Mean and standard deviation per row; 0 and 1 for a task without data."""
    known, weight = moments.weight > 0, jnp.maximum(moments.weight, 1e-6)
    mean = moments.mean / weight
    spread = jnp.maximum(jnp.sqrt(jnp.maximum(moments.square / weight - mean**2, 0.0)), SMALLEST)
    shape = lambda y: y[task_id].reshape(-1, *[1] * (rank - 1))
    return shape(mean), shape(jnp.where(known, spread, 1.0))


def normalise(x: Float[Array, "B *s"], moments: Moments, task_id: Int[Array, "B"]) -> Float[Array, "B *s"]:
    """(x - mean) / spread of each row's task."""
    mean, spread = _shift_and_scale(moments, task_id, x.ndim)
    return (x - mean) / spread


def denormalise(x: Float[Array, "B *s"], moments: Moments, task_id: Int[Array, "B"]) -> Float[Array, "B *s"]:
    """The inverse of `normalise`."""
    mean, spread = _shift_and_scale(moments, task_id, x.ndim)
    return x * spread + mean
