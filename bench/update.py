"""How near the offline update comes to the machine's limit, and what long and wide windows cost.

`python bench/update.py [--quick] [--plot FILE.png]`. Useful work of an update is taken as 8 x parameters x tokens
floating-point operations: 2 for the forward pass, 4 for the backward pass, 2 for the target network's forward pass.
The peak is that of a float32 matrix product measured beside each figure, so that shares compare between machines.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl import build, config
from mtmarl.algos import OFFLINE
from mtmarl.data.sampling import TaskData
from mtmarl.data.source import Source, vault_source
from mtmarl.training import loop, sharding
from mtmarl.training.job import parameter_count
from mtmarl.types import Dims, example_batch

GOALS = {64: 0.20, 128: 0.35, 256: 0.45}
COMPILE_GOAL = 3.0
# Timesteps, agents and the goal for the cost per token, relative to the first.
SHAPES = ((20, 4, None), (50, 4, None), (100, 4, 1.5), (20, 12, None), (20, 32, 2.0))
TOKENS = 12_800
OBS, ACTIONS, TASKS, STEPS = 66, 5, 5, 20_000


def best_seconds(run: Callable[[], Any], repeats: int) -> float:
    """The fastest of several runs: whatever else the machine does only ever adds."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def matmul_peak(size: int = 2048, dtype: str = "float32") -> float:
    """Floating-point operations per second of a product of two square matrices."""
    x = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / best_seconds(lambda: product(x), 8)


def random_data(agents: int, steps: int = STEPS) -> TaskData:
    """Random recordings in the dtypes of RWARE vaults, `steps` of each task."""
    rng = np.random.default_rng(0)
    total = TASKS * steps
    ends = np.arange(total) % 100 == 99
    return TaskData(
        obs=jnp.asarray(rng.integers(0, 2, (total, agents, OBS), np.int8)),
        action_mask=jnp.ones((total, agents, ACTIONS), bool),
        action=jnp.asarray(rng.integers(0, ACTIONS, (total, agents), np.int8)),
        reward=jnp.asarray(rng.random(total, np.float32)),
        first=jnp.asarray(np.roll(ends, 1)),
        terminated=jnp.asarray(ends),
        truncated=jnp.zeros(total, bool),
        agents=jnp.full(TASKS, agents, jnp.int32),
        offset=jnp.arange(TASKS, dtype=jnp.int32) * steps,
        length=jnp.full(TASKS, steps, jnp.int32),
        obs_scale=jnp.ones((TASKS, OBS)),
    )


def make_algorithm(name: str, embed_dim: int, agents: int, dtype: str = "float32") -> tuple[Any, Dims]:
    """An offline algorithm for RWARE-like tasks."""
    options = [f"algo.network.embed_dim={embed_dim}", f"algo.network.dtype={dtype}"]
    cfg = config.compose([f"+algo={name}", "+tasks=rware_15", *options], "train")
    spec, settings = build.parse_algorithm(cfg, OFFLINE)
    dims = Dims(agents, OBS, ACTIONS, 500, TASKS)
    return build.make_algorithm(spec, settings, dims, 1, (-1.0, 16.0)), dims


class Measured(NamedTuple):
    """Seconds per update and to compile, bytes of temporary memory, parameters and tokens of one setting."""

    seconds: float
    compile_seconds: float
    memory: int
    parameters: int
    tokens: int

    @property
    def work(self) -> float:
        """Useful floating-point operations per second."""
        return 8 * self.parameters * self.tokens / self.seconds


def measure(
    algo: Any,
    dims: Dims,
    source: Source,
    tokens: int,
    repeats: int,
    seed: int | tuple[int, ...] = 0,
    chunk: int = 10,
) -> Measured:
    """Times whole chunks as the trainer runs them: sampling, shuffling, update and Polyak step included."""
    plan = loop.Plan(seed, 10**6, chunk, 10**6)
    state = loop.initial_state(algo, source, example_batch(dims), seed)
    began = time.perf_counter()
    compiled = loop.make_chunk(algo.phases[0], source, plan).lower(state, source.data, None).compile()
    compile_seconds = time.perf_counter() - began
    holder = {"state": state}

    def run():
        holder["state"], metrics = compiled(holder["state"], source.data, None)
        return metrics

    seconds = best_seconds(run, repeats) / chunk
    memory = compiled.memory_analysis()
    count = parameter_count(holder["state"].learner.params) // (len(seed) if isinstance(seed, tuple) else 1)
    return Measured(seconds, compile_seconds, getattr(memory, "temp_size_in_bytes", 0), count, tokens)


def measure_update(
    embed_dim: int,
    agents: int,
    batch: int,
    context: int,
    repeats: int,
    dtype: str = "float32",
    chunk: int = 10,
) -> Measured:
    algo, dims = make_algorithm("mt_oryx", embed_dim, agents, dtype)
    source = vault_source(random_data(agents), batch, context)
    return measure(algo, dims, source, batch * context * agents, repeats, chunk=chunk)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats and sizes")
    parser.add_argument("--plot", help="where to draw cost and memory per token, at more T and N")
    args = parser.parse_args()
    repeats = 2 if args.quick else 4
    print(f"{sharding.describe()}; compiled programs are not taken from a cache\n", flush=True)

    print("MT Oryx update, B=64, T=20, N=4\n")
    print("| E | parameters | ms/update | peak GFLOP/s | share of it | goal | compile s | goal |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for embed_dim, goal in list(GOALS.items())[: 1 if args.quick else None]:
        peak = matmul_peak()
        m = measure_update(embed_dim, 4, 64, 20, repeats)
        print(
            f"| {embed_dim} | {m.parameters:,} | {1e3 * m.seconds:.1f} | {peak / 1e9:.0f} | {m.work / peak:.1%} | "
            f"{goal:.0%} | {m.compile_seconds:.1f} | {COMPILE_GOAL:.0f} |",
            flush=True,
        )

    print(f"\nCost and memory per token at E=64, about {TOKENS:,} tokens a batch, relative to T=20, N=4\n")
    print("| T | N | us/token | ratio | goal | KB/token | ratio |\n|---:|---:|---:|---:|---:|---:|---:|")
    rows = []
    for context, agents, goal in SHAPES if args.plot else [s for s in SHAPES if s[2] or s == SHAPES[0]]:
        m = measure_update(64, agents, TOKENS // (context * agents), context, repeats, chunk=4)
        rows.append((context, agents, 1e6 * m.seconds / m.tokens, m.memory / m.tokens / 1024))
        (_, _, cost, memory), (_, _, base, base_memory) = rows[-1], rows[0]
        print(
            f"| {context} | {agents} | {cost:.2f} | {cost / base:.2f} | {goal or ''} | {memory:.1f} | "
            f"{memory / base_memory:.2f} |",
            flush=True,
        )
    if args.plot:
        plot(rows, args.plot)


def plot(rows: list[tuple[int, int, float, float]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for axis, column, label in ((axes[0], 2, "cost per token"), (axes[1], 3, "memory per token")):
        for at, fixed, name in ((0, 1, "timesteps T, at N=4"), (1, 0, "agents N, at T=20")):
            line = sorted(
                (r[at] / rows[0][at], r[column] / rows[0][column]) for r in rows if r[fixed] == rows[0][fixed]
            )
            axis.plot(*zip(*line, strict=True), marker="o", label=name)
        axis.set(xlabel="times the timesteps or agents", ylabel=f"{label}, relative", ylim=(0, None))
        axis.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
