"""Fitted Q evaluation: what a policy would return, estimated from recorded episodes alone (Le et al. 2019).

Q of the policy is learned from recorded transitions, with the policy's own actions in the next state as the target. Its
mean over the first states of a task's episodes estimates the return. Returns are undiscounted and end with the episode
or its time limit. Intervals come from an ensemble, of which each member learns from episodes with weights of its own
(a Poisson bootstrap).

Estimates are not returns: they lean on the recorded actions, and are poor where a policy acts unlike any recorded one.
A policy's carry follows the actions that it would have taken, not the recorded ones.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from mtmarl.networks.team_value import TeamValue
from mtmarl.random_streams import Stream, branch
from mtmarl.training.rollout import where_rows
from mtmarl.types import Act, Batch, Params


@dataclass(frozen=True)
class Settings:
    """members: of the ensemble. draws: actions of the policy per recorded state. tau: Polyak step of the target.
    warm_up: the share of updates that learn recorded returns first, from which the policy's are nearer than from 0.
    """

    updates: int = 4000
    batch_size: int = 256
    members: int = 5
    draws: int = 2
    width: int = 64
    learning_rate: float = 1e-3
    tau: float = 0.05
    warm_up: float = 0.25


class Transitions(NamedTuple):
    """S recorded steps, task after task. M: draws of the policy's action.

    `chosen`: what the policy does in the state. `to_go`: what was received from the step on. `goes_on`: the next step
    is the next state of the episode. `passed`: the share of the horizon before the step.
    """

    obs: Float[Array, "S N O"]
    agent_mask: Bool[Array, "S N"]
    action: Int[Array, "S N"]
    chosen: Int[Array, "S M N"]
    reward: Float[Array, "S"]
    to_go: Float[Array, "S"]
    goes_on: Bool[Array, "S"]
    passed: Float[Array, "S"]
    task_id: Int[Array, "S"]
    episode: Int[Array, "S"]
    first: Bool[Array, "S"]


class Estimate(NamedTuple):
    """The return of a policy on one task: mean and 95% bootstrap interval; `recorded`: the mean of the data."""

    mean: float
    low: float
    high: float
    recorded: float


def chosen_actions(
    act: Act,
    init_carry: Callable[[int, int], Any],
    params: Params,
    batch: Batch,
    key: jax.Array,
    draws: int,
    sample_probability: float,
) -> Int[Array, "B T M N"]:
    """What a policy would do at every step of recorded episodes, `draws` times."""
    rows, steps, agents = batch.action.shape
    fresh = init_carry(rows, agents)
    got = jnp.concatenate([jnp.zeros((rows, 1)), batch.reward[:, :-1]], axis=1)

    def step(carry, x):
        t, k = x
        now = jax.tree.map(lambda leaf: leaf[:, t], batch.observation)
        observation = now._replace(reward=jnp.where(batch.first[:, t], 0.0, got[:, t]))
        carry = where_rows(batch.first[:, t], fresh, carry)
        run = lambda key: act(params, carry, observation, key, sample_probability)[:2]
        after, actions = jax.vmap(run)(jax.random.split(k, draws))
        return jax.tree.map(lambda leaf: leaf[0], after), jnp.moveaxis(actions, 0, 1)

    keys = jax.random.split(key, steps)
    _, chosen = jax.lax.scan(step, fresh, (jnp.arange(steps), keys))
    return jnp.moveaxis(chosen, 0, 1)


def transitions(
    batch: Batch, chosen: Int[Array, "B T M N"], step_count: np.ndarray, horizon: np.ndarray
) -> Transitions:
    """The steps of whole episodes [B, T], one a row and in the order of tasks, up to the end of each.

    `step_count` [B, T]: env steps before; `horizon` [B]: of the row's task. A step whose successor is not recorded
    before the time limit is left out.
    """
    b = jax.device_get(batch)
    ended = b.terminated | b.truncated
    over = np.cumsum(ended, axis=1) - ended > 0
    cut = b.truncated & (step_count + 1 < horizon[:, None])
    keep = b.time_mask & ~over & ~cut
    rows = np.broadcast_to(np.arange(keep.shape[0])[:, None], keep.shape)
    last = np.append(np.diff(rows[keep]) > 0, True)  # of each row: nothing of the episode follows
    return Transitions(
        obs=jnp.asarray(b.obs[keep]),
        agent_mask=jnp.asarray(b.agent_mask[keep]),
        action=jnp.asarray(b.action[keep]),
        chosen=jnp.asarray(jax.device_get(chosen)[keep]),
        reward=jnp.asarray(b.reward[keep]),
        to_go=jnp.asarray(b.return_to_go[keep]),
        goes_on=jnp.asarray(~ended[keep] & ~last),
        passed=jnp.asarray((step_count / horizon[:, None])[keep], jnp.float32),
        task_id=jnp.asarray(np.broadcast_to(b.task_id[:, None], keep.shape)[keep]),
        episode=jnp.asarray(rows[keep]),
        first=jnp.asarray(b.first[keep]),
    )


def estimate(
    data: Transitions,
    tasks: int,
    actions: int,
    key: jax.Array,
    settings: Settings | None = None,
    log: Callable[[int, float], None] | None = None,
    chunk: int = 250,
) -> list[Estimate]:
    """The return of the policy of `data.chosen` on each task. `log(update, loss)` is called after each chunk."""
    s = settings or Settings()
    counts = np.bincount(np.asarray(data.task_id), minlength=tasks)
    offsets = jnp.asarray(np.cumsum(counts) - counts)
    lengths = jnp.asarray(counts)
    episodes = int(data.episode.max()) + 1
    returns = np.bincount(np.asarray(data.episode), np.asarray(data.reward), episodes)
    unit = float(max(np.abs(returns).max(), 1e-6))
    net = TeamValue(s.width, actions, tasks)
    tx = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(s.learning_rate))
    weights = jax.random.poisson(branch(key, Stream.BOOTSTRAP), 1.0, (s.members, episodes)).astype(
        jnp.float32
    )

    def q(params, at, action) -> Any:
        return net.apply(params, data.obs[at], action, data.agent_mask[at], data.passed[at], data.task_id[at])

    def of_policy(params, at):
        """The value of states, as the mean over the actions that the policy draws."""
        return jnp.stack([q(params, at, data.chosen[at, m]) for m in range(data.chosen.shape[1])]).mean(0)

    def loss(params, target, at, weight, warm):
        goes_on = data.goes_on[at]
        following = of_policy(target, jnp.where(goes_on, at + 1, at))
        y = data.reward[at] / unit + jnp.where(goes_on, following, 0.0)
        y = jnp.where(warm, data.to_go[at] / unit, y)
        error = (q(params, at, data.action[at]) - jax.lax.stop_gradient(y)) ** 2
        return (weight * error).sum() / jnp.maximum(weight.sum(), 1.0)

    def update(state, x):
        (params, target, opt), (update_key, warm) = state, x
        task = jnp.arange(s.batch_size) % tasks
        at = offsets[task] + jax.random.randint(update_key, task.shape, 0, lengths[task])

        def one(params, target, opt, weight):
            value, grads = jax.value_and_grad(loss)(params, target, at, weight, warm)
            step, opt = tx.update(grads, opt, params)
            params = optax.apply_updates(params, step)
            return params, optax.incremental_update(params, target, s.tau), opt, value

        params, target, opt, value = jax.vmap(one)(params, target, opt, weights[:, data.episode[at]])
        return (params, target, opt), value.mean()

    @partial(jax.jit, donate_argnums=0)
    def run(state, keys, warm):
        state, losses = jax.lax.scan(update, state, (keys, warm))
        return state, losses.mean()

    some = jnp.zeros(1, jnp.int32)
    member_keys = jax.random.split(branch(key, Stream.PARAMETERS), s.members)
    params = jax.vmap(
        lambda k: net.init(
            k, data.obs[some], data.action[some], data.agent_mask[some], data.passed[some], data.task_id[some]
        )
    )(member_keys)
    state = (params, jax.tree.map(jnp.copy, params), jax.vmap(tx.init)(params))
    keys = jax.random.split(branch(key, Stream.UPDATE), s.updates)
    warm = jnp.arange(s.updates) < s.warm_up * s.updates
    for done in range(0, s.updates, chunk):
        now = slice(done, done + chunk)
        state, value = run(state, keys[now], warm[now])
        if log is not None:
            log(min(done + chunk, s.updates), float(value))

    begins = jnp.asarray(np.flatnonzero(np.asarray(data.first)))
    values = np.asarray(jax.jit(jax.vmap(of_policy, (0, None)))(state[0], begins)) * unit
    weight = np.asarray(weights[:, data.episode[begins]])
    task_of = np.asarray(data.task_id[begins])
    recorded = returns[np.asarray(data.episode[begins])]
    return [
        _estimate(values[:, task_of == k], weight[:, task_of == k], recorded[task_of == k])
        for k in range(tasks)
    ]


def _estimate(values: np.ndarray, weights: np.ndarray, returns: np.ndarray) -> Estimate:
    means = (values * weights).sum(1) / np.maximum(weights.sum(1), 1e-9)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(means.mean()), float(low), float(high), float(returns.mean()))
