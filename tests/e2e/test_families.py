"""One policy for tasks of several families."""

import json

import jax
import numpy as np
import pytest

import mtmarl
from mtmarl import build, config, train
from mtmarl.algos.base import no_carry, random_act
from mtmarl.data import recording, vault
from mtmarl.envs.registry import make_env
from tests.e2e.test_train import SMALL

TASKS = ("lbf/5x5-2p-1f-t20", "connector/con-3x3x2a")


@pytest.fixture(scope="module")
def vaults(micro_vaults, tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    vault.write_reference(root, TASKS[0], {"reference": 0.5, "random": 0.1})
    (root / "lbf").symlink_to(micro_vaults / "lbf")
    env = make_env(TASKS[1])
    part = recording.cut(
        recording.make_recorder(env, random_act, no_carry, 32)((), jax.random.key(0)), 0, env.obs_scale
    )
    metadata = {"task": TASKS[1], "horizon": env.spec.horizon, "obs_scale": env.obs_scale.tolist()}
    vault.write_vault(vault.vault_path(root, TASKS[1], "replay"), part, metadata)
    return root


def arguments(vaults, run_dir):
    return [
        *SMALL, f"tasks.train=[{','.join(TASKS)}]", "tasks.test=[connector/con-4x4x3a]", "+tasks=micro",
        f"data.vault_dir={vaults}", f"run_dir={run_dir}", "data.agent_ids=random",
    ]  # fmt: skip


def test_returns_of_families_are_made_equal_before_they_share_a_support(vaults, tmp_path):
    job = build.prepare(config.compose(arguments(vaults, tmp_path), "train"))
    low, high = job.value_range
    assert -1.3 < low <= 0 <= high < 1.3 and max(-low, high) > 1
    rewards = np.asarray(job.source.data.reward)
    assert np.abs(rewards).max() <= 1 + 1e-6


def test_train_load_and_play(vaults, tmp_path):
    assert train.main(arguments(vaults, tmp_path)) == 0
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["layout"]["families"] == ["lbf", "connector"]
    policy = mtmarl.load_policy(tmp_path)
    results = mtmarl.evaluate_policy(policy, ["lbf/6x6-3p-1f-t10", "connector/con-3x3x2a"], episodes=4)
    assert all(r.episode_return.shape == (4,) for r in results.values())
