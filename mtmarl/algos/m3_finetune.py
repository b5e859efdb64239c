"""Fine-tuning of M3: MAPPO from the pre-trained actor, with AWAC's term on vaults (Meng et al. 2023, equation 7).

L = L_PPO - w mean over a vault batch of min(exp(A / lambda), c) log pi(a | past, task)

A = r + gamma V(s') - V(s) by the online critic (AWAC, Nair et al. 2020, equation 13). Encoder, condition and head are
fine-tuned. Codes, decoder and the latents of single agents are used in pre-training only.
"""

from dataclasses import dataclass

import jax

from mtmarl.algos import mappo, ppo
from mtmarl.algos.base import Algorithm, Spec
from mtmarl.algos.m3 import make_actor
from mtmarl.errors import UserError
from mtmarl.networks import entities, m3
from mtmarl.ops import masked, moments, td
from mtmarl.ops.offline import clipped_exponential
from mtmarl.ranges import NotNegative, Positive
from mtmarl.types import Batch, Dims


@dataclass(frozen=True, kw_only=True)
class Config(ppo.Config):
    """`awac_weight`: w; 0: no vaults are needed. `awac_temperature`: lambda, in units of the reward. `awac_max_weight`:
    c. `network`: as in the pre-trained actor (`init_from`). critic: size of the critic's transformer.
    """

    awac_weight: NotNegative
    awac_temperature: Positive
    awac_max_weight: Positive
    network: m3.Config
    critic: entities.Config


def near_data(config: Config, model: ppo.Model, dims: Dims) -> ppo.More:
    """Returns AWAC's loss, over the transitions of the vault batch that have a TD target."""

    def more(params, target, batch: Batch, key):
        offline: Batch = batch.extras["offline"]
        carry = entities.carry_before(model.init_carry, offline)
        logits, value = model.evaluate(params, offline._replace(extras={"carry": carry}))
        if config.normalise_values:
            value = moments.denormalise(value, target, offline.task_id)
        better = jax.vmap(lambda v: td.target(offline, 1.0, config.gamma, v) - v[:, :-1], 2, 2)(value)
        weight = clipped_exponential(better, 1.0 / config.awac_temperature, config.awac_max_weight)
        log_prob = masked.take(masked.log_softmax(logits, offline.action_mask), offline.action)[:, :-1]
        valid = td.known(offline)[..., None] & offline.agent_mask[:, :-1]
        mean = lambda x: masked.mean_over_tasks(x, valid, offline.task_id, dims.tasks)
        loss = -mean(weight * log_prob)
        metrics = {"awac_loss": loss, "awac_weight": mean(weight), "data_log_prob": mean(log_prob)}
        return config.awac_weight * loss, metrics

    return more


def make(config: Config, dims: Dims, updates: int) -> Algorithm:
    """With `awac_weight` 0 it equals MAPPO with this actor."""
    if config.awac_weight and dims.families > 1:
        raise UserError(
            "algo.awac_weight: vaults of several families have rewards of their own scale; set it to 0"
        )
    model = mappo.make_model(make_actor(config.network, dims, latents=False), config.critic, dims)
    if not config.awac_weight:
        return ppo.make(config, dims.tasks, updates, model)
    more = near_data(config, model, dims)
    return ppo.make(config, dims.tasks, updates, model, source="on_policy+vault", more=more)


SPEC = Spec(
    Config=Config,
    make=make,
    kind="hybrid",
    title="M3 finetune",
    needs=("updates",),
    learns_values=True,
    rollouts=ppo.rollouts,
    task_features=True,
    decentralised=True,
)
