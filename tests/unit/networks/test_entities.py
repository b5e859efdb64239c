"""Networks over entities: what must not matter does not, and what must, does."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtmarl.networks import entities
from mtmarl.networks.entities import Agent, Mixer, Vdn
from mtmarl.networks.odis import MultiHeadEncoder
from mtmarl.types import Dims, Entities, Observation, TeamTokens, Tokens
from tests.batches import ACTIONS, OBS, TOY, make_batch, pad

CONFIG = entities.Config(16, 2, 2)
DIMS = Dims(3, OBS, ACTIONS, 10, 2, TOY)


def noisy(params):
    return jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)


@pytest.fixture(scope="module")
def agent():
    net = Agent.make(CONFIG, DIMS)
    return net, noisy(net.init(jax.random.key(0), make_batch(3)))


def tokens_of(seed=0, agents=2, objects=4, allies=3):
    keys = jax.random.split(jax.random.key(seed), 5)
    b = (3, agents)
    return Tokens(
        own=jax.random.normal(keys[0], (*b, 2 + 4)),
        allies=jax.random.normal(keys[1], (*b, allies, 3)),
        objects=jax.random.normal(keys[2], (*b, objects, 2)),
        ally_mask=jax.random.bernoulli(keys[3], 0.7, (*b, allies)),
        object_mask=jax.random.bernoulli(keys[4], 0.7, (*b, objects)),
    )


def step(agent, tokens, history=None):
    net, params = agent
    history = (
        jax.random.normal(jax.random.key(9), (*tokens.own.shape[:-1], 16)) if history is None else history
    )
    after, out = net.step(params, {"agent": history}, tokens)
    return np.asarray(out), np.asarray(after["agent"])


def test_permuted_objects_permute_aims_and_nothing_else(agent):
    tokens, order = tokens_of(), jnp.asarray([2, 0, 3, 1])
    moved = tokens._replace(objects=tokens.objects[..., order, :], object_mask=tokens.object_mask[..., order])
    (out, history), (again, history_again) = step(agent, tokens), step(agent, moved)
    np.testing.assert_allclose(again[..., :3], out[..., :3], atol=1e-5)
    np.testing.assert_allclose(again[..., 3:], out[..., 3:][..., order], atol=1e-5)
    np.testing.assert_allclose(history_again, history, atol=1e-5)
    assert np.abs(out[..., 3:] - out[..., 3:4]).max() > 0.1


def test_permuted_allies_change_nothing(agent):
    tokens, order = tokens_of(), jnp.asarray([2, 0, 1])
    moved = tokens._replace(allies=tokens.allies[..., order, :], ally_mask=tokens.ally_mask[..., order])
    for a, b in zip(step(agent, tokens), step(agent, moved), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_absent_entities_change_nothing_and_present_ones_do(agent):
    tokens = tokens_of()
    absent = lambda x, mask: jnp.where(mask[..., None], x, 50.0)
    rubbish = tokens._replace(
        allies=absent(tokens.allies, tokens.ally_mask), objects=absent(tokens.objects, tokens.object_mask)
    )
    out, again = step(agent, tokens)[0], step(agent, rubbish)[0]
    there = np.concatenate([np.ones((3, 2, 3), bool), np.asarray(tokens.object_mask)], axis=-1)
    np.testing.assert_allclose(out[there], again[there], atol=1e-5)
    none = tokens._replace(ally_mask=jnp.zeros_like(tokens.ally_mask))
    assert np.abs(step(agent, none)[0] - out).max() > 1e-2
    more = tokens._replace(
        allies=jnp.pad(tokens.allies, ((0, 0), (0, 0), (0, 4), (0, 0)), constant_values=7.0),
        ally_mask=jnp.pad(tokens.ally_mask, ((0, 0), (0, 0), (0, 4))),
    )
    np.testing.assert_allclose(step(agent, more)[0], out, atol=1e-5)


def test_one_target_and_one_agent_work(agent):
    assert step(agent, tokens_of(agents=1, objects=1, allies=1))[0].shape == (3, 1, 4)
    assert step(agent, tokens_of(agents=1, objects=1, allies=0))[0].shape == (3, 1, 4)


def test_the_mean_head_shares_weights_with_base_actions():
    net = Agent.make(entities.Config(16, 1, 1, mean_head=True), DIMS)
    params = net.init(jax.random.key(0), make_batch(3))
    assert set(params["head"]) == {"base"}
    # Both kinds of token reach the same head, so raising its bias raises everything alike.
    raised = jax.tree.map(lambda x: x, params)
    raised["head"]["base"]["bias"] = params["head"]["base"]["bias"] + 1.0
    out, more = step((net, params), tokens_of())[0], step((net, raised), tokens_of())[0]
    np.testing.assert_allclose(more, out + 1.0, atol=1e-5)


def test_acting_step_by_step_is_the_window(agent):
    """With an episode that begins in the middle: there, memory and last action are cleared."""
    net, params = agent
    batch = make_batch(3)
    whole = net.window(params, batch)
    carry = fresh = net.init_carry(4, 3)
    for t in range(6):
        clear = lambda m, f, t=t: jnp.where(batch.first[:, t].reshape(-1, *[1] * (m.ndim - 1)), f, m)
        carry = jax.tree.map(clear, carry, fresh)
        obs = jax.tree.map(lambda x, t=t: x[:, t], batch.observation)
        history, out = net.act(params, carry, obs)
        np.testing.assert_allclose(out, whole[:, t], atol=1e-5)
        carry = entities.AgentCarry(history, batch.action[:, t])
    assert bool(batch.first[:, 1:].any())


def test_agents_see_themselves_alone(agent):
    net, params = agent
    batch = make_batch(3)
    other = batch._replace(
        obs=batch.obs.at[:, :, 1].add(1.0),
        action=batch.action.at[:, :, 1].set(0),
        agent_mask=batch.agent_mask,
    )
    out, again = net.window(params, batch), net.window(params, other)
    np.testing.assert_array_equal(out[:, :, [0, 2]], again[:, :, [0, 2]])
    assert np.abs(np.asarray(out - again)[:, :, 1]).max() > 0.01


def test_choice_is_greedy_sampled_or_uniform():
    logits = jnp.broadcast_to(jnp.asarray([2.0, 5.0, 0.0, 0.0]), (4000, 1, 4))
    legal = jnp.broadcast_to(jnp.asarray([True, False, True, True]), logits.shape)
    obs = Observation(logits, legal, jnp.ones((4000, 1), bool))
    pick = lambda sample_probability, **more: np.bincount(
        np.asarray(entities.choose(logits, obs, jax.random.key(0), sample_probability, **more))[:, 0],
        minlength=4,
    )
    np.testing.assert_array_equal(pick(0.0), [4000, 0, 0, 0])
    p = np.exp([2.0, 0.0, 0.0])
    np.testing.assert_allclose(pick(1.0)[[0, 2, 3]] / 4000, p / p.sum(), atol=0.03)
    np.testing.assert_allclose(pick(1.0, uniform=True)[[0, 2, 3]] / 4000, 1 / 3, atol=0.03)
    np.testing.assert_allclose(pick(0.3, uniform=True)[2:] / 4000, 0.1, atol=0.03)


# ------------------------------------------------------------------------------------------------- mixers


def team_of(seed, agents=3, objects=2, rows=5):
    keys = jax.random.split(jax.random.key(seed), 2)
    mask = jnp.ones((rows, objects), bool).at[0, 0].set(False)
    return TeamTokens(
        jax.random.normal(keys[0], (rows, agents, 4)), jax.random.normal(keys[1], (rows, objects, 3)), mask
    )


@pytest.fixture(scope="module")
def mixer():
    net, team = Mixer(16), team_of(0)
    mask = jnp.ones((5, 3), bool)
    params = noisy(net.init(jax.random.key(0), jnp.zeros((5, 3)), team, mask)["params"])
    return jax.jit(lambda q, team, mask: net.apply({"params": params}, q, team, mask))


def test_the_mixer_is_monotone(mixer):
    mask, team = jnp.ones((5, 3), bool), team_of(1)
    slope = jax.jit(jax.grad(lambda q: mixer(q, team, mask).sum()))
    for seed in range(20):
        gradient = np.asarray(slope(5 * jax.random.normal(jax.random.key(seed), (5, 3))))
        assert (gradient >= 0).all() and (gradient > 0).any()


def test_what_is_best_for_each_is_best_for_all(mixer):
    q = jax.random.normal(jax.random.key(0), (5, 3, 4))
    team, mask = team_of(2), jnp.ones((5, 3), bool)
    of = lambda joint: mixer(jnp.stack([q[:, i, a] for i, a in enumerate(joint)], 1), team, mask)
    totals = np.stack([np.asarray(of(joint)) for joint in itertools.product(range(4), repeat=3)])
    np.testing.assert_allclose(mixer(q.max(-1), team, mask), totals.max(0), rtol=1e-5)


def test_the_mixer_knows_no_order_and_no_padding(mixer):
    team, mask = team_of(3), jnp.ones((5, 3), bool)
    q = jax.random.normal(jax.random.key(1), (5, 3))
    order = jnp.asarray([2, 0, 1])
    moved = team._replace(
        agents=team.agents[:, order], objects=team.objects[:, ::-1], object_mask=team.object_mask[:, ::-1]
    )
    np.testing.assert_allclose(mixer(q[:, order], moved, mask), mixer(q, team, mask), rtol=1e-5)
    grow = lambda x, n, value: jnp.pad(x, [(0, 0), (0, n)] + [(0, 0)] * (x.ndim - 2), constant_values=value)
    padded = TeamTokens(
        grow(team.agents, 2, 9.0), grow(team.objects, 1, 9.0), grow(team.object_mask, 1, False)
    )
    again = mixer(grow(q, 2, 9.0), padded, grow(mask, 2, False))
    np.testing.assert_allclose(again, mixer(q, team, mask), rtol=1e-5)


def test_vdn_adds_up():
    q, mask = jnp.asarray([[1.0, 2.0, 4.0]]), jnp.asarray([[True, False, True]])
    np.testing.assert_array_equal(Vdn().apply({}, q, team_of(0), mask), [5.0])


def test_mixing_represents_what_adding_cannot():
    """The game [[0, 1], [1, 8]] (Rashid et al. 2018, section 4): a sum of two parts misses it by 1.5 at least."""
    payoff = jnp.asarray([0.0, 1.0, 1.0, 8.0])
    joint = jnp.asarray([[0, 0], [0, 1], [1, 0], [1, 1]])
    team, mask = jax.tree.map(lambda x: jnp.repeat(x[:1], 4, 0), team_of(0, agents=2)), jnp.ones((4, 2), bool)

    def fit(module):
        tables = 0.1 * jax.random.normal(jax.random.key(1), (2, 2))
        mixing = module.init(jax.random.key(0), jnp.zeros((4, 2)), team, mask).get("params", {})
        tx = optax.adam(0.02)

        def error(params):
            table, mixing = params
            q = jnp.stack([table[0][joint[:, 0]], table[1][joint[:, 1]]], 1)
            return jnp.abs(module.apply({"params": mixing}, q, team, mask) - payoff)

        def one(state, _):
            params, opt = state
            updates, opt = tx.update(jax.grad(lambda p: (error(p) ** 2).sum())(params), opt)
            return (optax.apply_updates(params, updates), opt), None

        params = (tables, mixing)
        (params, _), _ = jax.lax.scan(one, (params, tx.init(params)), None, length=600)
        return np.asarray(error(params)).max()

    assert fit(Vdn()) > 1.4
    assert fit(Mixer(8)) < 0.1


def test_states_are_padding_proof():
    batch = make_batch(3)
    padded = pad(batch, 5)
    last = entities.last_actions
    for action in (None, "now"):
        team, more = (
            entities.team_inputs(TOY, b.observation, last(b), None if action is None else b.action)
            for b in (batch, padded)
        )
        np.testing.assert_array_equal(team.agents, more.agents[:, :, :3])
        np.testing.assert_allclose(team.objects, more.objects, atol=1e-6)
        np.testing.assert_array_equal(team.object_mask, more.object_mask)


def test_actions_as_inputs():
    aimed = Entities(3, True, TOY.observe, TOY.team)
    np.testing.assert_array_equal(
        entities.compact(jnp.asarray([-1, 0, 2, 3, 4]), aimed),
        [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 1]],
    )
    np.testing.assert_array_equal(
        entities.aimed_at(jnp.asarray([-1, 2, 3, 4]), aimed, 2), [[0, 0], [0, 0], [1, 0], [0, 1]]
    )
    batch = make_batch(1)._replace(
        action=jnp.asarray([[[1], [2], [3]]]), first=jnp.asarray([[False, False, True]])
    )
    last = lambda **known: entities.last_actions(batch._replace(**known))[0, :, 0]
    np.testing.assert_array_equal(last(), [-1, 1, -1])
    np.testing.assert_array_equal(last(last_action=jnp.asarray([[4]])), [4, 1, -1])
    np.testing.assert_array_equal(
        last(last_action=jnp.asarray([[4]]), first=jnp.asarray([[True, False, True]])), [-1, 1, -1]
    )


def test_a_state_encoder_of_many_heads_knows_no_order_and_no_padding():
    keys = jax.random.split(jax.random.key(0), 4)
    agents = jax.random.normal(keys[0], (4, 3, 5))
    objects = jax.random.normal(keys[1], (4, 2, 3))
    here, there = jnp.ones((4, 3), bool), jnp.ones((4, 2), bool)
    encoder = MultiHeadEncoder(8, 4, 6)
    params = noisy(encoder.init(keys[2], TeamTokens(agents, objects, there), here))
    encode = lambda *team_mask: np.asarray(encoder.apply(params, TeamTokens(*team_mask[:-1]), team_mask[-1]))
    out = encode(agents, objects, there, here)
    order = jnp.asarray([2, 0, 1])
    np.testing.assert_allclose(
        encode(agents[:, order], objects[:, ::-1], there, here), out[:, order], atol=1e-5
    )
    assert np.abs(out - out[:, :1]).max() > 0.1 and out.shape == (4, 3, 8)
    more = lambda x, mask: (
        jnp.concatenate([x, jnp.full((4, 2, x.shape[-1]), 7.0)], axis=1), jnp.pad(mask, ((0, 0), (0, 2))),
    )  # fmt: skip
    (agents_more, here_more), (objects_more, there_more) = more(agents, here), more(objects, there)
    padded = encode(agents_more, objects_more, there_more, here_more)
    np.testing.assert_allclose(padded[:, :3], out, atol=1e-5)
    seen = encode(agents_more, objects_more, jnp.ones_like(there_more), here_more)
    assert np.abs(seen[:, :3] - out).max() > 0.1, "what is there is attended to"
