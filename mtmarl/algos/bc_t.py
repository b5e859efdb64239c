"""BC-t: behaviour cloning with a transformer over entities, the baseline of ODIS (Zhang et al. 2023).

Departures from the released code: agents are not numbered, windows instead of whole episodes, actions are cloned among
those that are legal, a head of its own for aims (with `network.mean_head` it has not), means over real steps of real
agents.
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
    """It learns no values, so it has neither a discount nor a target network."""

    learning_rate: Positive
    max_grad_norm: Positive
    network: entities.Config


def accuracy(best: Array, batch: Batch, dims: Dims) -> Array:
    """Per task, how often the best actions [B, T, N] are the recorded ones, of agents that had a choice: the dead and
    the padded have one action.
    """
    choice = batch.agent_mask & batch.time_mask[..., None] & (batch.action_mask.sum(-1) > 1)
    return masked.per_task(best == batch.action, choice, batch.task_id, dims.tasks)


def cloning(logits: Array, batch: Batch, dims: Dims) -> tuple[Array, dict[str, Array]]:
    """-mean log pi(a | what the agent saw), every task weighing the same, over legal actions."""
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
    """(init, phases) of cloning; `more(batch)` [B, T] is told to every agent."""

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
