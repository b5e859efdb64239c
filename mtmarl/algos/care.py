"""CARE: MAPPO on many tasks, with a mixture of encoders attended to by task features (Sodhani et al. 2021).

Departures: docs/departures.md.
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
    model = mappo.with_critic(actor, critic, lambda observation, last_action: observation)
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
