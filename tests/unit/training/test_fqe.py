"""Fitted Q evaluation on a task whose returns are known, from random play."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.training import fqe
from mtmarl.types import Batch

STATES, HORIZON, AGENTS, ROWS = 3, 4, 2, 300


def follow(state, action):
    """(next state, reward): agents are paid for the parity of the state, and the first one moves the team."""
    return (state + action[..., 0]) % STATES, (action == state[..., None] % 2).mean(-1)


def recorded(seed=0):
    """Whole episodes of random play, first states at random; rows of two tasks, the second pays twice."""
    rng = np.random.default_rng(seed)
    state, columns = rng.integers(0, STATES, ROWS), []
    task_id = np.repeat([0, 1], ROWS // 2)
    for t in range(HORIZON):
        action = rng.integers(0, 2, (ROWS, AGENTS))
        after, reward = follow(state, action)
        columns.append(
            (state, action, reward * (1 + task_id), np.full(ROWS, t == 0), np.full(ROWS, t == HORIZON - 1))
        )
        state = after
    state, action, reward, first, last = (np.stack(c, 1) for c in zip(*columns, strict=True))
    obs = np.broadcast_to(np.eye(STATES)[state][:, :, None], (ROWS, HORIZON, AGENTS, STATES))
    yes = jnp.ones((ROWS, HORIZON, AGENTS), bool)
    return Batch(
        obs=jnp.asarray(obs, jnp.float32), action_mask=jnp.ones((ROWS, HORIZON, AGENTS, 2), bool),
        action=jnp.asarray(action), agent_mask=yes, reward=jnp.asarray(reward, jnp.float32), first=jnp.asarray(first),
        terminated=jnp.zeros_like(last), truncated=jnp.asarray(last), time_mask=yes[..., 0],
        task_id=jnp.asarray(task_id),
        return_to_go=jnp.asarray(np.cumsum(reward[:, ::-1], 1)[:, ::-1], jnp.float32),
    )  # fmt: skip


def good(params, carry, observation, key, sample_probability):
    """What pays in each state."""
    return carry, observation.obs.argmax(-1) % 2, {}


def bad(params, carry, observation, key, sample_probability):
    return carry, 1 - observation.obs.argmax(-1) % 2, {}


def idle(params, carry, observation, key, sample_probability):
    return carry, jnp.zeros(observation.obs.shape[:-1], int), {}


def estimates(act, batch):
    chosen = fqe.chosen_actions(act, lambda rows, agents: (), (), batch, jax.random.key(0), 2, 0.0)
    count = np.broadcast_to(np.arange(HORIZON), (ROWS, HORIZON))
    data = fqe.transitions(batch, chosen, count, np.full(ROWS, HORIZON))
    settings = fqe.Settings(updates=600, batch_size=128, members=3, width=32)
    return fqe.estimate(data, 2, 2, jax.random.key(1), settings)


# A team that always does 0 is paid in states 0 and 2 and never leaves its state.
@pytest.mark.parametrize(("act", "truth"), [(good, 4.0), (bad, 0.0), (idle, 8 / 3)])
def test_estimates_are_near_the_truth(act, truth):
    for task, found in enumerate(estimates(act, recorded())):
        assert found.mean == pytest.approx(truth * (1 + task), abs=0.35 * (1 + task))
        assert found.low <= found.mean <= found.high
        assert found.recorded == pytest.approx(2.0 * (1 + task), abs=0.25)


def test_steps_after_the_end_and_cut_ends_are_left_out():
    batch = recorded()
    count = np.broadcast_to(np.arange(HORIZON), (ROWS, HORIZON))
    chosen = jnp.zeros((ROWS, HORIZON, 1, AGENTS), int)
    early = batch._replace(
        terminated=batch.terminated.at[0, 1].set(True), truncated=batch.truncated.at[1, 2].set(True)
    )
    data = fqe.transitions(early, chosen, count, np.full(ROWS, HORIZON))
    steps = np.bincount(np.asarray(data.episode))
    assert (steps[0], steps[1], steps[2]) == (2, 2, HORIZON)
    ends = np.asarray(~data.goes_on).nonzero()[0]
    assert list(ends[:3]) == [1, 3, 7], "the last recorded step of an episode has no successor"


def test_an_episode_of_which_nothing_is_left_counts_for_no_task():
    batch = recorded()
    cut = batch._replace(truncated=batch.truncated.at[ROWS - 2, 0].set(True))  # of the second task
    count = np.broadcast_to(np.arange(HORIZON), (ROWS, HORIZON))
    chosen = jnp.zeros((ROWS, HORIZON, 1, AGENTS), int)
    settings = fqe.Settings(updates=1, batch_size=8, members=1, width=8)
    one, other = (
        fqe.estimate(
            fqe.transitions(b, chosen, count, np.full(ROWS, HORIZON)), 2, 2, jax.random.key(0), settings
        )
        for b in (batch, cut)
    )
    returns = np.asarray(batch.reward).sum(1)[ROWS // 2 :]
    assert other[0].recorded == one[0].recorded
    assert other[1].recorded == pytest.approx(np.delete(returns, -2).mean())
