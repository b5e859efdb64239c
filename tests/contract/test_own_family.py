"""A family that exists only here: no entities, no objects, float observations, a task feature of its own."""

from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import EntryPoint

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtmarl
from mtmarl import collect, train
from mtmarl.algos import ALGOS
from mtmarl.algos.base import no_carry, random_act
from mtmarl.data import recording
from mtmarl.data.describe import observation_layout
from mtmarl.data.features import fits_int8
from mtmarl.envs import registry
from mtmarl.envs.api import Discrete
from mtmarl.envs.entities import of_layout
from mtmarl.envs.layout import Layout, task_feature_names
from mtmarl.envs.registry import get_family, make_env
from mtmarl.errors import UserError
from mtmarl.types import Dims, Slots, TaskSpec, TimeStep, example_batch
from tests.contract.test_algos import make, make_batch


@dataclass(frozen=True)
class Walk:
    """Agents walk on a line; the team is paid where they meet."""

    agents: int = 3
    width: int = 5

    @property
    def spec(self):
        features = {"line": self.width}
        return TaskSpec(f"walk/{self.agents}a", "walk", self.agents, 2, 3, 5, task_features=features)

    @property
    def obs_scale(self):
        return np.ones(2, np.float32)

    def reset(self, key):
        at = jax.random.randint(key, (self.agents,), 0, self.width)
        return (at, jnp.int32(0)), self._step(at, jnp.int32(0))

    def step(self, state, action, key):
        at, t = (state[0] + action - 1) % self.width, state[1] + 1
        return (at, t), self._step(at, t)

    def _step(self, at, t):
        obs = jnp.stack([at / 3, jnp.broadcast_to(at.mean(), at.shape)], -1).astype(jnp.float32)
        mask, no = jnp.ones((self.agents, 3), bool), jnp.zeros((), bool)
        return TimeStep(obs, mask, (at == at[0]).all().astype(jnp.float32), no, t >= 5)


def make_walk(scenario):
    return Walk(int(scenario.removesuffix("a")))


FAMILY = mtmarl.Family(
    "walk", make_walk, fields=("place / 3", "mean place"), task_features=("line",), package="numpy"
)


@pytest.fixture
def register(monkeypatch):
    """Registers families for one test."""
    monkeypatch.setattr(registry, "_registered", {})
    return mtmarl.register_family


@pytest.mark.parametrize("name", sorted(ALGOS))
def test_every_algorithm_acts_and_learns_on_it(name, register):
    """As far as shapes can tell: nothing is compiled."""
    register(FAMILY)
    spec = make_env("walk/3a").spec
    layout = Layout.of([spec], shuffle_slots=True, task_features=ALGOS[name].task_features)
    assert layout.slots == () and of_layout(layout) is None
    dims = Dims(3, layout.obs, 3, 5, entities=of_layout(layout, [spec]), task_features=layout.task_features)
    algo = make(name, dims)

    def play_and_learn():
        learner = algo.init(jax.random.key(0), example_batch(dims))
        batch = make_batch(algo, learner, dims)
        for phase in algo.phases:
            learner, _ = phase.update(learner, batch, jax.random.key(1))
        return learner.params

    assert jax.eval_shape(play_and_learn)


