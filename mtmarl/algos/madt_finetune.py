"""Fine-tuning of MADT: PPO from a pre-trained policy, with the central critic of MAPPO (Meng et al. 2021).

Departures: docs/departures.md.
"""

from dataclasses import dataclass

import jax.numpy as jnp

from mtmarl.algos import mappo, ppo
from mtmarl.algos.base import Algorithm, Spec
from mtmarl.algos.madt import make_actor
from mtmarl.networks import causal, entities
from mtmarl.types import Dims


@dataclass(frozen=True, kw_only=True)
class Config(ppo.Config):
    """`tell_actions`, `target_return`, `network`: as in the pre-trained policy (`init_from`). critic: size of the
    critic's transformer.
    """

    tell_actions: bool
    target_return: float | None
    network: causal.Config
    critic: entities.Config


def make(config: Config, dims: Dims, updates: int) -> Algorithm:
    actor = make_actor(config.network, config.tell_actions, config.target_return, dims)
    model = mappo.make_model(actor, config.critic, dims)

    def act(params, carry, observation, key, sample_probability):
        """Stores the return to go in `extras`: in the middle of an episode rewards do not determine it."""
        carry, action, out = model.act(params, carry, observation, key, sample_probability)
        to_go = carry.history.get("to_go")
        if to_go is not None:
            out = {**out, "to_go": jnp.broadcast_to(to_go[:, None], action.shape)}
        return carry, action, out

    return ppo.make(config, dims.tasks, updates, model._replace(act=act))


SPEC = Spec(
    Config=Config,
    make=make,
    kind="online",
    title="MADT finetune",
    needs=("updates",),
    learns_values=True,
    rollouts=ppo.rollouts,
    decentralised=True,
)
