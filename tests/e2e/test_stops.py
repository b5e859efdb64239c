"""Whole commands that get a signal: what they leave, say and answer; and what becomes of them."""

import json
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import mtmarl

TRAIN = [
    "train", "+algo=bc_t", "algo.network.embed_dim=16", "algo.network.heads=2", "trainer.updates=1000",
    "trainer.chunk=2", "trainer.checkpoint_every=1000", "trainer.batch_size=8", "trainer.context=5",
    "evaluator.every=200", "evaluator.episodes=4", "evaluator.final_episodes=4", "quiet=true",
]  # fmt: skip
COLLECT = [
    "collect", "+algo=sable", "+tasks=lbf/5x5-2p-1f-t20", "algo.network.embed_dim=16", "algo.network.heads=2",
    "collect.env_steps=12800", "collect.num_envs=8", "collect.rollout_length=8", "collect.evaluations=2",
    "collect.record_points=2", "collect.eval_episodes=4", "collect.record_episodes=4",
    "evaluator.final_episodes=4", "quiet=true",
]  # fmt: skip


def command(options, run_dir, vaults):
    return [
        sys.executable, "-W", "ignore", "-m", f"mtmarl.{options[0]}", *options[1:], f"run_dir={run_dir}",
        f"data.vault_dir={vaults}",
    ]  # fmt: skip


def stop(options, run_dir, signum):
    """Sends a signal after some chunks; (exit code, standard error)."""
    metrics = run_dir / "metrics.jsonl"
    with subprocess.Popen(options, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while process.poll() is None and not (metrics.exists() and metrics.read_text().count("loss") > 3):
            time.sleep(0.01)
        process.send_signal(signum)
        return process.wait(120), process.stderr.read()


def saved(run_dir):
    return max((int(f.name) for f in (run_dir / "checkpoints").iterdir() if f.name.isdigit()), default=None)


def test_a_signal_in_the_middle_of_training_saves(micro_vaults, tmp_path):
    run_dir = tmp_path / "run"
    code, error = stop([*command(TRAIN, run_dir, micro_vaults), "+tasks=micro"], run_dir, signal.SIGTERM)
    at = saved(run_dir)
    assert code == 143 and at is not None and 0 < at < 1000
    assert error.splitlines()[-1] == (
        f"stopped; after update {at:,}, saved in {run_dir}; the same command goes on from its last checkpoint"
    )
    assert "Traceback" not in error and not (run_dir / "final.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(micro_vaults, tmp_path, signum):
    run_dir, whole = tmp_path / "run", tmp_path / "whole"
    options = [*command(TRAIN, run_dir, micro_vaults), "+tasks=micro"]
    code, error = stop(options, run_dir, signum)
    assert code == 128 + signum and saved(run_dir) is not None and "Traceback" not in error
    done = subprocess.run(options, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    options = [*command(TRAIN, whole, micro_vaults), "+tasks=micro"]
    subprocess.run(options, capture_output=True, check=True)
    last = [mtmarl.load_policy(path, "last").params for path in (run_dir, whole)]
    jax.tree.map(np.testing.assert_array_equal, *last)
    final = [json.loads((path / "final.json").read_text()) for path in (run_dir, whole)]
    assert final[0] == final[1]


@pytest.mark.slow
def test_a_collection_that_was_stopped_ends_as_if_it_had_not_been(tmp_path):
    from mtmarl.data.vault import identity

    run_dir, whole = tmp_path / "run", tmp_path / "whole"
    options = command(COLLECT, run_dir, tmp_path / "vaults")
    code, error = stop(options, run_dir, signal.SIGTERM)
    assert code == 143 and f"saved in {run_dir}" in error and "Traceback" not in error
    done = subprocess.run(options, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "goes on from update" in done.stdout, done.stderr
    subprocess.run(command(COLLECT, whole, whole / "vaults"), capture_output=True, check=True)
    vault = "lbf/5x5-2p-1f-t20.vlt/replay"
    assert identity(tmp_path / "vaults" / vault) == identity(whole / "vaults" / vault)
