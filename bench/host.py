"""Training from vaults that stay on disk, against the same data on the device: `python bench/host.py [--quick]`.

The vault is four times as large as the memory that is allowed for it. Both runs draw the same windows.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from update import ACTIONS, OBS, make_algorithm

from mtmarl.data import host_source, sampling, vault
from mtmarl.data.source import vault_source
from mtmarl.training import loop, sharding
from mtmarl.types import Dims, example_batch

GOAL, AGENTS, HORIZON, MEMORY = 0.90, 4, 500, 32 * 2**20


def make_vault(root: Path, memory: int) -> Path:
    """A vault of four times `memory` bytes."""
    per_step = AGENTS * (OBS + ACTIONS + 1) + 13
    steps = (4 * memory // per_step // HORIZON + 1) * HORIZON
    rng, count = np.random.default_rng(0), np.arange(steps) % HORIZON
    recording = vault.Recording(
        obs=rng.integers(0, 2, (steps, AGENTS, OBS), np.int8),
        mask=np.ones((steps, AGENTS, ACTIONS), bool),
        action=rng.integers(0, ACTIONS, (steps, AGENTS), np.int8),
        reward=rng.random(steps, np.float32),
        first=count == 0,
        terminal=np.zeros(steps, bool),
        truncated=count == HORIZON - 1,
        step_count=count.astype(np.int16),
        policy_step=np.zeros(steps, np.int32),
    )
    path = vault.vault_path(root, "bench/random", "replay")
    return vault.write_vault(
        path, recording, {"task": "bench/random", "obs_scale": [1.0] * OBS, "horizon": HORIZON}
    )


def fastest_chunk(algo, source, plan: loop.Plan, state) -> float:
    """Seconds between the metrics of one chunk and those of the next."""
    marks: list[float] = []
    loop.train(
        algo, {"default": source}, plan, state, log=lambda update, metrics: marks.append(time.perf_counter())
    )
    return min(np.diff(marks[1:-1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer updates")
    parser.add_argument("--embed-dim", type=int, default=64)
    args = parser.parse_args()
    chunk, rounds = 10, 3 if args.quick else 5
    algo, dims = make_algorithm("mt_oryx", args.embed_dim, AGENTS)
    one_task = Dims(AGENTS, OBS, ACTIONS, HORIZON)
    with tempfile.TemporaryDirectory() as folder:
        path = make_vault(Path(folder), MEMORY)
        mapped = host_source.map_vault(path, Path(folder) / "cache")
        sources = {
            "device": vault_source(sampling.make_task_data([vault.read_vault(path)], one_task), 64, 20),
            "host": host_source.host_source([mapped], one_task, 64, 20, chunk=chunk, memory=MEMORY),
        }
        seconds = dict.fromkeys(sources, float("inf"))
        plan = loop.Plan(0, chunk * 6, chunk, chunk * 6)
        # In turns, so that both meet the same load; of each the fastest stretch counts.
        for _ in range(rounds):
            for name, source in sources.items():
                state = loop.initial_state(algo, source, example_batch(dims), 0)
                seconds[name] = min(seconds[name], fastest_chunk(algo, source, plan, state))
    size = sum(c.nbytes for c in mapped.recording)
    print(
        f"{sharding.describe()}; MT Oryx, E={args.embed_dim}, B=64, T=20, N=4; "
        f"vault {size / 2**20:.0f} MB, allowed {MEMORY / 2**20:.0f} MB\n"
    )
    print("| data | ms/update | speed | goal |\n|---|---:|---:|---:|")
    for name, s in seconds.items():
        goal = f"{GOAL:.0%}" if name == "host" else ""
        print(f"| {name} | {1e3 * s / chunk:.1f} | {seconds['device'] / s:.0%} | {goal} |", flush=True)


if __name__ == "__main__":
    main()
