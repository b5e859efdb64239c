"""Online Sable: PPO with the Sable network (Mahjoub et al. 2025). It collects data and reference returns."""

from dataclasses import dataclass

from mtmarl.algos import ppo
from mtmarl.algos.base import Algorithm, Spec
from mtmarl.networks import sable
from mtmarl.ops import masked
from mtmarl.ops.agents import random_orders, reorder_agents
from mtmarl.types import Batch, Dims


@dataclass(frozen=True, kw_only=True)
class Config(ppo.Config):
    """`reshuffle_agents`: shuffle agents at every gradient step, as released; see `on_policy_source`."""

    network: sable.Config
    reshuffle_agents: bool = False


def make(config: Config, dims: Dims, updates: int) -> Algorithm:
    """PPO on the joint policy, which acts agent after agent."""
    net = sable.Sable.make(config.network, dims, value=True)

    def act(params, carry, observation, key, sample_probability):
        choose = lambda logits, q, legal, k: sable.sample_policy(logits, q, legal, k, sample_probability)
        carry, action, out = net.act(params, carry, observation, key, choose)
        log_prob = masked.take(masked.log_softmax(out.logits, observation.action_mask), action)
        return carry, action, {"log_prob": log_prob, "value": out.value}

    def evaluate(params, batch: Batch):
        out, _ = net.window(params, batch.observation, batch.action, batch.first, batch.extras["carry"])
        return out.logits, out.value

    def shuffle(batch: Batch, key):
        order = random_orders(key, batch.action.shape[0], batch.action.shape[2])
        return reorder_agents(batch, order, ("log_prob", "value", "advantage", "returns"))

    init = lambda key, batch: net.init(key, batch.observation)
    model = ppo.Model(init, act, evaluate, net.init_carry, ("value_head",))
    options = {"before": shuffle} if config.reshuffle_agents else {}
    return ppo.make(config, dims.tasks, updates, model, **options)


SPEC = Spec(
    Config=Config,
    make=make,
    kind="online",
    title="Sable",
    needs=("updates",),
    learns_values=True,
    rollouts=ppo.rollouts,
    shuffles_slots=True,
)
