"""A policy in a loop of one's own acts as it does in the evaluator's."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtmarl
from mtmarl.algos import ALGOS, make_algorithm, parse_algorithm
from mtmarl.config import compose
from mtmarl.envs import entities
from mtmarl.envs.layout import Layout
from mtmarl.errors import UserError
from mtmarl.export import export_policy, main
from mtmarl.runs.policy import Policy
from mtmarl.types import Dims, Observation, example_batch

TASKS = ("lbf/5x5-2p-1f-t20", "lbf/6x6-3p-1f-t20")


def make_policy(name, agent_ids="none"):
    """A policy with random parameters for two small tasks."""
    small = ["algo.network.embed_dim=16", "algo.network.heads=2"]
    cfg = compose([f"+algo={name}", f"+tasks={','.join(TASKS)}", *small], "train")
    spec, settings = parse_algorithm(cfg, ALGOS)
    specs = [mtmarl.make_env(t).spec for t in TASKS]
    layout = Layout.of(specs, agent_ids, 5, spec.task_features, spec.shuffles_slots)
    dims = Dims(3, layout.obs, layout.actions, 20, 2, entities.of_layout(layout), layout.task_features)
    algo = make_algorithm(spec, settings, dims, 10, (-1.0, 1.0))
    params = algo.init(jax.random.key(0), example_batch(dims)).params
    return Policy(params, algo.act, algo.init_carry, dims, layout, cfg, {})


@pytest.fixture(scope="module")
def policy():
    return make_policy("mt_bc_sable")


def observations(task, steps=4):
    env = mtmarl.make_env(task)
    state, step = env.reset(jax.random.key(0))
    for t in range(steps):
        yield np.asarray(step.obs), np.asarray(step.action_mask)
        state, step = jax.jit(env.step)(state, step.action_mask.argmax(-1), jax.random.key(t))


@pytest.mark.parametrize("name", ["bc_t", "madt"])
def test_acts_as_the_policy_does_inside_a_rollout(name):
    policy = make_policy(name)
    agent, carry = policy.agent(TASKS[1]), policy.init_carry(1, 3)
    for obs, mask in observations(TASKS[1]):
        action = agent.act(obs, mask)
        assert action.shape == (3,) and np.take_along_axis(mask, action[:, None], 1).all()
        seen = jax.tree.map(
            jnp.asarray, Observation(obs[None], mask[None], np.ones((1, 3), bool), np.zeros(1, np.float32))
        )
        carry, expected, _ = policy.act(policy.params, carry, seen, jax.random.key(0), 0.0)
        np.testing.assert_array_equal(action, expected[0])


def test_equal_seeds_act_alike_and_a_new_episode_begins_without_memory(policy):
    run = lambda agent: [agent.act(*x).tolist() for x in observations(TASKS[0])]
    one, other = (policy.agent(TASKS[0], sample_probability=1.0, seed=3) for _ in range(2))
    first = run(one)
    assert run(other) == first
    one.reset(), other.reset()
    assert run(one) == run(other) != first
    greedy = policy.agent(TASKS[0])
    again = run(greedy)
    greedy.reset()
    assert len(again) == 4 and repr(greedy) == f"Agent(2 agents as in {TASKS[0]}, step 0)"


def test_a_team_size_that_was_never_trained(policy):
    agent = policy.agent(TASKS[0], team=5)
    action = agent.act(np.zeros((5, agent.spec.obs)))
    assert action.shape == (5,)


def test_a_policy_prints_as_one_line(policy):
    assert "\n" not in repr(policy) and "mt_bc_sable" in repr(policy) and "parameters" in repr(policy)


@pytest.mark.parametrize(
    ("obs", "mask", "message"),
    [
        (np.zeros((3, 36)), None, r"obs has shape \(3, 36\), expected \(2, 36\)"),
        (np.full((2, 36), np.nan), None, r"obs\[0, 0\] is nan"),
        (np.zeros((2, 36)), np.ones((2, 3)), "action_mask has shape"),
        (np.zeros((2, 36)), np.zeros((2, 6)), r"action_mask\[0\]: no action is legal"),
    ],
)
def test_wrong_input_is_one_line(policy, obs, mask, message):
    with pytest.raises(UserError, match=message):
        policy.agent(TASKS[0]).act(obs, mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "rware/tiny-2ag"}, "not of a family that the policy knows"),
        ({"team": 0}, "team must be at least 1"),
        ({"sample_probability": 2.0}, "sample_probability must lie in 0 … 1"),
    ],
)
def test_agents_that_cannot_be(policy, options, message):
    with pytest.raises(UserError, match=message):
        policy.agent(**{"task": TASKS[0], **options})


def test_an_exported_policy_acts_without_this_library(policy, tmp_path):
    """In another process, in which mtmarl cannot be imported."""
    export_policy(policy, [2, 4], tmp_path, TASKS[0])
    agent = policy.agent(TASKS[0])
    shown = list(observations(TASKS[0]))
    expected = [agent.act(*x).tolist() for x in shown]
    np.savez(tmp_path / "shown.npz", obs=[x for x, _ in shown], mask=[m for _, m in shown])
    code = (
        "import sys; sys.modules['mtmarl'] = None\n"
        "import numpy as np, loader\n"
        "shown, agent = np.load('shown.npz'), loader.load('.', team=2)\n"
        "print([agent.act(*x).tolist() for x in zip(shown['obs'], shown['mask'])])\n"
        "print(loader.load('.', team=4).act(np.zeros((4, 36))).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [str(expected), "(4,)"], done.stderr
    assert "import mtmarl" not in (tmp_path / "loader.py").read_text()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run=x"], "teams=, out= missing"),
        (["run=x", "teams=a", "out=y"], "teams=a: expected numbers of agents"),
        (["what=1"], "what=1: no such option"),
        (["run=nowhere", "teams=2", "out=y"], "nowhere: no run.json here"),
    ],
)
def test_wrong_options_of_export_are_one_line(argv, message, capsys):
    assert main(argv) == 2
    assert message in capsys.readouterr().err
