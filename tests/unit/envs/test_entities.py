"""Entities of every family, looked up in the environment's own state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.envs import smax
from mtmarl.envs.entities import of_layout
from mtmarl.envs.layout import Layout
from mtmarl.envs.registry import BUILT_IN, get_family, make_env
from mtmarl.envs.tokens import CELL
from mtmarl.training.rollout import observe
from mtmarl.types import Observation
from tests.extras import needs_jaxmarl


def play(name, steps, seed=0):
    """[(observation, state)] of random play."""
    env = make_env(name)
    reset, step, key = jax.jit(env.reset), jax.jit(env.step), jax.random.key(seed)
    state, seen = reset(key)
    out = [(observe(seen), state)]
    for t in range(steps):
        k = jax.random.fold_in(key, t)
        action = jax.random.categorical(k, jnp.where(seen.action_mask, 0.0, -jnp.inf))
        state, seen = step(state, action, k)
        out.append((observe(seen), state))
        if seen.terminated | seen.truncated:
            break
    return env, out


def entities(env, **options):
    found = of_layout(Layout.of([env.spec], **options))
    assert found is not None
    return found


def rows(x, mask):
    """The present entities as a set of rows."""
    return sorted(map(tuple, np.round(np.asarray(x)[np.asarray(mask)], 4).tolist()))


def test_lbf_sees_what_is_on_the_board():
    env, seen = play("lbf/8x8-3p-2f", 20)
    split = entities(env)
    for obs, state in seen:
        tokens, team = split.observe(obs), split.team(obs)
        place, level = np.asarray(state.agents.position), np.asarray(state.agents.level)
        food = np.asarray(state.food_items.position)[~np.asarray(state.food_items.eaten)]
        food_level = np.asarray(state.food_items.level)[~np.asarray(state.food_items.eaten)]
        for n in range(3):
            others = [i for i in range(3) if i != n]
            expected = np.concatenate([(place[others] - place[n]) * CELL, level[others, None] / 8], axis=1)
            assert rows(tokens.allies[n], tokens.ally_mask[n]) == rows(expected, [True, True])
            expected = np.concatenate([(food - place[n]) * CELL, food_level[:, None] / 8], axis=1)
            assert rows(tokens.objects[n], tokens.object_mask[n]) == rows(expected, [True] * len(food))
        expected = np.concatenate([food / 16, food_level[:, None] / 8], axis=1)
        assert rows(team.objects, team.object_mask) == rows(expected, [True] * len(food))
        np.testing.assert_allclose(team.agents[:, :2] * 16, place, atol=1e-5)


def test_connector_sees_the_heads_in_its_window_and_the_way_to_its_target():
    env, seen = play("connector/con-6x6x5a", 10)
    split, met = entities(env), 0
    for obs, state in seen:
        tokens = split.observe(obs)
        place, target = np.asarray(state.agents.position), np.asarray(state.agents.target)
        for n in range(5):
            away = np.delete(place - place[n], n, axis=0)
            near = np.abs(away).max(1) <= 2
            met += near.sum()
            assert rows(tokens.allies[n], tokens.ally_mask[n]) == rows(away * CELL, near)
        np.testing.assert_allclose(tokens.own[:, -2:] / CELL, target - place, atol=1e-4)
        assert tokens.allies.shape[1] == 4 and tokens.objects.shape[1] == 0
    assert met


def test_rware_sees_the_robots_next_to_it():
    env, seen = play("rware/1x3h2-4ag-t60", 60)
    split, met = entities(env), 0
    for obs, state in seen[:-1]:  # robots on one cell shift the raw view
        tokens = split.observe(obs)
        place = np.stack([np.asarray(state.agents.position.x), np.asarray(state.agents.position.y)], 1)
        facing = np.asarray(state.agents.direction)
        for n in range(4):
            away, towards = np.delete(place - place[n], n, axis=0), np.delete(facing, n)
            near = np.abs(away).max(1) <= 1
            met += near.sum()
            expected = np.concatenate([np.eye(4)[towards], away], axis=1)
            assert rows(tokens.allies[n], tokens.ally_mask[n]) == rows(expected, near)
    assert met


@needs_jaxmarl
def test_smax_sees_allies_and_enemies_and_the_team_puts_them_on_the_map():
    env = make_env("smax/2m1s_vs_3m-t20")
    split = entities(env)
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    key = jax.random.key(1)
    views, legal = jax.jit(env._views), jax.jit(env._legal)
    met = 0
    for i in range(6):
        place = 16 + 8 * jax.random.normal(jax.random.fold_in(key, i), (6, 2))
        units = state.raw.state.replace(
            unit_positions=place,
            unit_health=state.raw.state.unit_health
            * jax.random.uniform(jax.random.fold_in(key, 9 + i), (6,)),
            unit_alive=jnp.asarray([True, True, True, True, i % 2 == 0, True]),
        )
        obs = Observation(views(units), legal(units), jnp.ones(3, bool))
        tokens, team = split.observe(obs), split.team(obs)
        gap = np.linalg.norm(np.asarray(place[None] - place[:3, None]), axis=-1)
        sight = np.asarray(env.raw.unit_type_sight_ranges)[np.asarray(units.unit_types[:3])]
        seen = (gap < sight[:, None]) & np.asarray(units.unit_alive)
        assert (seen[:, 3:] == np.asarray(tokens.object_mask)[:, :3]).all()
        assert not tokens.object_mask[:, 3:].any()
        for n in range(3):
            assert (np.delete(seen[n, :3], n) == np.asarray(tokens.ally_mask[n])).all()
        np.testing.assert_array_equal(tokens.objects[..., -1], obs.action_mask[:, 5:])
        assert (np.asarray(team.object_mask)[:3] == seen[:, 3:].any(0)).all()
        for k in np.flatnonzero(seen[:, 3:].any(0)):
            np.testing.assert_allclose(np.asarray(team.objects[k, 1:3]) * 32, place[3 + k], atol=0.2)
            health = float(units.unit_health[3 + k] / env.raw.unit_type_health[units.unit_types[3 + k]])
            np.testing.assert_allclose(team.objects[k, 0], health, atol=0.005)
            met += 1
        np.testing.assert_allclose(team.agents[:, 1:3] * 32, place[:3], atol=0.13)
    assert met > 5


@needs_jaxmarl
def test_what_is_known_of_smax_is_jaxmarls():
    raw = make_env("smax/3m").raw
    assert list(smax.UNITS.values()) == list(smax.SIGHT) == list(raw.unit_type_names)
    np.testing.assert_array_equal(list(smax.SIGHT.values()), raw.unit_type_sight_ranges)
    assert (raw.map_width, raw.map_height) == (smax.MAP, smax.MAP)


def test_numbers_of_agents_are_their_own_affair():
    env = make_env("lbf/5x5-2p-1f-t8")
    layout = Layout.of([env.spec], "fixed", 3)
    split, plain = of_layout(layout), entities(env)
    seen = observe(layout.wrap(env).reset(jax.random.key(0))[1])
    bare = observe(env.reset(jax.random.key(0))[1])
    tokens, without = split.observe(seen), plain.observe(bare)
    np.testing.assert_array_equal(tokens.own[:, -3:], np.eye(3)[:2])
    np.testing.assert_array_equal(tokens.own[:, :-3], without.own)
    for ours, theirs in zip(tokens[1:], without[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(split.team(seen).agents, plain.team(bare).agents)


def test_several_families_have_no_entities_in_common():
    specs = [make_env(n).spec for n in ("lbf/5x5-2p-1f-t8", "connector/con-3x3x2a")]
    assert of_layout(Layout.of(specs)) is None


@pytest.mark.parametrize("family", BUILT_IN)
def test_padded_agents_add_nothing_to_what_the_team_sees(family):
    split, width = get_family(family).entities, len(get_family(family).fields)
    view = jax.random.uniform(jax.random.key(0), (2, 3, 3, width), minval=0.1)
    mask = jnp.ones((2, 3, 3, split.base_actions + 16), bool)
    active = jnp.asarray([True, False, True])
    whole = split.team(Observation(view, mask, jnp.broadcast_to(active, (2, 3, 3))))
    less = split.team(Observation(view[:, :, ::2], mask[:, :, ::2], jnp.ones((2, 3, 2), bool)))
    np.testing.assert_array_equal(whole.object_mask, less.object_mask)
    np.testing.assert_allclose(whole.objects, less.objects, atol=1e-6)
