"""Online Sable: PPO on the Sable network (Mahjoub et al. 2025). It collects the data and sets the reference returns."""

from dataclasses import dataclass

import jax.numpy as jnp
import optax

from mtmarl.algos.base import Algorithm, Phase, gradient_step, init_learner, minibatches
from mtmarl.networks import sable
from mtmarl.ops import masked
from mtmarl.ops.agents import random_orders, reorder_agents
from mtmarl.ops.policy import clipped_surrogate, clipped_value_loss
from mtmarl.ops.returns import gae
from mtmarl.types import Batch, Dims


@dataclass(frozen=True)
class Config:
    """Learning rate and entropy weight go linearly from their first to their last value over all updates.

    `reshuffle_agents`: the released behaviour, agents in a new order at every gradient step; see `on_policy_source`.
    """

    learning_rate: float
    final_learning_rate: float
    max_grad_norm: float
    gamma: float
    gae_lambda: float
    clip: float
    entropy_weight: float
    final_entropy_weight: float
    value_weight: float
    epochs: int
    minibatches: int
    advantage_floor: float
    network: sable.Config
    reshuffle_agents: bool = False


def make(config: Config, dims: Dims, updates: int) -> Algorithm:
    """PPO for tasks of these dims. A row of the batch is one environment's rollout of T steps.

    `extras` of the batch: log_prob and value [B, T, N] from acting, the memory before the first step and the
    value after the last (`bootstrap` [B, N]). The episode return that is reported is undiscounted over a
    finite horizon, so a time limit ends the return here as well: nothing is bootstrapped beyond it.
    """
    net = sable.Sable.make(config.network, dims, value=True)
    steps = updates * config.epochs * config.minibatches
    schedule = lambda start, end: optax.linear_schedule(start, end, steps)
    entropy_weight = schedule(config.entropy_weight, config.final_entropy_weight)
    tx = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adam(schedule(config.learning_rate, config.final_learning_rate), eps=1e-5),
    )

    def act(params, memory, obs, key, explore):
        choose = lambda logits, q, legal, k: sable.sample_policy(logits, q, legal, k, explore)
        memory, action, out = net.act(params, memory, obs, key, choose)
        log_prob = masked.take(masked.log_softmax(out.logits, obs.action_mask), action)
        return memory, action, {"log_prob": log_prob, "value": out.value}

    def loss(params, target, batch: Batch, key):
        if config.reshuffle_agents:
            order = random_orders(key, batch.action.shape[0], batch.action.shape[2])
            batch = reorder_agents(batch, order, ("log_prob", "value", "advantage", "returns"))
        out, _ = net.window(params, batch.observation, batch.action, batch.first, batch.extras["memory"])
        log_probs = masked.log_softmax(out.logits, batch.mask)
        log_prob = masked.take(log_probs, batch.action)
        advantage, returns = batch.extras["advantage"], batch.extras["returns"]
        valid = batch.agent_mask
        centre = masked.mean(advantage, valid)
        spread = jnp.sqrt(masked.mean((advantage - centre) ** 2, valid))
        # The floor keeps critic noise from being blown up to unit size while no reward has been seen.
        advantage = (advantage - centre) / jnp.maximum(spread, config.advantage_floor)
        actor = masked.mean(
            clipped_surrogate(log_prob, batch.extras["log_prob"], advantage, config.clip), valid
        )
        critic = masked.mean(
            clipped_value_loss(out.value, batch.extras["value"], returns, config.clip), valid
        )
        entropy = masked.mean(masked.entropy(log_probs), valid)
        total = actor + config.value_weight * critic - batch.extras["entropy_weight"].mean() * entropy
        kl = masked.mean(batch.extras["log_prob"] - log_prob, valid)
        return total, {"actor_loss": actor, "critic_loss": critic, "entropy": entropy, "approximate_kl": kl}

    step = minibatches(gradient_step("ppo", loss, tx), config.epochs, config.minibatches)

    def update(learner, batch: Batch, key):
        reward = jnp.broadcast_to(batch.reward[..., None], batch.action.shape)
        ended = (batch.terminal | batch.truncated)[..., None]
        discount = jnp.broadcast_to(config.gamma * ~ended, reward.shape)
        time_first = lambda x: jnp.moveaxis(x, 1, 0)
        value = batch.extras["value"]
        reward, discount, by_time = time_first(reward), time_first(discount), time_first(value)
        advantage = gae(reward, discount, by_time, batch.extras["bootstrap"], config.gae_lambda)
        advantage = time_first(advantage)
        weight = jnp.full(batch.task_id.shape, entropy_weight(learner.step))
        extras = {
            **batch.extras,
            "advantage": advantage,
            "returns": advantage + value,
            "entropy_weight": weight,
        }
        return step(learner, batch._replace(extras=extras), key)

    def init(key, batch: Batch):
        return init_learner(net.init(key, batch.observation), {"ppo": tx}, target=False)

    return Algorithm(init, (Phase("train", 1.0, update),), act, net.init_memory)
