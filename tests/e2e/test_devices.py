"""Neither the number of devices nor that of processes changes what is learned."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import mtmarl
from mtmarl import train
from tests.e2e.test_train import arguments

ROOT = Path(__file__).parents[2]

TRAIN = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from mtmarl.training import loop, sharding
from mtmarl.algos import mt_oryx
from mtmarl.data import sampling, vault
from mtmarl.data.source import vault_source
from mtmarl.networks import sable
from mtmarl.types import Dims, example_batch

dims = Dims(agents=3, obs=36, actions=6, horizon=20, tasks=2)
config = mt_oryx.Config(1e-4, 10.0, 0.9, 0.1, 1.0, 0.5, 1.0, "task", True, 11, 0.75, sable.Config(16, 2, 1, 0.5))
algo = mt_oryx.make(config, dims, (-1.0, 1.0))
vaults = [vault.read_vault(p) for p in vault.list_vaults(sys.argv[1]).values()]
source = vault_source(sampling.make_task_data(vaults, dims), batch_size=8, context=5)
plan = loop.Plan(0, 3, 1, 3)
for case in sys.argv[3:]:
    count, limit = map(int, case.split(":"))
    mesh = sharding.make_mesh(count)
    if limit:
        sharding.place_data.__defaults__ = (limit,)
        placed = sharding.place_data(source.data, mesh)
        assert len({str(s.index) for s in placed.obs.addressable_shards}) == count, "steps are not split"
        assert placed.length.is_fully_replicated
    state = loop.initial_state(algo, source, example_batch(dims), 0, mesh)
    state = loop.train(algo, {"default": source}, plan, state, mesh=mesh)
    assert len(jax.tree.leaves(state.learner.params)[0].devices()) == count
    np.savez(f"{sys.argv[2]}/{count}-{limit}.npz", *jax.tree.leaves(state.learner.params))
"""


def run(script, *arguments, **environment):
    """A process of its own: the number of devices is fixed when jax starts."""
    return subprocess.Popen(
        [sys.executable, *script, *map(str, arguments)],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_one_two_four_eight_devices_and_split_data(micro_vaults, tmp_path):
    process = run(["-c", TRAIN], micro_vaults, tmp_path, "1:0", "2:0", "4:0", "8:0", "4:1000")
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0, out
    load = lambda name: list(np.load(tmp_path / f"{name}.npz").values())
    one = load("1-0")
    for name in ("2-0", "4-0", "8-0", "4-1000"):
        for a, b in zip(one, load(name), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_two_processes_train_and_checkpoint_one_run(micro_vaults, tmp_path):
    """They write one set of records, which is that of a single process, and go on from its checkpoint."""
    options = ("evaluator.final_episodes=4", "quiet=false")
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert train.main(arguments(micro_vaults, alone, *options)) == 0

    def start(*more):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        argv = arguments(micro_vaults, together, *options, "distributed=true", *more)
        processes = [
            run(
                ["-m", "mtmarl.train"], *argv,
                JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(i),
            )
            for i in range(2)
        ]  # fmt: skip
        outputs = [p.communicate(timeout=600)[0] for p in processes]
        assert [p.returncode for p in processes] == [0, 0], "\n\n".join(outputs)
        return outputs

    first, second = start()
    assert "2 processes" in first and "final score" in first
    assert "final score" not in second, "one process talks"
    policy = lambda path: mtmarl.load_policy(path, "last").params
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, policy(together), policy(alone))
    steps = lambda path: [
        json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps(together) == steps(alone)

    for name in ("final.json", "best.json"):
        (together / name).unlink()
    newest = max((together / "checkpoints").iterdir(), key=lambda p: int(p.name))
    assert newest.name == "8"
    for file in sorted(newest.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    newest.rmdir()
    first, _ = start()
    assert "goes on from update 4" in first
    jax.tree.map(close, policy(together), policy(alone))
    assert json.loads((together / "final.json").read_text())["last"]["step"] == 8


def test_processes_that_do_not_find_each_other_say_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "nowhere")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "x")
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    assert train.main(["+algo=mt_oryx", "+tasks=micro", f"run_dir={tmp_path}", "distributed=true"]) == 2
    assert "cannot connect" in capsys.readouterr().err
