"""HiSSD: common and task-specific skills from offline multi-task data (Liu et al. 2025).

A planner infers common skills, from which a predictor must predict the team's next state, with more weight on better
transitions. A task encoder infers a task skill by contrast with other tasks. A controller acts on observation and both
skills. All parts are trained at once:

    V:          the tau-expectile of r + gamma V_tot^-, mixed from the values of the agents (IQL)
    planner:    min(exp(alpha u), 100) |predicted - next state|^2, u the TD error of V on that transition
    controller: -log pi(a | observation, common skills, task skill) + beta InfoNCE of the task skills

Departures: docs/departures.md.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from mtmarl.algos.base import (
    Algorithm,
    Phase,
    Spec,
    adamw,
    drop_unused_actions,
    gradient_step,
    init_learner,
    route,
)
from mtmarl.algos.bc_t import cloning
from mtmarl.networks import entities, hissd
from mtmarl.ops import contrastive, masked, td
from mtmarl.ops.offline import clipped_exponential, expectile_loss
from mtmarl.ops.vectors import unit
from mtmarl.ranges import Count, NotNegative, Positive, Share
from mtmarl.types import Batch, Dims

VALUE_MODULES = ("value", "mixer")


@dataclass(frozen=True)
class Config:
    """`contrast`: negatives from all other tasks, from one (`half`), agreement of two agents only (`l2`), or off.

    planning, prediction, task_skill: false removes the part. Without prediction the planner learns from the controller
    only. The rest as for UPDeT.
    """

    learning_rate: Positive
    weight_decay: NotNegative
    max_grad_norm: Positive
    gamma: Share
    return_scale: Positive
    expectile: Share
    advantage_scale: Positive
    max_weight: Positive
    contrastive_weight: NotNegative
    temperature: Positive
    contrast: Literal["all", "half", "l2", "off"]
    planning: bool
    prediction: bool
    task_skill: bool
    target_period: Count
    network: entities.Config


def make(config: Config, dims: Dims, value_range: tuple[float, float]) -> Algorithm:
    split, width = entities.entities_of(dims), config.network.embed_dim
    scale = td.reward_scale(config.return_scale, value_range)
    predicts = config.planning and config.prediction
    contrasts = config.task_skill and config.contrast != "off"
    planner, task_encoder = hissd.Planner(config.network), hissd.TaskEncoder(config.network)
    controller = hissd.Controller(config.network, split)
    value, mixer = hissd.Value(config.network), entities.Mixer(width)
    similarity = hissd.Similarity(config.temperature)
    histories = ("controller", "planner") if config.planning else ("controller",)
    init_carry = entities.empty_histories(histories, width)

    group = lambda: adamw(
        config.learning_rate, config.max_grad_norm, config.weight_decay, spare=("similarity",)
    )
    # Value losses have another scale, so their gradients are clipped separately.
    tx = route({"value": (group(), VALUE_MODULES)}, group())

    def run(module, params, name, *args) -> Any:
        return module.apply({"params": params[name]}, *args)

    def predictor_for(state):
        return hissd.Predictor(state.agents.shape[-1], state.objects.shape[-1])

    def last(batch: Batch):
        return entities.last_actions(batch)

    def inputs(batch: Batch):
        return entities.agent_inputs(split, batch.observation, last(batch))

    def encode(params, tokens) -> Any:
        """Returns (task skill, embedding to contrast), None for both if removed."""
        return run(task_encoder, params, "task_encoder", tokens) if config.task_skill else (None, None)

    def step(params, history, tokens):
        """One step of task encoder, planner and controller."""
        (z, contrast), skills, after = encode(params, tokens), None, {}
        if config.planning:
            skills, after["planner"] = run(planner, params, "planner", tokens, history["planner"])
        logits, after["controller"] = run(
            controller, params, "controller", tokens, skills, z, history["controller"]
        )
        return after, (logits, skills, contrast)

    def team_value(params, batch: Batch):
        rows, _, agents = batch.action.shape
        one = lambda h, x: run(value, params, "value", x, h)[::-1]
        v = entities.unroll_agents(one, jnp.zeros((rows, agents, width)), inputs(batch), batch)
        return entities.mix(mixer, split, params, v, batch)

    def prediction_error(params, batch: Batch, skills, state):
        """Returns the squared error of the next state [B, T-1], averaged over entities and features."""
        predictor = predictor_for(state)

        def one(carry, x):
            agents, objects, carry = run(predictor, params, "predictor", *x, carry)
            return carry, (agents, objects)

        now = jax.tree.map(lambda x: x[:, :-1], (skills, batch.agent_mask))
        carry = jnp.zeros((batch.action.shape[0], state.objects.shape[-2], width))
        _, (agents, objects) = entities.unroll(one, carry, now, batch.first[:, :-1])

        def error(x, y, mask):
            each = ((x - y) ** 2).sum(-1) / max(y.shape[-1], 1)
            return (each * mask).sum(-1) / jnp.maximum(mask.sum(-1), 1)

        agent_error = error(agents, state.agents, batch.agent_mask[:, 1:])
        return agent_error + error(objects, state.objects, state.object_mask)

    def contrastive_loss(params, target, batch: Batch, contrast, key):
        """Returns (loss, accuracy of the positive) at one step of every row."""
        key_step, key_agents = jax.random.split(key)
        valid = batch.time_mask & (batch.agent_mask.sum(-1) > 1)
        t = contrastive.one_of(key_step, valid)
        rows = jnp.arange(t.size)
        one, other = contrastive.two_agents(key_agents, batch.agent_mask[rows, t])
        tokens = jax.tree.map(lambda x: x[rows, t], inputs(batch))
        _, frozen = run(task_encoder, target, "task_encoder", tokens)
        anchors, positives = contrast[rows, t][rows, one], jax.lax.stop_gradient(frozen[rows, other])
        counts = valid[rows, t]
        if config.contrast == "l2":
            loss = 2 - 2 * (unit(anchors) * unit(positives)).sum(-1)
            nearest = counts
        else:
            alike = run(similarity, params, "similarity", anchors, positives)
            tasks = batch.task_id
            negative = tasks[:, None] != tasks[None, :]
            if config.contrast == "half":
                negative &= tasks[None, :] == (tasks[:, None] - 1) % dims.tasks
            loss, counts = contrastive.info_nce(alike, negative, counts)
            rivals = jnp.where(negative & valid[rows, t][None], alike, masked.NEG_INF).max(-1)
            nearest = jnp.diagonal(alike) > rivals
        return masked.mean(loss, counts), masked.mean(nearest.astype(jnp.float32), counts)

    def loss(params, target, batch: Batch, key):
        share = lambda where: masked.task_weights(where, batch.task_id, dims.tasks)
        per_task = lambda x, where: masked.per_task(x, where, batch.task_id, dims.tasks)
        rows, _, agents = batch.action.shape
        history = init_carry(rows, agents).history
        one = lambda h, x: step(params, h, x)
        logits, skills, contrast = entities.unroll_agents(one, history, inputs(batch), batch)

        nll, metrics = cloning(logits, batch, dims)
        total = nll
        known = td.known(batch)
        if predicts:
            v = team_value(params, batch)
            error = td.target(batch, scale, config.gamma, team_value(target, batch)) - v[:, :-1]
            value_loss = (share(known) * expectile_loss(error, config.expectile)).sum()
            weight = clipped_exponential(error, config.advantage_scale, config.max_weight)
            state = hissd.next_state(split, batch.observation, batch.action)
            wrong = prediction_error(params, batch, skills, state)
            there = known & batch.time_mask[:, 1:] & ~batch.first[:, 1:]
            plan_loss = (share(there) * weight * wrong).sum()
            total += value_loss + plan_loss
            metrics |= {
                "value_loss": value_loss,
                "plan_loss": plan_loss,
                "prediction_error": per_task(wrong, there),
                "v": per_task(v / scale, batch.time_mask),
                "weight": per_task(weight, there),
            }
        if contrasts:
            contrast_loss, accuracy = contrastive_loss(params, target, batch, contrast, key)
            total += config.contrastive_weight * contrast_loss
            metrics |= {"contrast_loss": contrast_loss, "contrast_accuracy": accuracy}
        return total, {"loss": nll, **metrics}

    def init(key: jax.Array, batch: Batch):
        keys = iter(jax.random.split(key, 7))
        make_params = lambda module, *args: module.init(next(keys), *args)["params"]
        tokens, history = inputs(batch), jnp.zeros((*batch.action.shape, width))
        params, skills = {}, None
        if config.planning:
            params["planner"] = make_params(planner, tokens, history)
            skills, _ = run(planner, params, "planner", tokens, history)
        if config.task_skill:
            params["task_encoder"] = make_params(task_encoder, tokens)
            _, contrast = encode(params, tokens)
            if contrasts and config.contrast != "l2":
                flat = contrast.reshape(-1, width)
                params["similarity"] = make_params(similarity, flat, flat)
        z, _ = encode(params, tokens)
        params["controller"] = make_params(controller, tokens, skills, z, history)
        if predicts:
            state = hissd.next_state(split, batch.observation, batch.action)
            now = jax.tree.map(lambda x: x[:, :-1], (skills, batch.agent_mask))
            carry = jnp.zeros((*state.objects.shape[:-1], width))
            params["predictor"] = make_params(predictor_for(state), *now, carry)
            params["value"] = make_params(value, tokens, history)
            team = entities.team_of(split, batch)
            q = jnp.zeros(batch.action.shape)
            params["mixer"] = make_params(mixer, q, team, batch.agent_mask)
        return init_learner(params, {"hissd": tx})

    def act(params, carry, observation, key, sample_probability):
        tokens = entities.agent_inputs(split, observation, carry.last_action)
        history, (logits, *_) = step(params, carry.history, tokens)
        action = entities.choose(logits, observation, key, sample_probability)
        return entities.AgentCarry(history, action), action, {}

    phase = Phase("train", 1.0, gradient_step("hissd", loss, tx, period=config.target_period))
    return drop_unused_actions(Algorithm(init, (phase,), act, init_carry), dims)


SPEC = Spec(
    Config=Config,
    make=make,
    kind="offline",
    title="HiSSD",
    needs=("value_range",),
    learns_values=True,
    decentralised=True,
)
