"""Tasks of several families, told tasks and numbered agents in one layout."""

import json
from dataclasses import asdict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.data.sampling import gather_windows, make_task_data
from mtmarl.data.vault import Vault
from mtmarl.envs.entities import of_layout
from mtmarl.envs.layout import FEATURE_STEP, Layout, TaskScale, task_feature_names
from mtmarl.envs.lbf import FIELDS
from mtmarl.envs.registry import make_env
from mtmarl.errors import UserError
from mtmarl.training.rollout import observe
from mtmarl.types import Dims
from tests.extras import needs_jaxmarl
from tests.unit.data.recordings import make_recording

LBF, CONNECTOR = "lbf/5x5-2p-1f-t8", "connector/con-3x3x2a"


def layout_of(*names, **options):
    return Layout.of([make_env(n).spec for n in names], **options)


def test_one_family_without_numbers_is_left_as_it_is():
    env = make_env(LBF)
    assert layout_of(LBF, "lbf/6x6-3p-2f").wrap(env) is env


def test_families_are_padded_and_marked():
    layout = layout_of(CONNECTOR, LBF)
    assert (layout.features, layout.known, layout.obs, layout.actions) == (54, 56, 56, 6)
    for name, mark in ((CONNECTOR, [1, 0]), (LBF, [0, 1])):
        raw, env = make_env(name), layout.wrap(make_env(name))
        np.testing.assert_array_equal(layout.constant(raw.spec), mark)
        state, step = env.reset(jax.random.key(0))
        own_state, own = raw.reset(jax.random.key(0))
        for _ in range(3):
            agents, width = own.obs.shape
            np.testing.assert_array_equal(step.obs[:, :width], own.obs)
            assert not step.obs[:, width:54].any()
            np.testing.assert_array_equal(step.obs[:, 54:], [mark] * agents)
            np.testing.assert_array_equal(step.action_mask[:, : own.action_mask.shape[1]], own.action_mask)
            assert not step.action_mask[:, own.action_mask.shape[1] :].any()
            assert (step.reward, step.terminated, step.truncated) == (
                own.reward,
                own.terminated,
                own.truncated,
            )
            action = own.action_mask.argmax(-1)
            state, step = env.step(state, action, jax.random.key(1))
            own_state, own = raw.step(own_state, action, jax.random.key(1))
        assert env.spec.obs == env.obs_scale.size == 56
        np.testing.assert_array_equal(env.obs_scale[: raw.obs_scale.size], raw.obs_scale)


@pytest.mark.parametrize("kind", ["fixed", "random"])
def test_numbers_last_for_an_episode(kind):
    env = layout_of(LBF, agent_ids=kind, ids=5).wrap(make_env(LBF))
    seen = []
    for seed in range(8):
        state, step = env.reset(jax.random.key(seed))
        numbers = np.asarray(step.obs[:, -5:])
        np.testing.assert_array_equal(numbers.sum(1), 1)
        assert numbers.argmax(1)[0] != numbers.argmax(1)[1]
        _, after = env.step(state, jnp.zeros(2, jnp.int32), jax.random.key(0))
        np.testing.assert_array_equal(after.obs[:, -5:], numbers)
        seen.append(tuple(numbers.argmax(1)))
    assert (len(set(seen)) == 1) == (kind == "fixed")


def test_random_numbers_do_not_follow_from_where_agents_start():
    """An agent that starts at the left end of the first row has each of four numbers one time in four."""
    env = layout_of(LBF, agent_ids="random", ids=4).wrap(make_env(LBF))
    obs = jax.jit(jax.vmap(lambda key: env.reset(key)[1].obs))(jax.random.split(jax.random.key(0), 8192))
    number = np.asarray(obs[..., -4:]).argmax(-1)
    row, column = (FIELDS.index(f"self: {name} / 16") for name in ("row", "column"))
    own = np.asarray(obs * env.obs_scale)
    corner = (own[..., row] == own[..., row].min()) & (own[..., column] == own[..., column].min())
    shares = np.bincount(number[corner], minlength=4) / corner.sum()
    assert corner.sum() > 300
    np.testing.assert_allclose(shares, 0.25, atol=0.1)


def test_start_states_do_not_depend_on_the_layout():
    """All methods are scored from the same ones."""
    key = jax.random.key(3)
    _, own = make_env(LBF).reset(key)
    _, step = layout_of(LBF, CONNECTOR, agent_ids="random", ids=4).wrap(make_env(LBF)).reset(key)
    np.testing.assert_array_equal(step.obs[:, : own.obs.shape[1]], own.obs)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="connector/con-3x3x2a: not of a family that the policy knows"):
        layout_of(LBF).wrap(make_env(CONNECTOR))
    with pytest.raises(UserError, match="3 agents, and the policy has numbers for 2"):
        layout_of(LBF, agent_ids="fixed", ids=2).wrap(make_env("lbf/6x6-3p-1f"))


