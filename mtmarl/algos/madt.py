"""MADT: behaviour cloning with a causal transformer over each agent's last steps (Meng et al. 2021).

The released form has a context of one step, which is a policy without memory, and gets neither actions nor returns.
Departures: docs/departures.md.
"""

from dataclasses import dataclass

import jax

from mtmarl.algos.base import Algorithm, Phase, Spec, adamw, gradient_step, init_learner
from mtmarl.algos.bc_t import cloning
from mtmarl.networks import causal, entities
from mtmarl.ranges import NotNegative, Positive
from mtmarl.types import Batch, Dims


@dataclass(frozen=True)
class Config:
    """`tell_actions`: the last action is an input. `target_return`: the undiscounted return to condition on, in
    units of the reward; None: no return to go, neither in training.
    """

    learning_rate: Positive
    weight_decay: NotNegative
    max_grad_norm: Positive
    tell_actions: bool
    target_return: float | None
    network: causal.Config


def policy_act(net: causal.Agent):
    """Returns `act` of an algorithm that samples from the logits of `net`, with parameters `actor`."""

    def act(params, carry, observation, key, sample_probability):
        history, logits = net.act(params["actor"], carry, observation)
        action = entities.choose(logits, observation, key, sample_probability)
        return entities.AgentCarry(history, action), action, {}

    return act


def make_actor(
    network: causal.Config, tell_actions: bool, target_return: float | None, dims: Dims
) -> causal.Agent:
    """Returns the policy network, before and after fine-tuning."""
    return causal.Agent(causal.Policy(network, dims.actions, tell_actions), target_return)


def make(config: Config, dims: Dims) -> Algorithm:
    """L = -mean log pi(a | the agent's last steps)."""
    net = make_actor(config.network, config.tell_actions, config.target_return, dims)
    tx = adamw(config.learning_rate, config.max_grad_norm, config.weight_decay, b2=0.95)

    def loss(params, target, batch: Batch, key):
        nll, metrics = cloning(net.window(params["actor"], batch), batch, dims)
        return nll, {"loss": nll, **metrics}

    def init(key: jax.Array, batch: Batch):
        return init_learner({"actor": net.init(key, batch)}, {"madt": tx}, target=False)

    phase = Phase("train", 1.0, gradient_step("madt", loss, tx))
    return Algorithm(init, (phase,), policy_act(net), net.init_carry)


SPEC = Spec(Config=Config, make=make, kind="offline", title="MADT", decentralised=True)