def test_it_is_trained_on_and_scored_from_its_name(register, tmp_path):
    """With observations as float32 in the vault, since they are no integers times a scale."""
    register(FAMILY)
    env = make_env("walk/3a")
    seen = recording.make_recorder(env, random_act, no_carry, 16)((), jax.random.key(0))
    own = recording.cut(seen, 0, env.obs_scale)
    assert own.obs.dtype == np.float32 and not fits_int8([env])
    end = np.append(own.first[1:], True)
    mtmarl.write_vault(
        tmp_path, "walk/3a", obs=own.obs, action=own.action, reward=own.reward, truncated=end, horizon=5
    )
    run = [
        "+algo=bc_t", "algo.network.embed_dim=8", "tasks.train=[walk/3a]", "tasks.test=[walk/4a]", "trainer.updates=2",
        "trainer.chunk=1", "trainer.checkpoint_every=2", "trainer.batch_size=4", "trainer.context=5", "sinks=[]",
        "evaluator.every=2", "evaluator.episodes=2", "evaluator.final_episodes=2", "quiet=true",
        f"data.vault_dir={tmp_path}", f"run_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    assert train.main(run) == 0
    scores = mtmarl.evaluate_policy(mtmarl.load_policy(tmp_path / "run"), "walk/5a", episodes=2)
    assert np.isfinite(scores["walk/5a"].episode_return).all()
    assert observation_layout({"task": "walk/3a", "obs_scale": [1.0, 1.0]}) == [
        ["place / 3", 1.0],
        ["mean place", 1.0],
    ]


def test_its_own_task_features_come_after_the_common_ones(register):
    register(FAMILY)
    specs = [Walk(3).spec, Walk(4, 9).spec]
    told = Layout.of(specs, task_features=True).tasks
    assert told.names == (*task_feature_names(), "line")
    values = [dict(zip(told.names, told.standardise(spec), strict=True)) for spec in specs]
    assert [v["line"] for v in values] == [v["agents"] for v in values] == [-32, 32]
    assert not any(v["objects"] for v in values)


def test_a_family_may_have_vaults_and_no_environment(register, tmp_path, capsys):
    register(mtmarl.Family("real", fields=("speed",)))
    obs = np.linspace(0, 1, 6, dtype=np.float32)[:, None, None]
    action, reward = np.zeros((6, 1), int), np.zeros(6)
    mtmarl.write_vault(
        tmp_path, "real/a", obs=obs, action=action, reward=reward, episode=np.zeros(6), horizon=6
    )
    assert observation_layout({"task": "real/a", "obs_scale": [1.0]}) == [["speed", 1.0]]
    for command, algo in ((train, "bc_t"), (collect, "qmix")):
        assert command.main([f"+algo={algo}", "tasks.train=[real/a]", f"run_dir={tmp_path / 'run'}"]) == 2
        said = capsys.readouterr().err.strip()
        assert "real/a: this family has vaults and no environment" in said and "\n" not in said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "lbf"}, "lbf is built in"),
        ({"name": "wal/k"}, "not a legal name"),
        ({"name": "run"}, "is named walk/3a; expected run/3a"),
        ({"actions": Discrete(4)}, "has 3 actions; expected 4"),
        ({"fields": ("place",)}, "has observations 2 wide; expected 1"),
        ({"obs_scale": np.full(2, 0.5, np.float32)}, "has another obs_scale"),
        ({"slots": (Slots(0, 3, 1),)}, "has slots outside its observation"),
        ({"make": lambda scenario: 3}, "make returned int"),
        ({"make": lambda scenario: Walk(3, np.nan)}, "has other task features; expected finite numbers"),
        ({"make": lambda scenario: import_module("no_such_package")}, "pip install numpy"),
    ],
)
def test_what_a_family_says_wrong_is_one_line(change, reason, register):
    with pytest.raises(UserError, match=reason) as error:
        make_env(f"{register(replace(FAMILY, **change)).name}/3a")
    assert "\n" not in str(error.value)


def test_other_actions_than_discrete_ones_are_refused(register):
    family = replace(FAMILY)
    object.__setattr__(family, "actions", "box")
    with pytest.raises(UserError, match="its actions are not discrete"):
        register(family)


def entry_point(monkeypatch, value, name="walk"):
    """As if a package with this entry point were installed."""
    point = EntryPoint(name, value, registry.ENTRY_POINTS)
    found = lambda group, **by: [point] if by.get("name", name) == name else []
    monkeypatch.setattr(registry, "entry_points", found)


def test_an_installed_package_brings_a_family(monkeypatch, register):
    entry_point(monkeypatch, f"{__name__}:FAMILY")
    assert "walk" in registry.families()
    assert make_env("walk/3a").spec.name == "walk/3a" and get_family("walk") is FAMILY


@pytest.mark.parametrize(
    ("value", "reason"),
    [("no_such_module:FAMILY", "cannot be loaded"), ("json:loads", "is no mtmarl.Family of that name")],
)
def test_a_broken_package_is_named_and_stops_no_other_family(monkeypatch, register, value, reason):
    entry_point(monkeypatch, value)
    with pytest.raises(UserError, match=reason):
        make_env("walk/3a")
    assert make_env("lbf/5x5-2p-1f").spec.family == "lbf"
