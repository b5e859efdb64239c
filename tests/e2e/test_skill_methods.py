"""Skill methods and QMIX through the command lines, on tiny tasks."""

import json

import numpy as np

import mtmarl
from mtmarl import collect, train
from mtmarl.collect import single_policies

SMALL = ["algo.network.embed_dim=8", "algo.network.heads=1", "quiet=true"]


def test_two_phases_train_load_and_play_with_other_teams(micro_vaults, tmp_path):
    options = [
        "+algo=odis", "+tasks=micro", *SMALL, "trainer.updates=8", "trainer.chunk=2", "trainer.checkpoint_every=4",
        "trainer.batch_size=4", "trainer.context=4", "evaluator.every=8", "evaluator.episodes=2",
        "evaluator.final_episodes=4", f"data.vault_dir={micro_vaults}", f"run_dir={tmp_path}",
    ]  # fmt: skip
    assert train.main(options) == 0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    named = lambda step: {k.partition("/")[0] for line in lines if line["step"] == step for k in line}
    phase = {step: named(step) & {"skills", "policy"} for step in (2, 4, 6, 8)}
    assert [phase[step] for step in (2, 4, 6, 8)] == [{"skills"}, {"policy"}, {"policy"}, {"policy"}]
    result = mtmarl.evaluate_policy(mtmarl.load_policy(tmp_path), "lbf/6x6-4p-1f-t8", episodes=4)
    assert result["lbf/6x6-4p-1f-t8"].episode_return.shape == (4,)


def test_qmix_records_vaults_of_all_its_training_and_of_single_policies(tmp_path):
    options = [
        "+algo=qmix", "+tasks=lbf/5x5-2p-1f-t20", *[s for s in SMALL if "heads" not in s], "algo.capacity=256",
        "algo.context=8", "algo.batch_size=4", "algo.gradient_steps=2", "collect.env_steps=512", "collect.num_envs=8",
        "collect.rollout_length=8", "collect.evaluations=2", "collect.record_points=2", "collect.eval_episodes=4",
        "collect.record_episodes=3", "collect.single_policies=true", f"run_dir={tmp_path / 'run'}",
        f"data.vault_dir={tmp_path / 'vaults'}",
    ]  # fmt: skip
    assert collect.main(options) == 0
    for quality, points in (("replay", 2), ("expert", 1), ("medium", 1)):
        vault = mtmarl.read_vault(tmp_path / "vaults/lbf/5x5-2p-1f-t20.vlt" / quality)
        assert vault.metadata["episodes"] == 6 and len(vault.metadata["record_points"]) == points
        assert vault.metadata["provenance"]["algorithm"] == "qmix"
        assert len(np.unique(vault.recording.policy_step)) == points


def test_the_medium_policy_is_half_as_good_as_the_best():
    entry = lambda update, score, rate=None: {"update": update, "return": score, "win_rate": rate}
    by_return = [entry(0, 1.0), entry(5, 1.4), entry(10, 2.1), entry(15, 3.0), entry(20, 2.9)]
    assert single_policies(by_return) == {"expert": 15, "medium": 10}
    by_wins = [
        entry(0, 0.1, 0.0),
        entry(5, 1.0, 0.2),
        entry(10, 0.9, 0.5),
        entry(15, 1.5, 0.9),
        entry(20, 1.6, 0.9),
    ]
    assert single_policies(by_wins) == {"expert": 20, "medium": 10}
