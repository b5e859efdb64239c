"""CARE: MAPPO on many tasks through a mixture of encoders that the task's features attend to (Sodhani et al. 2021).

Departures from the released code: PPO instead of soft actor-critic, as actions are discrete and what is compared with
it learns by PPO; tasks are described by numbers, which exist of unseen tasks as well, instead of a sentence; experts
start from the usual initialisation (there from numbers in 0 … 1, all positive, which saturate wide observations); one
set of encoders for the actors and one for the critic.
"""

from dataclasses import dataclass

from mtmarl.algos import mappo, ppo
from mtmarl.algos.base import Algorithm, Spec
from mtmarl.networks import care, recurrent
from mtmarl.types import Dims


@dataclass(frozen=True, kw_only=True)
class Config(ppo.Config):
    network: care.Config


def make(config: Config, dims: Dims, updates: int) -> Algorithm:
    policy = care.Policy(config.network, dims.actions, dims.task_features)
    actor = recurrent.Agent(policy, config.network.embed_dim)
    critic = care.Value(config.network, dims.task_features)
    model = mappo.beside_critic(actor, critic, lambda observation, last_action: observation)
    return ppo.make(config, dims.tasks, updates, model)


SPEC = Spec(
    Config=Config,
    make=make,
    kind="online",
    title="CARE",
    needs=("updates",),
    learns_values=True,
    rollouts=ppo.rollouts,
    task_features=True,
    decentralised=True,
)
