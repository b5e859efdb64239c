"""The causal transformer: what it looks at, and that windows and single steps are one function."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.networks import causal
from mtmarl.networks.entities import AgentCarry
from mtmarl.training.rollout import where_rows
from mtmarl.types import Observation
from tests.batches import ACTIONS, ROWS, STEPS, make_batch, pad

CONFIG = causal.Config(8, 2, 2, 3)
AGENTS = 3


def agent_of(config=CONFIG, tell_actions=True, target_return=2.0):
    return causal.Agent(causal.Policy(config, ACTIONS, tell_actions), target_return)


@pytest.fixture(scope="module")
def case():
    agent, batch = agent_of(), make_batch(AGENTS)
    params = agent.init(jax.random.key(0), batch)
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    return agent, params, batch


def step_of(batch, t):
    return Observation(*jax.tree.map(lambda x: x[:, t], batch.observation[:3]))


def test_what_a_step_looks_at():
    """Two cached steps, the older of which never was; an episode begins at the third step; context 3."""
    first = jnp.asarray([[False, False, True, False]])
    there = jnp.asarray([[[False, True]]])
    np.testing.assert_array_equal(
        causal.visible(first, there, 3)[0, 0],
        np.asarray([[0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1]], bool),
    )


def test_the_future_changes_nothing(case):
    agent, params, batch = case
    out = agent.window(params, batch)
    for t in range(1, STEPS):
        later = batch._replace(obs=batch.obs.at[:, t].add(1.0), action=batch.action.at[:, t].set(0))
        again = agent.window(params, later)
        np.testing.assert_array_equal(again[:, :t], out[:, :t])
        assert (again[:, t] != out[:, t]).any()


def test_other_agents_and_rows_change_nothing(case):
    agent, params, batch = case
    out = agent.window(params, batch)
    other = batch._replace(obs=batch.obs.at[:, :, 1].add(1.0).at[2].add(1.0))
    again = agent.window(params, other)
    same = np.ix_([0, 1, 3], range(STEPS), [0, 2])
    np.testing.assert_allclose(np.asarray(again)[same], np.asarray(out)[same], atol=1e-6)


def test_acting_step_by_step_is_the_window(case):
    """From an empty memory and from one in the middle of episodes, which begin anew inside windows.

    Asked for 2 and given the reward of the step before, an agent is told what is left of it.
    """
    agent, params, batch = case
    fresh = carry = agent.init_carry(ROWS, AGENTS)
    assert batch.first[:, 1:].any()
    assert set(fresh.history["to_go"].tolist()) == {2.0}
    act = jax.jit(agent.act)
    for start in (fresh, None):
        start = carry if start is None else start
        seen = batch._replace(first=batch.first.at[1:, 0].set(False))
        carry, said, told = start, [], []
        for t in range(STEPS):
            carry = where_rows(seen.first[:, t], fresh, carry)
            got = jnp.where(seen.first[:, t] | (t == 0), 0.0, seen.reward[:, t - 1])
            history, logits = act(params, carry, step_of(batch, t)._replace(reward=got))
            carry = AgentCarry(history, batch.action[:, t])
            said.append(logits)
            told.append(jnp.broadcast_to(history["to_go"][:, None], (ROWS, AGENTS)))
        out = agent.window(params, seen._replace(extras={"to_go": jnp.stack(told, 1)}), start)
        np.testing.assert_allclose(jnp.stack(said, 1), out, rtol=1e-4, atol=1e-5)


def test_memory_goes_from_window_to_window(case):
    agent, params, batch = case
    start = agent.init_carry(ROWS, AGENTS)
    whole = agent.window(params, batch, start)
    cut = lambda a, b: jax.tree.map(lambda x: x[:, a:b] if x.ndim > 1 else x, batch)
    head, tail = cut(0, 3), cut(3, STEPS)
    inputs = (head.observation, causal.last_actions(head), head.return_to_go, head.first)
    _, cache = agent.module.apply({"params": params}, *inputs, start.history["cache"])
    out = agent.window(params, tail, AgentCarry({**start.history, "cache": cache}, head.action[:, -1]))
    np.testing.assert_allclose(out, whole[:, 3:], rtol=1e-4, atol=1e-5)


def test_a_window_inside_an_episode_knows_what_was_done_before_it():
    """Without any further memory a piece of a window says what the window says."""
    agent, batch = agent_of(replace(CONFIG, context=1), True, None), make_batch(AGENTS)
    params = agent.init(jax.random.key(0), batch)
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    whole = agent.window(params, batch)
    tail = jax.tree.map(lambda x: x[:, 3:] if x.ndim > 1 else x, batch)
    assert not tail.first[:, 0].all()
    assert (agent.window(params, tail) != whole[:, 3:]).any()
    known = tail._replace(last_action=batch.action[:, 2])
    np.testing.assert_allclose(agent.window(params, known), whole[:, 3:], rtol=1e-4, atol=1e-5)


def test_it_remembers_no_further_than_it_may(case):
    """Two layers of context 3 reach 4 steps back, and they do."""
    agent, params, batch = case
    batch = batch._replace(first=jnp.zeros((ROWS, STEPS), bool).at[:, 0].set(True))
    out = agent.window(params, batch)
    again = agent.window(params, batch._replace(obs=batch.obs.at[:, 0].add(1.0)))
    np.testing.assert_array_equal(again[:, 5:], out[:, 5:])
    assert (again[:, 4] != out[:, 4]).any()


def test_a_context_of_one_is_a_feed_forward_network():
    """Every step by itself, whatever was before, and of an agent that is not told what it did."""
    agent, batch = agent_of(replace(CONFIG, context=1), False, None), make_batch(AGENTS)
    params = agent.init(jax.random.key(0), batch)
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    out = agent.window(params, batch)
    flat = batch._replace(
        **{
            name: getattr(batch, name).reshape(ROWS * STEPS, 1, *getattr(batch, name).shape[2:])
            for name in ("obs", "action_mask", "action", "agent_mask", "first")
        }
    )
    single = agent.window(params, flat).reshape(out.shape)
    np.testing.assert_allclose(out, single, rtol=1e-4, atol=1e-5)
    carry = AgentCarry(
        jax.tree.map(jnp.ones_like, agent.init_carry(ROWS, AGENTS).history),
        jnp.ones((ROWS, AGENTS), jnp.int32),
    )
    np.testing.assert_allclose(
        agent.act(params, carry, step_of(batch, 2))[1], out[:, 2], rtol=1e-4, atol=1e-5
    )


def test_padding_changes_nothing(case):
    """Agents, observation features and actions that are not there."""
    agent, params, batch = case
    out = agent.window(params, batch)
    more = agent.window(params, pad(batch, AGENTS + 2))
    np.testing.assert_allclose(more[:, :, :AGENTS], out, rtol=1e-5, atol=1e-6)
    wide = causal.Agent(causal.Policy(CONFIG, ACTIONS + 2, True), 2.0)
    grow = lambda x, axis, n: jnp.pad(x, [(0, n if i == axis else 0) for i in range(x.ndim)])
    padded = batch._replace(obs=grow(batch.obs, 3, 4), action_mask=grow(batch.action_mask, 3, 2))
    fresh = wide.init(jax.random.key(1), padded)
    put = lambda new, old: new.at[tuple(map(slice, old.shape))].set(old)
    out_wide = wide.window(jax.tree.map(put, fresh, params), padded)
    np.testing.assert_allclose(out_wide[..., :ACTIONS], out, rtol=1e-5, atol=1e-6)
