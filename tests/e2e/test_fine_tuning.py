"""From data to interaction through the command line: M3 pre-trained on two tasks, fine-tuned on one of them."""

import json

import pytest

import mtmarl
from mtmarl import train
from mtmarl.envs.layout import task_feature_names

TASK = "lbf/6x6-3p-1f-t20"
SMALL = ["algo.network.embed_dim=8", "algo.network.heads=1", "algo.network.depth=1", "quiet=true"]


@pytest.mark.slow
def test_fine_tuning_begins_where_pre_training_ended(micro_vaults, tmp_path):
    """The jump point is the score of the pre-trained policy, on a task that it is told as before."""
    shared = [*SMALL, "trainer.context=4", "evaluator.episodes=8", f"data.vault_dir={micro_vaults}"]
    first, second = tmp_path / "first", tmp_path / "second"
    pre_training = [
        "+algo=m3", "+tasks=micro", "tasks.test=[]", *shared, "trainer.updates=8", "trainer.chunk=2",
        "trainer.checkpoint_every=8", "trainer.batch_size=4", "evaluator.every=8", "evaluator.final_episodes=8",
        "algo.codes=8", f"run_dir={first}",
    ]  # fmt: skip
    assert train.main(pre_training) == 0
    fine_tuning = [
        "+algo=m3_finetune", f"+tasks={TASK}", *shared, "trainer.updates=2", "trainer.chunk=1",
        "trainer.checkpoint_every=2", "evaluator.every=1", "evaluator.final_episodes=8", "collect.num_envs=4",
        "collect.rollout_length=8", "algo.epochs=2", "algo.critic.embed_dim=8", "algo.critic_warmup=1",
        f"init_from={first}", "which=last", f"run_dir={second}",
    ]  # fmt: skip
    assert train.main(fine_tuning) == 0

    records = [json.loads((run / "run.json").read_text()) for run in (first, second)]
    assert records[0]["layout"]["tasks"]["names"] == list(task_feature_names())
    assert records[1]["layout"] == records[0]["layout"], "one task alone would be told as all zeros"
    lines = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    phases = [
        {k.partition("/")[0] for line in lines if line.get("step") == step for k in line} for step in (1, 2)
    ]
    assert "critic" in phases[0] and "ppo" in phases[1]
    assert any("ppo/awac_loss" in line for line in lines)
    jump = next(
        v for line in lines if line.get("step") == 0 for k, v in line.items() if k.endswith("/return")
    )
    before = mtmarl.evaluate_policy(mtmarl.load_policy(first, "last"), TASK, episodes=8)
    assert jump == pytest.approx(before[TASK].mean)
    assert mtmarl.load_policy(second).dims.task_features == tuple(
        mtmarl.load_policy(first).dims.task_features
    )
