"""The adapters, step by step against the environments that they wrap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl import config
from mtmarl.envs import connector, lbf, rware
from mtmarl.envs.registry import BUILT_IN, get_family, make_env
from mtmarl.errors import UserError

MICRO = ("lbf/6x6-2p-2f-t20", "connector/con-4x4x2a", "rware/1x3h3-2ag-t50")


def all_tasks():
    sets = [
        config.compose(["+algo=sable", f"+tasks={s}"], "collect").tasks
        for s in ("lbf_5", "connector_10", "rware_15")
    ]
    return [t for s in sets for t in (*s.train, *s.test)]


def legal_action(mask, key):
    return jax.random.categorical(key, jnp.where(mask, 0.0, -jnp.inf))


def play(env, seed, steps):
    """Random play of one env, raw and wrapped side by side: [(raw timestep, our timestep, raw state)]."""
    reset, step, raw_step = jax.jit(env.reset), jax.jit(env.step), jax.jit(env.raw.step)
    key = jax.random.key(seed)
    state, ours = reset(key)
    raw_state, raw = env.raw.reset(key)
    seen = [(raw, ours, raw_state)]
    for t in range(steps):
        action = legal_action(ours.action_mask, jax.random.fold_in(key, t))
        state, ours = step(state, action, key)
        raw_state, raw = raw_step(raw_state, action)
        seen.append((raw, ours, raw_state))
        if bool(raw.last()):
            break
    return seen


@pytest.mark.parametrize("name", MICRO)
def test_same_masks_ends_and_rewards_as_the_raw_environment(name):
    env = make_env(name)
    together = {"lbf": np.sum, "connector": np.mean, "rware": np.sum}[env.spec.family]
    for seed in range(3):
        seen = play(env, seed, env.spec.horizon)
        assert bool(seen[-1][0].last()), "an episode must end by its horizon"
        for raw, ours, _ in seen:
            np.testing.assert_array_equal(ours.action_mask, raw.observation.action_mask)
            np.testing.assert_allclose(ours.reward, together(raw.reward), atol=1e-6)
            assert bool(raw.last()) == bool(ours.terminated | ours.truncated)
            assert not bool(ours.terminated & ours.truncated)
            assert ours.obs.shape == (env.spec.agents, env.spec.obs) and ours.obs.dtype == jnp.float32


@pytest.mark.parametrize("name", MICRO)
def test_observations_are_small_integers_times_a_scale(name):
    env = make_env(name)
    for _, ours, _ in play(env, 0, 15):
        raw = np.round(np.asarray(ours.obs) / env.obs_scale)
        assert np.abs(raw).max() <= 127
        np.testing.assert_array_equal(raw.astype(np.int8).astype(np.float32) * env.obs_scale, ours.obs)


@pytest.mark.parametrize("name", MICRO)
def test_time_out_is_truncation(name):
    """Nobody moves: only the clock can end the episode."""
    env = make_env(name)
    key = jax.random.key(1)
    state, ours = env.reset(key)
    step, still = jax.jit(env.step), jnp.zeros(env.spec.agents, jnp.int32)
    for t in range(env.spec.horizon):
        state, ours = step(state, still, key)
        assert bool(ours.truncated) == (t == env.spec.horizon - 1)
        assert not bool(ours.terminated)


def test_lbf_shows_foods_self_others_and_nothing_else():
    env = make_env("lbf/8x8-2p-3f")
    for raw, ours, _ in play(env, 0, 10):
        got = np.round(np.asarray(ours.obs) / lbf.OBS_SCALE).astype(int).reshape(2, 12, 3)
        view = np.asarray(raw.observation.agents_view).reshape(2, 5, 3)
        np.testing.assert_array_equal(got[:, :3], view[:, :3])
        np.testing.assert_array_equal(got[:, 6:8], view[:, 3:])
        for hidden in (got[:, 3:6], got[:, 8:]):
            assert (hidden == [-1, -1, 0]).all()


def test_lbf_episode_is_worth_one():
    """Random play, until an episode in which the only food is eaten: that ends it by termination."""
    env = make_env("lbf/5x5-2p-1f-t50")
    total, seen = 0.0, None
    for seed in range(20):
        seen = play(env, seed, 50)
        total = sum(float(ours.reward) for _, ours, _ in seen)
        if bool(seen[-1][1].terminated):
            break
    assert seen is not None and bool(seen[-1][1].terminated)
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)


def test_connector_views_against_the_board():
    """Every number of every view, looked up on the board with plain loops."""
    env = make_env("connector/con-5x5x3a")
    for _, ours, state in play(env, 3, 12):
        board = np.asarray(state.grid)
        got = np.round(np.asarray(ours.obs) / connector.OBS_SCALE).astype(int)
        for n in range(3):
            r, c = np.asarray(state.agents.position[n])
            np.testing.assert_array_equal(got[n, :4], [r, c, *np.asarray(state.agents.target[n])])
            for i, (dr, dc) in enumerate((a, b) for a in range(-2, 3) for b in range(-2, 3)):
                inside = 0 <= r + dr < 5 and 0 <= c + dc < 5
                code = board[r + dr, c + dc] if inside else None
                blocker, goal = -1, 0
                if inside:
                    kind = None if code == 0 else (code - 1) % 3  # 0 path, 1 head, 2 target
                    blocker = {None: 0, 0: -1, 1: 1, 2: 0}[kind]
                    goal = (1 if (code - 1) // 3 == n else -1) if kind == 2 else 0
                assert (got[n, 4 + i], got[n, 29 + i]) == (blocker, goal)


def test_rware_shows_the_raw_observation_rescaled():
    env = make_env("rware/1x3h3-2ag-t50")
    for raw, ours, _ in play(env, 0, 20):
        np.testing.assert_allclose(ours.obs, raw.observation.agents_view * rware.OBS_SCALE, rtol=1e-6)


def test_rware_collision_is_termination():
    env = make_env("rware/1x3h3-4ag-t200")
    ends = [play(env, seed, 200)[-1][1] for seed in range(4)]
    assert any(bool(e.terminated) for e in ends)


def test_rware_collision_in_the_very_last_step_is_termination():
    """The same play again, with the clock running out in the step of the collision."""
    env = make_env("rware/1x3h3-4ag-t200")
    episodes = ((seed, play(env, seed, 200)) for seed in range(4))
    seed, seen = next((s, e) for s, e in episodes if bool(e[-1][1].terminated))
    again = play(make_env(f"rware/1x3h3-4ag-t{len(seen) - 1}"), seed, 200)
    assert len(again) == len(seen)
    assert bool(again[-1][1].terminated) and not bool(again[-1][1].truncated)


def test_all_52_tasks_have_the_widths_of_their_family():
    tasks = all_tasks()
    assert len(tasks) == len(set(tasks)) == 52
    widths = {"lbf": (36, 6), "connector": (54, 5), "rware": (66, 5)}
    for name in tasks:
        env = make_env(name)
        assert (env.spec.obs, env.spec.actions) == widths[env.spec.family]
        assert len(env.obs_scale) == env.spec.obs


@pytest.mark.parametrize("module", [lbf, connector, rware])
def test_every_feature_has_a_name_of_its_own(module):
    fields = module.FAMILY.fields
    assert len(set(fields)) == len(fields) == len(module.OBS_SCALE)


def test_an_unknown_family_is_named_with_those_that_are_known():
    assert get_family("chess").fields == ()
    with pytest.raises(UserError, match=", ".join(BUILT_IN)):
        make_env("chess/8x8")


def test_rware_features_are_what_their_names_say():
    """Shelves and robots around a robot, looked up by name in the view and by cell in the warehouse."""
    env = make_env("rware/1x3h3-2ag-t50")
    at = {name: i for i, name in enumerate(rware.FIELDS)}
    for raw, ours, state in play(env, 0, 20):
        if bool(raw.last()):
            break  # robots on one cell: Jumanji writes the other one into the view and shifts what follows
        floor = np.pad(np.asarray(state.grid), ((0, 0), (1, 1), (1, 1)))
        for n in range(2):
            r, c = int(state.agents.position.x[n]), int(state.agents.position.y[n])
            value = lambda name, n=n, obs=ours.obs: float(obs[n, at[name]])
            np.testing.assert_allclose([value("row / 40") * 40, value("column / 40") * 40], [r, c], rtol=1e-6)
            for dr, dc in ((a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)):
                shelf, robot = floor[:, r + 1 + dr, c + 1 + dc]
                assert value(f"shelf at {(dr, dc)}: present") == (shelf > 0)
                if (dr, dc) != (0, 0):
                    assert value(f"agent at {(dr, dc)}: present") == (robot > 0)


@pytest.mark.parametrize("name", MICRO)
def test_vectorises(name):
    env = make_env(name)
    keys = jax.random.split(jax.random.key(0), 5)
    state, step = jax.jit(jax.vmap(env.reset))(keys)
    action = jnp.zeros((5, env.spec.agents), jnp.int32)
    _, step = jax.jit(jax.vmap(env.step))(state, action, keys)
    assert step.obs.shape == (5, env.spec.agents, env.spec.obs) and step.reward.shape == (5,)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("chess/8x8", "family"),
        ("lbf", "family"),
        ("lbf/8x9-2p-2f", "square"),
        ("lbf/8x8-2p-2f-hard", "look like"),
        ("lbf/4x4-2p-1f", "5x5"),
        ("lbf/9x9-7p-1f", "agents"),
        ("lbf/6x6-2p-3f", "fit the grid"),
        ("lbf/8x8-2p-2f-l1", "level"),
        ("lbf/129x129-2p-2f", "128x128"),
        ("lbf/9x9-2p-7f", "foods"),
        ("lbf/9s-8x8-2p-2f", "sight"),
        ("lbf/8x8-2p-2f-t0", "time limit"),
        ("connector/con-3x3x3a", "four cells"),
        ("connector/9x9x6a", "look like"),
        ("rware/tiny-1ag-hard", "requests"),
        ("rware/1x3h1-4ag", "requests"),
        ("rware/tiny-0ag", "agents"),
        ("rware/tiny-4ag-t0", "time limit"),
        ("rware/giant-4ag", "unknown layout"),
        ("rware/2x4h4-2ag", "odd"),
        ("rware/1x1h8-2ag", "no shelves"),
    ],
)
def test_illegal_tasks_are_refused_with_the_reason(name, reason):
    with pytest.raises(UserError, match=reason) as error:
        make_env(name)
    assert name in str(error.value)


@pytest.mark.parametrize(
    "name",
    [
        "lbf/12x12-5p-4f-coop-l3",
        "lbf/2s-8x8-2p-2f-coop",
        "connector/con-9x9x6a",
        "rware/tiny-4ag-hard",
        "rware/2x5h4-6ag",
    ],
)
def test_the_grammar_builds_any_legal_task(name):
    assert make_env(name).spec.name == name


def test_warehouses_have_the_shelves_that_the_check_counts():
    for name, shelves in (("1x3h8", 32), ("2x3h8", 80), ("2x5h4", 72), ("3x3h5", 80)):
        env = make_env(f"rware/{name}-2ag")
        assert env.raw.reset(jax.random.key(0))[0].shelves.position.x.shape == (shelves,)
