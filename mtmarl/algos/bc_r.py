"""BC-r: BC-t conditioned on the return to go (a baseline of ODIS, Zhang et al. 2023).

In training the return to go is the sum of rewards until the end of the episode, in acting the target return minus what
was received. Departures: docs/departures.md.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from mtmarl.algos import bc_t
from mtmarl.algos.base import Algorithm, Spec, adam, drop_unused_actions
from mtmarl.networks import entities
from mtmarl.ranges import Positive
from mtmarl.types import Batch, Dims


@dataclass(frozen=True)
class Config:
    """`target_return`: the undiscounted return to condition on when acting, in units of the reward."""

    learning_rate: Positive
    max_grad_norm: Positive
    target_return: float
    network: entities.Config


def make(config: Config, dims: Dims) -> Algorithm:
    """Its carry is that of BC-t and the return to go."""
    net = entities.Agent.make(config.network, dims)

    def to_go(batch: Batch):
        assert batch.return_to_go is not None, "a batch without recorded returns"
        return batch.return_to_go

    init, phases = bc_t.training(net, adam(config.learning_rate, config.max_grad_norm), dims, to_go)

    def init_carry(batch_size: int, agents: int):
        return net.init_carry(batch_size, agents), jnp.full(batch_size, config.target_return)

    def act(params, carry, observation, key, sample_probability):
        carry, left = carry
        left = left if observation.reward is None else left - observation.reward
        history, logits = net.act(params, carry, observation, left)
        action = entities.choose(logits, observation, key, sample_probability)
        return (entities.AgentCarry(history, action), left), action, {}

    return drop_unused_actions(Algorithm(init, phases, act, init_carry), dims)


SPEC = Spec(Config=Config, make=make, kind="offline", title="BC-r", decentralised=True)
