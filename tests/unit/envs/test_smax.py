"""The SMAX adapter, number by number against JaxMARL, and its grammar of names."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl import config
from mtmarl.envs import smax
from mtmarl.envs.registry import make_env
from mtmarl.errors import UserError
from tests.extras import needs_jaxmarl

TASK = "smax/2m1s_vs_2m1z-t30"
ALLIES, ENEMIES = 3, 3
HALF_STEP = 0.5 / 127 + 1e-6


def to_theirs(action):
    return np.where(action == 0, 4, np.where(action < 5, action - 1, action))


@pytest.fixture(scope="module")
def task():
    env = make_env(TASK)
    return env, jax.jit(env.reset), jax.jit(env.step)


@pytest.fixture(scope="module")
def played(task):
    """(env, [(ours, JaxMARL's state, its views, legal actions, reward and end, the action)]) of two won episodes."""
    env, reset, step = task
    look = jax.jit(lambda s: (env.raw.get_obs(s), env.raw.get_avail_actions(s)))
    raw_step = jax.jit(lambda k, s, a: env.raw.step_env(k, s, dict(zip(env.raw.agents, a, strict=True)))[1:4])
    seen = []
    for seed in range(2):
        key = jax.random.key(seed)
        state, ours = reset(key)
        raw = env.raw.reset(key)[1]
        seen.append((ours, raw, *look(raw), 0.0, False, None))
        for t in range(30):
            k = jax.random.fold_in(key, t)
            # Go east until the enemy is in range, then shoot at whom one can.
            best = np.asarray(ours.action_mask).copy()
            best[:, [0, 1, 3, 4]] = False
            action = np.where(best[:, 5:].any(1), 5 + best[:, 5:].argmax(1), 2 * best[:, 2])
            state, ours = step(state, jnp.asarray(action), k)
            raw, reward, done = raw_step(k, raw, jnp.asarray(to_theirs(action)))
            seen.append((ours, raw, *look(raw), float(reward["ally_0"]), bool(done["__all__"]), action))
            if done["__all__"]:
                break
    return env, seen


@needs_jaxmarl
def test_legal_actions_rewards_and_ends_are_jaxmarls(played):
    env, seen = played
    fought = False
    for ours, _, _, legal, reward, done, _ in seen:
        theirs = np.stack([legal[a] for a in env.raw.agents]).astype(bool)
        mask = np.asarray(ours.action_mask)
        np.testing.assert_array_equal(mask[:, 0], theirs[:, 4])
        np.testing.assert_array_equal(mask[:, 1:5], theirs[:, :4])
        np.testing.assert_array_equal(mask[:, 5 : 5 + ENEMIES], theirs[:, 5:])
        assert not mask[:, 5 + ENEMIES :].any()
        np.testing.assert_allclose(float(ours.reward), reward, rtol=1e-5)
        assert bool(ours.terminated | ours.truncated) == done
        fought |= mask[:, 5:].any()
    assert fought and any(bool(s[0].terminated) for s in seen)


@needs_jaxmarl
def test_views_are_jaxmarls_rearranged(played):
    """Health, distances, cooldowns and types are theirs up to rounding; the enemy's actions are not there."""
    env, seen = played
    at = {name: i for i, name in enumerate(smax.FIELDS)}
    types = list(smax.UNITS.values())
    someone = False
    for ours, _, views, _, _, _, _ in seen:
        for n, name in enumerate(env.raw.agents):
            theirs = np.asarray(views[name])
            blocks = theirs[:-10].reshape(ALLIES - 1 + ENEMIES, 13)
            mine = np.asarray(ours.obs[n])
            own = [mine[at[f"self: {w}"]] for w in ("health", "x / map", "y / map", "cooldown", *types)]
            np.testing.assert_allclose(own, theirs[-10:], atol=HALF_STEP)
            for j, block in enumerate(blocks):
                ally = j < ALLIES - 1
                who = f"other ally {j}" if ally else f"enemy {j - ALLIES + 1}"
                got = lambda what, who=who, mine=mine: mine[at[f"{who}: {what}"]]
                common = [got(w) for w in ("health", "dx / sight", "dy / sight", "cooldown", *types)]
                np.testing.assert_allclose(common, block[[0, 1, 2, 6, *range(7, 13)]], atol=HALF_STEP)
                if ally:
                    np.testing.assert_allclose([got("moved x"), got("moved y")], block[3:5], atol=1e-6)
                    assert bool(got("attacked")) == (block[5] > 0)
                else:
                    someone |= got("attacked by allies / 8") > 0
                    assert not block[3:6].any()
    assert someone
    far = np.asarray(seen[0][0].obs)
    assert not far[:, at["enemy 0: health"] : at["other ally 0: health"]].any(), (
        "no enemy in sight at the start"
    )


@needs_jaxmarl
def test_the_enemy_counts_by_whom_it_was_attacked(played):
    env, seen = played
    at = {name: i for i, name in enumerate(smax.FIELDS)}
    checked = 0
    for ours, raw, _, _, _, _, action in seen:
        if action is None:
            continue
        units = raw.state
        for n in range(ALLIES):
            for k in range(ENEMIES):
                block = slice(at[f"enemy {k}: health"], at[f"enemy {k}: attacked by allies / 8"] + 1)
                block = np.asarray(ours.obs[n, block])
                if not block[0]:
                    assert not block.any(), "what is not seen is all zeros"
                    continue
                sight = float(env.raw.unit_type_sight_ranges[units.unit_types[n]])
                gap = np.linalg.norm(
                    np.asarray(units.unit_positions[:ALLIES] - units.unit_positions[n]), axis=1
                )
                others = [i for i in range(ALLIES) if i != n and units.unit_alive[i] and gap[i] < sight]
                assert round(float(block[-1]) * 8) == sum(action[i] == 5 + k for i in others)
                checked += 1
    assert checked


@needs_jaxmarl
def test_attack_k_hurts_the_enemy_of_token_k():
    """Every enemy next to an ally with a loaded weapon, one shot at each in turn."""
    env = make_env("smax/1M_vs_3z")
    state, _ = jax.jit(env.reset)(jax.random.key(0))
    step = jax.jit(env.step)
    units = state.raw.state
    spots = jnp.asarray([[16.0, 16.0], [20.0, 16.0], [16.0, 20.0], [12.0, 16.0]])
    units = units.replace(unit_positions=spots)
    for k in range(3):
        placed = state._replace(raw=state.raw.replace(state=units))
        after, ours = step(placed, jnp.asarray([5 + k]), jax.random.key(1))
        lost = np.asarray(units.unit_health - after.raw.state.unit_health)[1:]
        assert lost[k] > 0 and lost.sum() == lost[k]
        assert float(ours.reward) > 0


@needs_jaxmarl
def test_observations_are_small_integers_times_a_scale(played):
    env, seen = played
    for ours, *_ in seen:
        raw = np.round(np.asarray(ours.obs) / env.obs_scale)
        assert np.abs(raw).max() <= 127
        np.testing.assert_array_equal(raw.astype(np.int8).astype(np.float32) * env.obs_scale, ours.obs)


@needs_jaxmarl
def test_won_and_lost_episodes_are_told_apart_by_their_return(task, played):
    env, reset, step = task
    episodes = np.cumsum([s[-1] is None for s in played[1]])
    total = np.sum([s[4] for s, e in zip(played[1], episodes, strict=True) if e == 1])
    np.testing.assert_allclose(total, 2.0, rtol=1e-5)
    assert total > env.spec.win_return
    state, ours = reset(jax.random.key(0))
    total = 0.0
    for t in range(env.spec.horizon):  # standing still
        state, ours = step(state, jnp.zeros(ALLIES, jnp.int32), jax.random.key(t))
        total += float(ours.reward)
    assert total < env.spec.win_return


@needs_jaxmarl
@pytest.mark.parametrize(
    ("name", "agents", "enemies", "horizon"),
    [
        ("3m", 3, 3, 60),
        ("5m_vs_6m", 5, 6, 70),
        ("2s3z", 5, 5, 120),
        ("1M2zg1h_vs_3s", 4, 3, 150),
        ("3m-t9", 3, 3, 9),
    ],
)
def test_names_build_teams(name, agents, enemies, horizon):
    env = make_env(f"smax/{name}")
    assert (env.spec.agents, env.raw.num_enemies, env.spec.horizon) == (agents, enemies, horizon)
    assert (env.spec.obs, env.spec.actions) == (len(smax.FIELDS), smax.ACTIONS)
    letters = re.match(r"[^_]*", name.partition("-")[0])[0]
    expected = [u for n, u in re.findall(r"(\d+)(zg|[a-zA-Z])", letters) for _ in range(int(n))]
    assert [list(smax.UNITS)[t] for t in np.asarray(env.raw.scenario[:agents])] == expected


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("3x", "look like"), ("m", "look like"), ("3m_vs_", "look like"), ("0m", "allies"), ("17m", "allies"),
        ("3m_vs_20z", "enemies"), ("3m-t0", "time limit"),
    ],
)  # fmt: skip
def test_illegal_tasks_are_refused_with_the_reason(name, reason):
    with pytest.raises(UserError, match=reason) as error:
        make_env(f"smax/{name}")
    assert name in str(error.value)


def test_without_jaxmarl_it_says_what_to_install(monkeypatch, capsys):
    from mtmarl import train

    monkeypatch.setitem(sys.modules, "jaxmarl", None)
    for name in [m for m in sys.modules if m.startswith("jaxmarl.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(UserError, match=re.escape("pip install 'mtmarl[smax]'")):
        make_env("smax/3m")
    assert train.main(["+algo=mt_oryx", "+tasks=marine_hard"]) == 2
    assert "smax/3m" in capsys.readouterr().err


@needs_jaxmarl
def test_importing_jaxmarl_says_nothing_and_leaves_the_streams_alone():
    """In a process of its own, where it is imported for the first time and the streams are the program's."""
    program = (
        "import io, sys\n"
        "from mtmarl.envs import smax\n"
        "sys.stdout, sys.stderr, first = (own := io.StringIO()), (errors := io.StringIO()), sys.__stdout__\n"
        "smax.make('3m')\n"
        "assert (sys.stdout, sys.stderr, sys.__stdout__) == (own, errors, first)\n"
        "first.write(own.getvalue())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize(("name", "unseen"), [("marine_hard", 9), ("marine_easy", 7), ("stalker_zealot", 10)])
def test_every_task_of_the_sets_has_its_own_limit(name, unseen):
    tasks = config.compose([f"+tasks={name}", "run=unused"], "evaluate").tasks
    assert (len(tasks.train), len(set(tasks.test) - set(tasks.train))) == (3, unseen)
    assert all(t.removeprefix("smax/") in smax.LIMITS for t in (*tasks.train, *tasks.test))


def test_every_feature_has_a_name_of_its_own():
    assert len(set(smax.FIELDS)) == len(smax.FIELDS) == len(smax.OBS_SCALE)
