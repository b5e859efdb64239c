"""MT CQL-Sable: autoregressive conservative Q-learning (Kumar et al. 2020) on the Sable network, many tasks at once.

The multi-task paper does not state its target. There are two readings. `double_q`: double Q-learning per agent, given
the recorded actions of the agents before it. `q_transformer`: the target of an agent is the best value of the next
agent in the same step (Chebotar et al. 2023).
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from mtmarl import acting
from mtmarl.algos.base import Algorithm, Phase, Spec, adam, gradient_step, init_learner
from mtmarl.networks import sable
from mtmarl.ops import masked, td, values
from mtmarl.ranges import NotNegative, Positive, Several, Share
from mtmarl.types import Batch, Dims


@dataclass(frozen=True)
class Config:
    """`acting_temperature`: temperature of the softmax over Q that is sampled when acting; 0: always greedy.

    `hl_gauss`: values as histograms of `bins` bins; else as scalars.
    """

    learning_rate: Positive
    max_grad_norm: Positive
    gamma: Share
    tau: Share
    conservative_weight: NotNegative
    next_value: Literal["double_q", "q_transformer"]
    acting_temperature: NotNegative
    hl_gauss: bool
    bins: Several
    sigma_ratio: Positive
    network: sable.Config


def following_slots(agent_mask: Bool[Array, "*b N"]) -> tuple[Int[Array, "*b N"], Int[Array, "*b"]]:
    """The next active slot after each slot (N where there is none), and the first active slot."""
    agents = agent_mask.shape[-1]
    slots = jnp.where(agent_mask, jnp.arange(agents), agents)
    nearest = jax.lax.cummin(slots, axis=slots.ndim - 1, reverse=True)
    after = jnp.concatenate([nearest[..., 1:], jnp.full_like(nearest[..., :1], agents)], axis=-1)
    return after, jnp.minimum(nearest[..., 0], agents - 1)


def make(config: Config, dims: Dims, value_range: tuple[float, float]) -> Algorithm:
    """`value_range` as for MT Oryx; the support reaches one range lower, so that values of unseen actions can fall."""
    low, high = value_range
    lowest = low - (high - low)
    value = values.make(config.hl_gauss, lowest, high, config.bins, config.sigma_ratio)
    net = sable.Sable.make(config.network, dims, q_bins=value.outputs, q_bias=value.bias, policy=False)
    tx = adam(config.learning_rate, config.max_grad_norm)

    def loss(params, target, batch: Batch, key):
        online, _ = net.window(params, batch.observation, batch.action, batch.first)
        frozen, _ = net.window(target, batch.observation, batch.action, batch.first)
        valid = batch.agent_mask & batch.time_mask[..., None]
        share = lambda where: masked.task_weights(where, batch.task_id, dims.tasks)
        per_task = lambda x, where: masked.per_task(x, where, batch.task_id, dims.tasks)
        legal = lambda q: jnp.where(batch.action_mask, q, masked.NEG_INF)
        q, q_target = value.decode(online.q), value.decode(frozen.q)
        q_data = masked.take(q, batch.action)

        discount = config.gamma * ~batch.terminated[:, :-1, None]
        reward = batch.reward[:, :-1, None]
        known = td.known(batch)[..., None] & batch.agent_mask[:, :-1]
        if config.next_value == "double_q":
            y = reward + discount * masked.take(q_target, legal(q).argmax(-1))[:, 1:]
        else:
            best = legal(q_target).max(-1)
            after, first = following_slots(batch.agent_mask)
            last = after == batch.action.shape[-1]
            in_step = jnp.take_along_axis(best, jnp.minimum(after, batch.action.shape[-1] - 1), axis=-1)[
                :, :-1
            ]
            across = reward + discount * jnp.take_along_axis(best, first[..., None], axis=-1)[:, 1:]
            y = jnp.where(last[:, :-1], across, in_step)
            # Within a step the next agent is always in the window.
            known = valid[:, :-1] & (known | ~last[:, :-1])
        y = jax.lax.stop_gradient(y)
        outputs = masked.take_rows(online.q, batch.action)
        td_loss = (share(known) * value.error(outputs[:, :-1], y)).sum()
        gap = jax.nn.logsumexp(legal(q), axis=-1) - q_data
        gap_loss = (share(valid) * gap).sum()
        return td_loss + config.conservative_weight * gap_loss, {
            "td_loss": td_loss,
            "gap_loss": gap_loss,
            "q": per_task(q_data, valid),
            "gap": per_task(gap, valid),
            "target_clip_rate": per_task(value.clipped(y), known),
        }

    def choose(logits, q, legal, key, sample_probability):
        utility = jnp.where(legal, value.decode(q), masked.NEG_INF)
        if config.acting_temperature == 0:
            return utility.argmax(-1).astype(jnp.int32)
        return sable.sample_policy(utility / config.acting_temperature, None, legal, key, sample_probability)

    def init(key: jax.Array, batch: Batch):
        return init_learner(net.init(key, batch.observation), {"cql": tx})

    phase = Phase("train", 1.0, gradient_step("cql", loss, tx, tau=config.tau))
    return Algorithm(init, (phase,), sable.policy_act(net, choose), net.init_carry)


SPEC = Spec(
    Config=Config,
    make=make,
    kind="offline",
    title="MT CQL-Sable",
    needs=("value_range",),
    learns_values=True,
    acting=acting.by_values,
    shuffles_slots=True,
)
