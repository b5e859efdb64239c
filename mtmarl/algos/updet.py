"""UPDeT, offline and for many tasks: the entity transformer as a value network with a conservative penalty.

This is the baseline of ODIS (Zhang et al. 2023), not the online algorithm of the UPDeT paper (Hu et al. 2021). UPDeT-m
mixes the values of agents with attention over the state, UPDeT-l adds them up. Departures: docs/departures.md.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from mtmarl import acting
from mtmarl.algos.base import (
    Algorithm,
    Phase,
    Spec,
    adam,
    drop_unused_actions,
    gradient_step,
    init_learner,
)
from mtmarl.algos.bc_t import accuracy
from mtmarl.networks import entities
from mtmarl.ops import masked, td
from mtmarl.ranges import Count, NotNegative, Positive, Share
from mtmarl.types import Batch, Dims


@dataclass(frozen=True)
class Config:
    """`return_scale`: rewards are scaled so that the range of values ends here, slightly above the largest return (20
    in SMAC, for which `conservative_weight` was chosen). conservative_temperature: of the soft maximum; 0:
    maximum, as released (`td.conservative_gap`). `target_period`: updates between copies of the target network.
    """

    learning_rate: Positive
    max_grad_norm: Positive
    gamma: Share
    return_scale: Positive
    conservative_weight: NotNegative
    conservative_temperature: NotNegative
    target_period: Count
    mixer: Literal["attention", "vdn"]
    network: entities.Config


def make(config: Config, dims: Dims, value_range: tuple[float, float]) -> Algorithm:
    """L = (Q_tot(a) - y)^2 + w (Q_tot(best a) - Q_tot(a)), y = r + gamma Q_tot^-(best next a by the online network)."""
    net = entities.Agent.make(config.network, dims)
    split = entities.entities_of(dims)
    mixer = entities.Mixer(config.network.embed_dim) if config.mixer == "attention" else entities.Vdn()
    scale = td.reward_scale(config.return_scale, value_range)
    mix = partial(entities.mix, mixer, split)
    tx = adam(config.learning_rate, config.max_grad_norm)

    def loss(params, target, batch: Batch, key):
        online, frozen = net.window(params["agent"], batch), net.window(target["agent"], batch)
        best = td.best_legal(online, batch.action_mask)
        total = mix(params, masked.take(online, batch.action), batch)
        y = td.target(batch, scale, config.gamma, mix(target, masked.take(frozen, best), batch))
        share = lambda where: masked.task_weights(where, batch.task_id, dims.tasks)
        known = td.known(batch)
        td_loss = (share(known) * (total[:, :-1] - y) ** 2).sum()
        gap = td.conservative_gap(
            partial(mix, batch=batch), params, online, batch.action_mask, batch.action,
            config.conservative_temperature,
        )  # fmt: skip
        gap_loss = (share(batch.time_mask) * gap).sum()
        per_task = lambda x: masked.per_task(x, batch.time_mask, batch.task_id, dims.tasks)
        return td_loss + config.conservative_weight * gap_loss, {
            "td_loss": td_loss,
            "gap_loss": gap_loss,
            "q": per_task(total / scale),
            "gap": per_task(gap / scale),
            "accuracy": accuracy(best, batch, dims),
        }

    def init(key: jax.Array, batch: Batch):
        key_agent, key_mixer = jax.random.split(key)
        q = jnp.zeros(batch.action.shape)
        variables = mixer.init(key_mixer, q, entities.team_of(split, batch), batch.agent_mask)
        params = {"agent": net.init(key_agent, batch), "mixer": variables.get("params", {})}
        return init_learner(params, {"updet": tx})

    def act(params, carry, observation, key, sample_probability):
        """Always greedy: there is no policy to sample from."""
        history, q = net.act(params["agent"], carry, observation)
        action = entities.choose(q, observation, key, 0.0)
        return entities.AgentCarry(history, action), action, {}

    phase = Phase("train", 1.0, gradient_step("updet", loss, tx, period=config.target_period))
    return drop_unused_actions(Algorithm(init, (phase,), act, net.init_carry), dims)


SPEC = Spec(
    Config=Config,
    make=make,
    kind="offline",
    title="UPDeT-m",
    needs=("value_range",),
    learns_values=True,
    acting=acting.greedily,
    decentralised=True,
)
# With `mixer: vdn`.
SPEC_L = replace(SPEC, title="UPDeT-l")
