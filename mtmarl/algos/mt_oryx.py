"""MT Oryx: autoregressive implicit-constraint Q-learning with Sable on many tasks.

Oryx (Formanek et al. 2025) with the three changes of the multi-task paper: task-balanced batches (made by the
source), values as HL-Gauss histograms, and masked, shuffled agents.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mtmarl.algos.base import Algorithm, Phase, Spec, adam, gradient_step, init_learner
from mtmarl.networks import sable
from mtmarl.ops import masked, td, values
from mtmarl.ops.offline import Grouping, counterfactual_baseline, icq_weights
from mtmarl.ranges import NotNegative, Positive, Several, Share
from mtmarl.types import Batch, Dims


@dataclass(frozen=True)
class Config:
    """`icq_grouping`: the tokens that share a normaliser of the weights (`ops.offline.icq_weights`).

    `hl_gauss`: values as histograms of `bins` bins; else as scalars.
    """

    learning_rate: Positive
    max_grad_norm: Positive
    gamma: Share
    tau: Share
    value_temperature: Positive
    policy_temperature: Positive
    critic_weight: NotNegative
    icq_grouping: Grouping
    hl_gauss: bool
    bins: Several
    sigma_ratio: Positive
    network: sable.Config


def make(config: Config, dims: Dims, value_range: tuple[float, float]) -> Algorithm:
    """`value_range`: range of discounted returns of the training data, with a margin; the support of values."""
    value = values.make(config.hl_gauss, *value_range, config.bins, config.sigma_ratio)
    net = sable.Sable.make(config.network, dims, q_bins=value.outputs, q_bias=value.bias)
    tx = adam(config.learning_rate, config.max_grad_norm)

    def weights(score, valid, batch: Batch, temperature):
        return icq_weights(score, valid, batch.task_id, dims.tasks, temperature, config.icq_grouping)

    def loss(params, target, batch: Batch, key):
        online, _ = net.window(params, batch.observation, batch.action, batch.first)
        frozen, _ = net.window(target, batch.observation, batch.action, batch.first)
        valid = batch.agent_mask & batch.time_mask[..., None]
        per_task = lambda x, where: masked.per_task(x, where, batch.task_id, dims.tasks)
        share = lambda where: masked.task_weights(where, batch.task_id, dims.tasks)

        # Critic: towards y = r + gamma * w' * Q_target(a'), with a' the data's own next action.
        outputs = masked.take_rows(online.q, batch.action)
        q_target = value.decode(masked.take_rows(frozen.q, batch.action))
        w_value = weights(q_target, valid, batch, config.value_temperature)
        discount = config.gamma * ~batch.terminated[:, :-1, None]
        y = batch.reward[:, :-1, None] + discount * (w_value * q_target)[:, 1:]
        y = jax.lax.stop_gradient(y)
        known = td.known(batch)[..., None] & batch.agent_mask[:, :-1]
        error = value.error(outputs[:, :-1], y)
        critic_loss = (share(known) * error).sum()

        # Policy: imitation weighted by exp(advantage), against the counterfactual baseline of the policy itself.
        log_probs = masked.log_softmax(online.logits, batch.action_mask)
        log_prob = masked.take(log_probs, batch.action)
        q_all = value.decode(online.q)
        advantage = masked.take(q_all, batch.action) - counterfactual_baseline(
            log_probs, q_all, batch.action_mask
        )
        advantage = jax.lax.stop_gradient(advantage)
        w_policy = weights(advantage, valid, batch, config.policy_temperature)
        policy_loss = -(share(valid) * w_policy * log_prob).sum()

        mean_w, mean_w2 = per_task(w_policy, valid), per_task(w_policy**2, valid)
        rows = jnp.where(valid, w_policy, 0.0).max((1, 2))
        return config.critic_weight * critic_loss + policy_loss, {
            "critic_loss": critic_loss,
            "policy_loss": policy_loss,
            "entropy": (share(valid) * masked.entropy(log_probs)).sum(),
            "q": per_task(q_target, valid),
            "log_prob": per_task(log_prob, valid),
            "target_clip_rate": per_task(value.clipped(y), known),
            "icq_max_weight": jnp.zeros(dims.tasks).at[batch.task_id].max(rows),
            "icq_effective_share": mean_w**2 / jnp.maximum(mean_w2, 1e-30),
        }

    def init(key, batch: Batch):
        return init_learner(net.init(key, batch.observation), {"oryx": tx})

    update = gradient_step("oryx", loss, tx, tau=config.tau)
    return Algorithm(init, (Phase("train", 1.0, update),), sable.policy_act(net), net.init_carry)


SPEC = Spec(
    Config=Config,
    make=make,
    kind="offline",
    title="MT Oryx",
    needs=("value_range",),
    learns_values=True,
    shuffles_slots=True,
)
