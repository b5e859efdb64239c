"""MT BC-Sable: autoregressive behaviour cloning with Sable on many tasks (multi-task paper, section 3.1)."""

from dataclasses import dataclass

import jax

from mtmarl.algos.base import Algorithm, Phase, Spec, adam, gradient_step, init_learner
from mtmarl.networks import sable
from mtmarl.ops import masked
from mtmarl.ranges import Positive
from mtmarl.types import Batch, Dims


@dataclass(frozen=True)
class Config:
    """No values are learned, so there is neither a discount nor a target network."""

    learning_rate: Positive
    max_grad_norm: Positive
    network: sable.Config


def make(config: Config, dims: Dims) -> Algorithm:
    """L = -mean log pi(a | history, actions of the agents before), with equal weight for each task."""
    net = sable.Sable.make(config.network, dims)
    tx = adam(config.learning_rate, config.max_grad_norm)

    def loss(params, target, batch: Batch, key):
        out, _ = net.window(params, batch.observation, batch.action, batch.first)
        valid = batch.agent_mask & batch.time_mask[..., None]
        share = masked.task_weights(valid, batch.task_id, dims.tasks)
        log_probs = masked.log_softmax(out.logits, batch.action_mask)
        log_prob = masked.take(log_probs, batch.action)
        nll = -(share * log_prob).sum()
        return nll, {
            "loss": nll,
            "entropy": (share * masked.entropy(log_probs)).sum(),
            "log_prob": masked.per_task(log_prob, valid, batch.task_id, dims.tasks),
        }

    def init(key: jax.Array, batch: Batch):
        return init_learner(net.init(key, batch.observation), {"bc": tx}, target=False)

    phase = Phase("train", 1.0, gradient_step("bc", loss, tx))
    return Algorithm(init, (phase,), sable.policy_act(net), net.init_carry)


SPEC = Spec(Config=Config, make=make, kind="offline", title="MT BC-Sable", shuffles_slots=True)
