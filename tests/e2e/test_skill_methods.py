"""Skill methods and QMIX through the command lines, on tiny tasks."""

import json

import jax
import numpy as np
import pytest

import mtmarl
from mtmarl import build, collect, config, train
from mtmarl.training.checkpoint import Checkpoints
from mtmarl.training.collection import single_policies

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
    never_won = [entry(0, 0.1, 0.0), entry(5, 0.5, 0.0), entry(10, 0.9, 0.0), entry(15, 0.8, 0.0)]
    assert single_policies(never_won) == {"expert": 10, "medium": 5}


HYBRID = [
    "+algo=hygen", "+tasks=micro", *SMALL, "trainer.updates=10", "trainer.chunk=2", "trainer.checkpoint_every=2",
    "trainer.batch_size=4", "trainer.context=4", "evaluator.every=10", "evaluator.episodes=2",
    "evaluator.final_episodes=4", "collect.num_envs=3", "collect.rollout_length=5", "algo.skill_fraction=0.2",
    "algo.capacity=60", "algo.decay_fraction=0.5",
]  # fmt: skip


def test_hybrid_batches_are_as_wide_as_those_of_the_vaults(micro_vaults):
    """As the composition root wires them, with numbered agents; nothing is compiled."""
    numbered = [*HYBRID, "data.agent_ids=random", f"data.vault_dir={micro_vaults}"]
    job = build.prepare(config.compose(numbered, "train"))
    assert [phase.source for phase in job.algo.phases] == ["default", "hybrid"]
    params = jax.eval_shape(job.algo.init, jax.random.key(0), job.example).params

    def batch_of(name):
        source = job.sources[name]
        draw = lambda data, params, key: source.next(source.init(key), data, None, params, key)[1]
        return jax.eval_shape(draw, source.data, params, jax.random.key(0))

    plain, mixed = batch_of("default"), batch_of("hybrid")
    assert plain._replace(return_to_go=None) == mixed._replace(extras={})
    assert mixed.obs.shape == (4, 4, 3, job.dims.obs) and set(mixed.extras) == {
        "share",
        "recorded",
        "episodes",
    }
    assert job.counts(10) == {"task_batches": 20, "env_steps": 8 * 2 * 3 * 5}


@pytest.mark.slow
def test_hybrid_training_goes_on_as_if_it_had_not_been_stopped(micro_vaults, tmp_path, monkeypatch):
    """Its second phase begins with vaults alone, plays in both tasks, and what was played survives a stop."""
    options = [*HYBRID, f"data.vault_dir={micro_vaults}"]
    save = Checkpoints.save

    def die_after(self, update, state):
        save(self, update, state)
        if update == 6:
            raise KeyboardInterrupt

    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train.main([*options, f"run_dir={whole}"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", die_after)
        with pytest.raises(KeyboardInterrupt):
            train.main([*options, f"run_dir={halves}"])
    assert train.main([*options, f"run_dir={halves}"]) == 0
    params = lambda run_dir: mtmarl.load_policy(run_dir, "last").params
    jax.tree.map(np.testing.assert_array_equal, params(whole), params(halves))
    final, again = (json.loads((run / "final.json").read_text()) for run in (whole, halves))
    # Episodes are counted beside the checkpoints, and the stop fell in between.
    plain = lambda scores: {which: {**entry, "counts": None} for which, entry in scores.items()}
    assert plain(final) == plain(again)
    counts = final["last"]["counts"]
    assert (counts["task_batches"], counts["env_steps"]) == (20, 8 * 2 * 3 * 5) and counts["episodes"] >= 6
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    shares = [line["policy/share"] for line in lines if "policy/share" in line]
    # Means of two updates each: over the first four of eight the share falls from 1 to 0.1.
    np.testing.assert_allclose(shares, [0.8875, 0.4375, 0.1, 0.1], atol=1e-6)
