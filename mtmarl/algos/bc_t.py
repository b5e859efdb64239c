"""BC-t: behaviour cloning with a transformer over entities, the baseline of ODIS (Zhang et al. 2023).

Departures: docs/departures.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import optax
from jaxtyping import Array

from mtmarl.algos.base import (
    Algorithm,
    Phase,
    Spec,
    adam,
    drop_unused_actions,
    gradient_step,
    init_learner,
)
from mtmarl.networks import entities
from mtmarl.ops import masked
from mtmarl.ranges import Positive
from mtmarl.types import Batch, Dims


@dataclass(frozen=True)
class Config:
    """No values are learned, so there is neither a discount nor a target network."""

    learning_rate: Positive
    max_grad_norm: Positive
    network: entities.Config


def accuracy(best: Array, batch: Batch, dims: Dims) -> Array:
    """Returns per task how often the best actions [B, T, N] equal the recorded ones.

    Only agents with a choice count: dead and padded agents have one legal action.
    """
    choice = batch.agent_mask & batch.time_mask[..., None] & (batch.action_mask.sum(-1) > 1)
    return masked.per_task(best == batch.action, choice, batch.task_id, dims.tasks)


def cloning(logits: Array, batch: Batch, dims: Dims) -> tuple[Array, dict[str, Array]]:
    """Returns -mean log pi(a | history) over legal actions, with equal weight for each task, and metrics."""
    valid = batch.agent_mask & batch.time_mask[..., None]
    share = masked.task_weights(valid, batch.task_id, dims.tasks)
    log_probs = masked.log_softmax(logits, batch.action_mask)
    log_prob = masked.take(log_probs, batch.action)
    nll = -(share * log_prob).sum()
    return nll, {
        "entropy": (share * masked.entropy(log_probs)).sum(),
        "log_prob": masked.per_task(log_prob, valid, batch.task_id, dims.tasks),
        "accuracy": accuracy(log_probs.argmax(-1), batch, dims),
    }


def training(
    net: entities.Agent,
    tx: optax.GradientTransformation,
    dims: Dims,
    more: Callable[[Batch], Array | None] = lambda batch: None,
) -> tuple[Callable, tuple[Phase, ...]]:
    """Returns (init, phases) of behaviour cloning. `more(batch)` [B, T] is a further input of every agent."""

    def loss(params, target, batch: Batch, key):
        nll, metrics = cloning(net.window(params, batch, more(batch)), batch, dims)
        return nll, {"loss": nll, **metrics}

    def init(key: jax.Array, batch: Batch):
        return init_learner(net.init(key, batch, more(batch)), {"bc": tx}, target=False)

    return init, (Phase("train", 1.0, gradient_step("bc", loss, tx)),)


def make(config: Config, dims: Dims) -> Algorithm:
    net = entities.Agent.make(config.network, dims)
    init, phases = training(net, adam(config.learning_rate, config.max_grad_norm), dims)

    def act(params, carry, observation, key, sample_probability):
        history, logits = net.act(params, carry, observation)
        action = entities.choose(logits, observation, key, sample_probability)
        return entities.AgentCarry(history, action), action, {}

    return drop_unused_actions(Algorithm(init, phases, act, net.init_carry), dims)


SPEC = Spec(Config=Config, make=make, kind="offline", title="BC-t", decentralised=True)