SEVERAL = ("lbf/5x5-2p-1f-t8", "lbf/6x6-3p-2f-t20", "lbf/8x8-4p-3f-coop-l3-t50")
UNSEEN = "lbf/8x8-5p-6f-t60"


def told(spec, scale):
    """Standardised features by name."""
    return dict(zip(scale.names, scale.standardise(spec) * FEATURE_STEP, strict=True))


def test_features_are_standardised_by_the_training_tasks():
    specs = [make_env(n).spec for n in SEVERAL]
    scale = TaskScale.of(specs)
    columns = np.asarray([list(told(s, scale).values()) for s in specs])
    varies = columns.any(0)
    np.testing.assert_allclose(columns[:, varies].mean(0), 0, atol=FEATURE_STEP)
    np.testing.assert_allclose(columns[:, varies].std(0), 1, atol=2 * FEATURE_STEP)
    agents = np.asarray([2, 3, 4])
    np.testing.assert_allclose(
        [told(s, scale)["agents"] for s in specs], (agents - 3) / agents.std(), atol=FEATURE_STEP
    )
    assert {n for n, v in zip(task_feature_names(), varies, strict=True) if v} == {
        "agents", "horizon", "height", "width", "objects", "sight", "level", "cooperation",
    }  # fmt: skip


def test_features_of_unseen_tasks_lie_near_those_of_training_tasks():
    """By the same scale; what training tasks agree on says nothing, and nothing is told beyond four spreads."""
    specs = [make_env(n).spec for n in SEVERAL]
    seen = told(make_env(UNSEEN).spec, TaskScale.of(specs))
    assert seen["agents"] == pytest.approx(2 / np.std([2, 3, 4]), abs=FEATURE_STEP)
    assert seen["objects"] == pytest.approx(127 * FEATURE_STEP), "4.9 spreads from the mean"
    assert not any(told(make_env(UNSEEN).spec, TaskScale.of(specs[:1])).values()), (
        "one task varies in nothing"
    )


@pytest.mark.parametrize(
    "name", [LBF, CONNECTOR, "rware/tiny-2ag", pytest.param("smax/2s3z_vs_3m", marks=needs_jaxmarl)]
)
def test_every_family_describes_its_tasks_by_the_common_names(name):
    spec = make_env(name).spec
    assert set(spec.task_features) <= set(task_feature_names())
    assert all(np.isfinite(v) and v >= 0 for v in spec.task_features.values())
    if spec.family == "smax":
        found = {k: v for k, v in spec.task_features.items() if v and ":" in k}
        assert found == {"allies: stalker": 2, "allies: zealot": 3, "enemies: marine": 3}


def test_live_observations_and_vaults_tell_the_task_alike():
    """And agent numbers come last, and entities are told neither task nor family."""
    envs = [make_env(n) for n in SEVERAL]
    layout = Layout.of([e.spec for e in envs], "fixed", 6, task_features=True)
    assert layout.task_features == (36, 36 + len(task_feature_names())) and layout.obs == layout.known + 6
    vaults = []
    for env in envs:
        recording = make_recording(0, 20, env.spec.agents, 36, env.spec.actions)
        vaults.append(Vault(recording, {"obs_scale": env.obs_scale}))
    dims = Dims(4, layout.known, layout.actions, 50, len(envs))
    data = make_task_data(vaults, dims, [layout.constant(e.spec) for e in envs], layout.constant_scale)
    batch = gather_windows(data, jnp.arange(3), jnp.zeros(3, jnp.int32), 5)
    where = slice(*layout.task_features)
    for k, raw in enumerate(envs):
        env, n = layout.wrap(raw), raw.spec.agents
        np.testing.assert_allclose(env.obs_scale[where], FEATURE_STEP)
        live = jax.jit(env.reset)(jax.random.key(0))[1]
        stored = np.asarray(batch.obs[k, :, :n, where])
        np.testing.assert_array_equal(stored, np.broadcast_to(live.obs[:, where], stored.shape))
        assert stored.any() and not batch.obs[k, :, n:, where].any(), "padded agents are told nothing"
        np.testing.assert_array_equal(live.obs[:, layout.known :], np.eye(6)[:n])
        as_integers = np.asarray(live.obs / env.obs_scale)
        np.testing.assert_allclose(as_integers, np.round(as_integers), atol=1e-4)
        split = of_layout(layout)
        assert split is not None
        own = split.observe(observe(live)).own
        np.testing.assert_array_equal(own[:, -6:], np.eye(6)[:n])
        assert own.shape[1] == 3 + 6


def test_a_layout_survives_its_record():
    specs = [make_env(n).spec for n in SEVERAL]
    for layout in (Layout.of(specs, "random", 5, task_features=True), Layout.of(specs)):
        again = Layout.from_record(json.loads(json.dumps(asdict(layout))))
        assert again == layout
        np.testing.assert_array_equal(again.constant(specs[1]), layout.constant(specs[1]))
    before = {"families": ["lbf"], "features": 36, "actions": 6, "ids": 0, "random_ids": False}
    assert Layout.from_record(before) == Layout.of(specs), "records from before tasks could be told"
