"""ODIS: offline discovery of coordination skills from many tasks (Zhang et al. 2023).

Phase 1: a variational auto-encoder infers from the state which of K skills each agent uses; a decoder predicts the
agent's action from its observation and the skill. Phase 2: a monotone value network learns which skill each agent
should use, under a conservative penalty. Modules of phase 1 stay frozen.

Departures: docs/departures.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from mtmarl.algos.base import (
    Algorithm,
    Phase,
    Spec,
    adam,
    drop_unused_actions,
    freeze,
    gradient_step,
    init_learner,
)
from mtmarl.algos.bc_t import cloning
from mtmarl.networks import entities, odis
from mtmarl.ops import masked, skills, td
from mtmarl.ranges import Count, NotNegative, Positive, Share, Width
from mtmarl.types import Act, Batch, Carry, Dims


@dataclass(frozen=True)
class Config:
    """`skills`: K. `skill_fraction`: share of updates of phase 1.

    gumbel: the decoder learns from sampled skills, else from their distribution. `skill_weight`: weight of the loss
    that predicts the skill of the state encoder from the agent's observation. The rest as for UPDeT.
    """

    learning_rate: Positive
    max_grad_norm: Positive
    gamma: Share
    return_scale: Positive
    skills: Width
    skill_fraction: Share
    kl_weight: NotNegative
    gumbel: bool
    conservative_weight: NotNegative
    conservative_temperature: NotNegative
    skill_weight: NotNegative
    target_period: Count
    network: entities.Config


class Model(NamedTuple):
    """The parts that ODIS and its successors share.

    init(key, batch) -> parameters. discover: the loss of the first phase. choose(params, target, batch,
    conservative_weight, rows) -> (loss, metrics) of the second, whose conservative penalty is taken of those rows [B];
    refine(params, batch) -> (loss, metrics) of the decoder under the skills that the state names. play(params, carry,
    obs) -> (histories, logits of actions).
    """

    init: Callable
    discover: Callable
    choose: Callable
    refine: Callable
    play: Callable
    init_carry: Callable[[int, int], Carry]


def make_model(
    config: Config,
    dims: Dims,
    value_range: tuple[float, float],
    encoder: Any,
    consistency: Literal["label", "kl"] = "label",
) -> Model:
    """`encoder`: of states, a module as `odis.StateEncoder`; consistency: see `Config` of HyGen."""
    split = entities.entities_of(dims)
    net = odis.Odis(config.network, split, config.skills, encoder)
    mixer = entities.Mixer(config.network.embed_dim)
    mix = partial(entities.mix, mixer, split)
    scale = td.reward_scale(config.return_scale, value_range)
    init_carry = entities.empty_histories(("observer", "decoder"), config.network.embed_dim)

    def apply(params, method, *args) -> Any:
        return net.apply({"params": {k: v for k, v in params.items() if k != "mixer"}}, *args, method=method)

    def last(batch: Batch):
        return entities.last_actions(batch)

    def inputs(batch: Batch):
        return entities.agent_inputs(split, batch.observation, last(batch))

    def label(params, batch: Batch):
        team = entities.team_inputs(split, batch.observation, last(batch), batch.action)
        return apply(params, "label", team, batch.agent_mask)

    def histories(batch: Batch):
        rows, _, agents = batch.action.shape
        return init_carry(rows, agents).history

    def decode(params, batch: Batch, skill):
        def step(history, x):
            logits, history = apply(params, "act", *x, history)
            return history, logits

        return entities.unroll_agents(step, histories(batch)["decoder"], (inputs(batch), skill), batch)

    def values(params, batch: Batch):
        def step(history, tokens):
            q, recognised, history = apply(params, "value", tokens, history)
            return history, (q, recognised)

        return entities.unroll_agents(step, histories(batch)["observer"], inputs(batch), batch)

    def discover(params, target, batch: Batch, key):
        logits = label(params, batch)
        noise = skills.slot_noise(key, batch.agent_mask, config.skills) * config.gumbel
        nll, metrics = cloning(decode(params, batch, skills.soft_sample(logits, noise)), batch, dims)
        valid = batch.agent_mask & batch.time_mask[..., None]
        share = masked.task_weights(valid, batch.task_id, dims.tasks)
        kl = (share * skills.kl_to_uniform(logits)).sum()
        usage = (share[..., None] * jax.nn.one_hot(logits.argmax(-1), config.skills)).sum((0, 1, 2))
        spread = -(usage * jnp.log(jnp.maximum(usage, 1e-9))).sum()
        return nll + config.kl_weight * kl, {"loss": nll, "kl": kl, "skill_entropy": spread, **metrics}

    def differ(recognised, logits):
        """Returns the distance between the skills of agent and state encoder [B, T, N]."""
        recognised = jax.nn.log_softmax(recognised)
        if consistency == "label":
            return -masked.take(recognised, logits.argmax(-1))
        return (jnp.exp(recognised) * (recognised - jax.nn.log_softmax(logits))).sum(-1)

    def choose(params, target, batch: Batch, conservative_weight, rows):
        logits = jax.lax.stop_gradient(label(params, batch))
        named = logits.argmax(-1)
        q, recognised = values(params, batch)
        q_target, _ = values(target, batch)
        best = q.argmax(-1)
        total = mix(params, masked.take(q, named), batch)
        y = td.target(batch, scale, config.gamma, mix(target, masked.take(q_target, best), batch))
        gap = td.conservative_gap(
            partial(mix, batch=batch), params, q, jnp.ones(q.shape, bool), named,
            config.conservative_temperature,
        )  # fmt: skip
        share = lambda where: masked.task_weights(where, batch.task_id, dims.tasks)
        td_loss = (share(td.known(batch)) * (total[:, :-1] - y) ** 2).sum()
        gap_loss = (share(batch.time_mask & rows[:, None]) * gap).sum()
        valid = batch.agent_mask & batch.time_mask[..., None]
        skill_loss = (share(valid) * differ(recognised, logits)).sum()
        loss = td_loss + conservative_weight * gap_loss + config.skill_weight * skill_loss
        per_task = lambda x, where: masked.per_task(x, where, batch.task_id, dims.tasks)
        return loss, {
            "td_loss": td_loss,
            "gap_loss": gap_loss,
            "skill_loss": skill_loss,
            "q": per_task(total / scale, batch.time_mask),
            "choice_accuracy": per_task(best == named, valid),
            "skill_accuracy": per_task(recognised.argmax(-1) == named, valid),
        }

    def refine(params, batch: Batch):
        named = jax.nn.one_hot(label(params, batch).argmax(-1), config.skills)
        return cloning(decode(params, batch, named), batch, dims)

    def init(key: jax.Array, batch: Batch):
        key_net, key_mixer = jax.random.split(key)
        observation, agents = batch.observation, batch.agent_mask
        state = entities.team_of(split, batch)
        team = entities.team_inputs(split, observation, last(batch), batch.action)
        history = jnp.zeros((*batch.action.shape, config.network.embed_dim))
        return {
            **net.init(key_net, team, inputs(batch), agents, history)["params"],
            "mixer": mixer.init(key_mixer, jnp.zeros(batch.action.shape), state, agents)["params"],
        }

    def play(params, carry, observation):
        """Each agent uses the skill with the highest value."""
        tokens = entities.agent_inputs(split, observation, carry.last_action)
        q, _, observer = apply(params, "value", tokens, carry.history["observer"])
        skill = jax.nn.one_hot(q.argmax(-1), config.skills)
        logits, decoder = apply(params, "act", tokens, skill, carry.history["decoder"])
        return {"observer": observer, "decoder": decoder}, logits

    return Model(init, discover, choose, refine, play, init_carry)


def two_phases(
    config: Config,
    model: Model,
    dims: Dims,
    policy_loss: Callable,
    act: Act,
    frozen: Sequence[str] = odis.SKILL_MODULES,
    source: str = "default",
) -> Algorithm:
    """Returns two phases: `model.discover`, then `policy_loss` on batches of `source` with frozen modules."""
    adam_skills = adam(config.learning_rate, config.max_grad_norm)
    adam_policy = freeze(adam(config.learning_rate, config.max_grad_norm), frozen)

    def init(key: jax.Array, batch: Batch):
        return init_learner(model.init(key, batch), {"skills": adam_skills, "policy": adam_policy})

    discover = gradient_step("skills", model.discover, adam_skills)
    choose = gradient_step("policy", policy_loss, adam_policy, period=config.target_period)
    phases = (
        Phase("skills", config.skill_fraction, discover),
        Phase("policy", 1 - config.skill_fraction, choose, source),
    )
    return drop_unused_actions(Algorithm(init, phases, act, model.init_carry), dims)


def make(config: Config, dims: Dims, value_range: tuple[float, float]) -> Algorithm:
    model = make_model(config, dims, value_range, odis.StateEncoder(config.network.embed_dim))

    def loss(params, target, batch: Batch, key):
        everywhere = jnp.ones(batch.task_id.shape, bool)
        return model.choose(params, target, batch, config.conservative_weight, everywhere)

    def act(params, carry, observation, key, sample_probability):
        """The action is sampled from the decoder with probability `sample_probability`, else greedy."""
        history, logits = model.play(params, carry, observation)
        action = entities.choose(logits, observation, key, sample_probability)
        return entities.AgentCarry(history, action), action, {}

    return two_phases(config, model, dims, loss, act)


SPEC = Spec(
    Config=Config,
    make=make,
    kind="offline",
    title="ODIS",
    needs=("value_range",),
    learns_values=True,
    decentralised=True,
)
