"""Proximal policy optimisation (Schulman et al. 2017) for teams, on rollouts of one or several tasks.

Sable, MAPPO and CARE share it. They differ in networks and settings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from mtmarl.algos.base import Algorithm, Phase, Rollouts, gradient_step, init_learner, minibatches, route
from mtmarl.errors import UserError
from mtmarl.ops import masked, moments
from mtmarl.ops.policy import clipped_surrogate, clipped_value_loss
from mtmarl.ops.returns import gae
from mtmarl.ranges import Natural, NotNegative, Positive, Share, Size
from mtmarl.types import Act, Batch, Carry, Learner, Params, Update


@dataclass(frozen=True, kw_only=True)
class Config:
    """Learning rate and entropy weight change linearly from their first to their last value over the actor's updates.

    critic_warmup: updates that train the critic alone, before the first step of the actor. The schedule of its learning
    rate restarts with the actor's. huber_delta: the critic's loss is linear beyond it. normalise_values: the
    critic learns returns that are normalised per task. only_choices: the actor's loss uses agents with more than one
    legal action. bootstrap_limits: returns are bootstrapped with the critic at time limits (Pardo et al. 2018).
    """

    learning_rate: Positive
    final_learning_rate: NotNegative
    max_grad_norm: Positive
    gamma: Share
    gae_lambda: Share
    clip: Positive
    entropy_weight: NotNegative
    final_entropy_weight: NotNegative
    value_weight: NotNegative
    epochs: Size
    minibatches: Size
    advantage_floor: Positive
    critic_warmup: Natural = 0
    huber_delta: Positive | None = None
    normalise_values: bool = False
    only_choices: bool = False
    bootstrap_limits: bool = False


def rollouts(config: Config) -> Rollouts:
    return Rollouts(
        config.minibatches, config.critic_warmup, config.bootstrap_limits, config.normalise_values
    )


class Model(NamedTuple):
    """The networks of an actor and its critic.

    init(key, batch) -> params; act as in `types.Act`, whose extras are log_prob and value [B, N]; evaluate(params,
    batch) -> (logits [B, T, N, A], values [B, T, N]) from the carry in the batch's extras; `critic`: top-level
    parameters that only values depend on.
    """

    init: Callable[[jax.Array, Batch], Params]
    act: Act
    evaluate: Callable[[Params, Batch], tuple[Array, Array]]
    init_carry: Callable[[int, int], Carry]
    critic: tuple[str, ...]


# What else is minimised: (params, target, minibatch, key) -> (loss, metrics). The target are the moments of the values
# where these are normalised.
More = Callable[[Params, Any, Batch, jax.Array], tuple[Array, Mapping[str, Array]]]


class Training(NamedTuple):
    """Optimisers, phases, whose fractions add up to 1, and the initial `Learner.target`."""

    txs: dict[str, optax.GradientTransformation]
    phases: tuple[Phase, ...]
    target: Any


def training(
    config: Config,
    tasks: int,
    updates: int,
    model: Model,
    *,
    source: str = "on_policy",
    before: Callable[[Batch, jax.Array], Batch] = lambda batch, key: batch,
    more: More | None = None,
) -> Training:
    """PPO for `updates` updates.

    A row of the batch is a rollout of T steps in one environment. `extras` of the batch: log_prob and value [B, T, N]
    from acting, the carry before the first step, and the value after the last (`bootstrap` [B, N]); with
    `bootstrap_limits` also values at time limits (`limit_value`, 0 elsewhere). `before` transforms each minibatch.

    Without `bootstrap_limits` a time limit is terminal, unlike in `ops.td.known`: the reported return is that of a
    finite episode. Observations do not include the time, so a value is a mean over the remaining time.
    """
    if not 0 <= config.critic_warmup < updates:
        raise UserError(
            f"algo.critic_warmup={config.critic_warmup} must lie in 0 … {updates - 1}, below all updates"
        )
    per_update = config.epochs * config.minibatches
    alone = config.critic_warmup * per_update
    steps = updates * per_update - alone
    schedule = lambda start, end: optax.linear_schedule(start, end, steps)
    entropy_weight = schedule(config.entropy_weight, config.final_entropy_weight)
    tx = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adam(schedule(config.learning_rate, config.final_learning_rate), eps=1e-5),
    )

    def loss(params, target, batch: Batch, key):
        batch = before(batch, key)
        logits, value = model.evaluate(params, batch)
        log_probs = masked.log_softmax(logits, batch.action_mask)
        log_prob = masked.take(log_probs, batch.action)
        advantage, returns = batch.extras["advantage"], batch.extras["returns"]
        valid = batch.agent_mask
        acting = valid & (batch.action_mask.sum(-1) > 1) if config.only_choices else valid
        mean = lambda x, where: masked.mean_over_tasks(x, where, batch.task_id, tasks)
        centre = _per_row(advantage, acting, batch, tasks)
        spread = jnp.sqrt(_per_row((advantage - centre) ** 2, acting, batch, tasks))
        # The floor prevents amplification of critic noise before the first reward.
        advantage = (advantage - centre) / jnp.maximum(spread, config.advantage_floor)
        actor = mean(clipped_surrogate(log_prob, batch.extras["log_prob"], advantage, config.clip), acting)
        critic = mean(
            clipped_value_loss(value, batch.extras["value"], returns, config.clip, config.huber_delta), valid
        )
        entropy = mean(masked.entropy(log_probs), acting)
        total = actor + config.value_weight * critic - batch.extras["entropy_weight"].mean() * entropy
        kl = mean(batch.extras["log_prob"] - log_prob, acting)
        metrics = {"actor_loss": actor, "critic_loss": critic, "entropy": entropy, "approximate_kl": kl}
        if more is None:
            return total, metrics
        further, own = more(params, target, batch, key)
        return total + further, {**metrics, **own}

    def on_rollouts(step: Update) -> Update:
        def update(learner: Learner, batch: Batch, key):
            reward = jnp.broadcast_to(batch.reward[..., None], batch.action.shape)
            ended = (batch.terminated | batch.truncated)[..., None]
            discount = jnp.broadcast_to(config.gamma * ~ended, reward.shape)
            time_first = lambda x: jnp.moveaxis(x, 1, 0)
            meant = lambda x: x
            if config.normalise_values:
                meant = lambda x: moments.denormalise(x, learner.target, batch.task_id)
            value, bootstrap = meant(batch.extras["value"]), meant(batch.extras["bootstrap"])
            if config.bootstrap_limits:
                beyond = config.gamma * meant(batch.extras["limit_value"])
                reward = reward + jnp.where(batch.truncated[..., None], beyond, 0.0)
            reward, discount, by_time = time_first(reward), time_first(discount), time_first(value)
            advantage = time_first(gae(reward, discount, by_time, bootstrap, config.gae_lambda))
            returns = advantage + value
            if config.normalise_values:
                seen = moments.update(learner.target, returns, batch.agent_mask, batch.task_id)
                learner, returns = (
                    learner._replace(target=seen),
                    moments.normalise(returns, seen, batch.task_id),
                )
            weight = jnp.full(batch.task_id.shape, entropy_weight(jnp.maximum(learner.step - alone, 0)))
            extras = {**batch.extras, "advantage": advantage, "returns": returns, "entropy_weight": weight}
            return step(learner, batch._replace(extras=extras), key)

        return update

    txs: dict[str, optax.GradientTransformation] = {"ppo": tx}
    if alone:
        rest = optax.set_to_zero()
        txs["critic"] = route({"critic": (tx, model.critic)}, rest)
    share = config.critic_warmup / updates
    phases = {"critic": ("critic", share), "ppo": ("train", 1.0 - share)}
    make = lambda name: on_rollouts(
        minibatches(gradient_step(name, loss, txs[name]), config.epochs, config.minibatches)
    )
    return Training(
        txs,
        tuple(
            Phase(label, part, make(name), source) for name, (label, part) in phases.items() if name in txs
        ),
        moments.start(tasks) if config.normalise_values else (),
    )


def _per_row(x: Array, valid: Array, batch: Batch, tasks: int) -> Array:
    """Returns the mean over valid entries of each row's task, which broadcasts against x [B, T, N]."""
    if tasks == 1:
        return masked.mean(x, valid)
    return masked.per_task(x, valid, batch.task_id, tasks)[batch.task_id][:, None, None]


def make(config: Config, tasks: int, updates: int, model: Model, **options: Any) -> Algorithm:
    """Returns PPO as an algorithm; `options` as for `training`."""
    trained = training(config, tasks, updates, model, **options)

    def init(key, batch: Batch):
        learner = init_learner(model.init(key, batch), trained.txs, target=False)
        return learner._replace(target=trained.target)

    return Algorithm(init, trained.phases, model.act, model.init_carry, model.critic)
