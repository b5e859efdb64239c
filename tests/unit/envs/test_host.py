"""Simulators on the host: pure by their seeds and actions, one host call a step, failures in their own words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos.base import no_carry, random_act
from mtmarl.envs.host import from_pettingzoo
from mtmarl.envs.simulators import Simulators
from mtmarl.errors import SimulatorError, UserError
from mtmarl.training.rollout import rollout, start

HORIZON = 6


class Discrete:
    start = 0

    def __init__(self, n):
        self.n = n


class Box:
    def __init__(self, width):
        self.shape = (width,)


class Walk:
    """Two agents on a line, of different observation widths and actions; the second leaves when it reaches 3.

    `fault`: what goes wrong at the second step.
    """

    possible_agents = ("a", "b")

    def __init__(self, fault=None):
        self.fault = fault

    def close(self):
        pass

    def observation_space(self, agent):
        return Box(2 if agent == "a" else 3)

    def action_space(self, agent):
        return Discrete(2 if agent == "a" else 3)

    def reset(self, seed):
        self.rng = np.random.default_rng(seed)
        self.at = {agent: int(self.rng.integers(0, 2)) for agent in self.possible_agents}
        self.agents, self.steps = list(self.possible_agents), 0
        return self.seen(), {agent: {} for agent in self.agents}

    def seen(self):
        return {a: np.asarray([self.at[a], self.steps, 7.0][: 2 if a == "a" else 3]) for a in self.agents}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.steps += 1
        if self.steps == 2 and self.fault == "raise":
            raise RuntimeError("the motor is hot")
        for agent, action in actions.items():
            self.at[agent] += action
        reward = {agent: float(self.at[agent]) + self.rng.normal() for agent in self.agents}
        if self.steps == 2 and self.fault == "reward":
            reward["a"] = float("nan")
        seen = self.seen()
        if self.steps == 2 and self.fault == "shape":
            seen["a"] = np.zeros(5)
        if self.steps == 2 and self.fault == "nan":
            seen["a"] = np.asarray([0.0, np.nan])
        over = {a: self.at[a] >= 3 for a in self.agents}
        infos = {
            a: {"action_mask": np.asarray([1, 1, self.at[a] < 2][: 2 if a == "a" else 3])}
            for a in self.agents
        }
        self.agents = [a for a in self.agents if not over[a]]
        return seen, reward, over, {a: False for a in over}, infos


def walk(**options):
    return from_pettingzoo(Walk, "walk/2a", HORIZON, **options)


def play(env, rows, steps, pool=4, seed=0):
    run = jax.jit(lambda state, key: rollout(env, random_act, no_carry, (), state, key, steps, 1.0, pool))
    return run(start(env, no_carry, rows, jax.random.key(seed)), jax.random.key(seed + 1))


def test_sizes_come_from_the_spaces():
    spec = walk().spec
    assert (spec.agents, spec.obs, spec.actions, spec.horizon) == (2, 3, 3, HORIZON)


def test_an_episode_is_what_the_bare_simulator_does():
    env, bare = walk(team_reward="sum"), Walk()
    state, shown = env.reset(jax.random.key(3))
    seen, _ = bare.reset(int(state.seed))
    step = jax.jit(env.step)
    for t in range(HORIZON):
        for i, agent in enumerate(bare.possible_agents):
            expected = np.zeros(3)
            if agent in seen:
                expected[: len(seen[agent])] = seen[agent]
            np.testing.assert_array_equal(shown.obs[i], expected)
        action = jnp.asarray([t % 2, 1])
        state, shown = step(state, action, jax.random.key(0))
        chosen = {a: int(action[i]) for i, a in enumerate(bare.possible_agents) if a in bare.agents}
        seen, rewards, *_ = bare.step(chosen)
        np.testing.assert_allclose(shown.reward, sum(rewards.values()), rtol=1e-6)
        assert bool(shown.truncated) == (bool(bare.agents) and t + 1 == HORIZON)
        assert bool(shown.terminated) == (not bare.agents)
        if not bare.agents:
            break
    assert env.simulators.replayed == 0


def test_equal_states_give_equal_steps_in_copies_and_in_another_process_of_simulators():
    env, other = walk(), walk()
    state, _ = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 4))
    action = jnp.asarray([[1, 0], [0, 1], [1, 1], [0, 2]])
    keys = jax.random.split(jax.random.key(1), 4)
    step, elsewhere = jax.vmap(env.step), jax.vmap(other.step)
    after, first = step(state, action, keys)
    _, again = step(state, action, keys)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert env.simulators.replayed == 4, "the copies have gone on; these are played again"
    # Two different futures of one state, and a state that another cache has never seen.
    _, one = step(after, action, keys)
    _, two = elsewhere(after, action, keys)
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert other.simulators.replayed == 4


def test_one_host_call_a_step_whatever_the_batch(monkeypatch):
    calls = []
    for name in ("reset", "step"):
        own = getattr(Simulators, name)
        monkeypatch.setattr(
            Simulators, name, lambda self, *x, own=own, name=name: (calls.append(name), own(self, *x))[1]
        )
    env = walk()
    jax.block_until_ready(play(env, 5, 40, pool=0))
    assert (calls.count("reset"), calls.count("step")) == (1, 40)
    assert env.simulators.replayed == 0


def test_equal_seeds_give_equal_rollouts_with_and_without_workers():
    one, two = (jax.device_get(play(env, 5, 20)[1]) for env in (walk(), walk(workers=2)))
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_an_agent_that_has_left_may_do_nothing_and_sees_zeros():
    _, seen = jax.device_get(play(walk(), 8, 40))
    left = (seen.obs == 0).all(-1) & ~seen.first[..., None]
    assert left.any()
    assert (seen.action_mask[left] == [True, False, False]).all()


def test_a_batch_larger_than_the_cache_plays_nothing_again():
    env = walk()
    env.simulators.most = 2
    play(env, 9, 12, pool=0)
    assert env.simulators.replayed == 0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", "walk/2a: its step failed: RuntimeError: the motor is hot"),
        ("reward", "walk/2a: a reward is nan"),
        ("shape", "walk/2a: a sees 5 numbers, and its space says 2"),
        ("nan", r"walk/2a: a: observation \[1\] is nan"),
    ],
)
def test_a_failing_simulator_ends_the_run_in_its_own_words(fault, message):
    env = from_pettingzoo(lambda: Walk(fault), "walk/2a", HORIZON)
    with pytest.raises(jax.errors.JaxRuntimeError, match=message) as caught:
        jax.block_until_ready(play(env, 2, 4))
    assert SimulatorError.__name__ in str(caught.value)


class Continuous(Walk):
    def action_space(self, agent):
        return Box(2)


def broken():
    raise OSError("no licence")


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Continuous, {}, "the action of a is .*; only Discrete"),
        (broken, {}, "walk/2a: cannot be made: OSError: no licence"),
        (Walk, {"horizon": 0}, "horizon must be at least 1"),
        (Walk, {"workers": -1}, "workers must be at least 0"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(make, options, message):
    with pytest.raises(UserError, match=message):
        from_pettingzoo(make, "walk/2a", **{"horizon": HORIZON, **options})


@pytest.mark.parametrize("agents", [3, 5])
def test_simple_spread_is_played_as_it_is(agents):
    from mpe2 import simple_spread_v3

    make = lambda: simple_spread_v3.parallel_env(N=agents, max_cycles=4, continuous_actions=False)
    env, bare = from_pettingzoo(make, f"mpe/spread-{agents}", 4), make()
    assert (env.spec.agents, env.spec.obs, env.spec.actions) == (agents, 6 * agents, 5)
    state, shown = env.reset(jax.random.key(0))
    seen, _ = bare.reset(seed=int(state.seed))
    for t in range(4):
        np.testing.assert_allclose(shown.obs, np.stack([seen[a] for a in bare.possible_agents]), rtol=1e-6)
        action = jnp.arange(agents) % 5
        state, shown = env.step(state, action, jax.random.key(0))
        seen, rewards, *_ = bare.step({a: int(x) for a, x in zip(bare.agents, action, strict=True)})
        np.testing.assert_allclose(shown.reward, np.mean(list(rewards.values())), rtol=1e-6)
        assert (bool(shown.terminated), bool(shown.truncated)) == (False, t == 3)
    assert env.simulators.replayed == 0
