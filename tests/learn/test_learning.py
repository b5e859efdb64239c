"""The whole path learns: online Sable solves a small task, MT Oryx imitates and weighs what it recorded."""

import numpy as np
import pytest

import mtmarl
from mtmarl import collect, train

pytestmark = pytest.mark.slow
TASK = "lbf/6x6-2p-1f-coop-t50"


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    root = tmp_path_factory.mktemp("learn")
    options = [
        "+algo=sable", f"+tasks={TASK}", f"data.vault_dir={root / 'vaults'}", f"run_dir={root / 'online'}",
        "algo.network.embed_dim=32", "collect.env_steps=160000", "collect.evaluations=4", "collect.record_points=4",
        "collect.record_episodes=64", "quiet=true",
    ]  # fmt: skip
    assert collect.main(options) == 0
    return root


def test_online_sable_solves_the_task(collected):
    returns = mtmarl.read_vault(collected / f"vaults/{TASK}.vlt/replay").metadata["returns"]
    assert returns["random"] < 0.3 and returns["reference"] > 0.95


def test_offline_training_reaches_the_best_of_its_data(collected):
    """The data hold everything from clumsy to expert; plain copying would score their mean."""
    options = [
        "+algo=mt_oryx", f"+tasks={TASK}", f"data.vault_dir={collected / 'vaults'}",
        f"run_dir={collected / 'offline'}", "algo.network.embed_dim=64", "trainer.updates=600", "trainer.chunk=50",
        "trainer.checkpoint_every=300", "evaluator.every=300", "evaluator.final_episodes=160", "quiet=true",
    ]  # fmt: skip
    assert train.main(options) == 0
    policy = mtmarl.load_policy(collected / "offline", "last")
    result = mtmarl.evaluate_policy(policy, TASK, episodes=160)[TASK]
    assert np.mean(result.episode_return) > 0.9
