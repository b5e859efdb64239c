"""MADT: behaviour cloning with a causal transformer over each agent's own last steps (Meng et al. 2021).

Departures from the released code: the loss is over legal actions and all tasks weigh the same; a step is one token;
windows go on after an agent's death, where it has one action; feed-forward layers are four times as wide as the
rest; the critic learns in the fine-tuning alone. As released it has a context of one step, which is a policy without
memory, and is told neither its actions nor returns.
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
    """`tell_actions`: agents know what they did last. `target_return`: the undiscounted return that play asks for, in
    the units of the reward; None: agents are not told returns, in training either.
    """

    learning_rate: Positive
    weight_decay: NotNegative
    max_grad_norm: Positive
    tell_actions: bool
    target_return: float | None
    network: causal.Config


def policy_act(net: causal.Agent):
    """`act` of an algorithm that draws from the logits of `net` alone; its parameters are those of the actor."""

    def act(params, carry, observation, key, sample_probability):
        history, logits = net.act(params["actor"], carry, observation)
        action = entities.choose(logits, observation, key, sample_probability)
        return entities.AgentCarry(history, action), action, {}

    return act


def make_actor(
    network: causal.Config, tell_actions: bool, target_return: float | None, dims: Dims
) -> causal.Agent:
    """The policy before and after fine-tuning."""
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
