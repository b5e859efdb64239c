"""How near the offline update comes to the machine's limit: `python bench/update.py [--quick]`.

Useful work of an update is taken as 8 x parameters x tokens floating-point operations: 2 for the forward pass, 4 for
the backward pass, 2 for the target network's forward pass. The peak is that of a float32 matrix product measured in
the same process, so that the shares can be compared between machines.
"""

import argparse
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl import config, sharding, trainer
from mtmarl.algos import OFFLINE
from mtmarl.build import parameter_count, parse_algorithm
from mtmarl.data.sampling import TaskData
from mtmarl.data.source import Source, vault_source
from mtmarl.types import Dims, example_batch

GOALS = {64: 0.20, 128: 0.35, 256: 0.45}
OBS, ACTIONS, TASKS, STEPS = 66, 5, 5, 20_000


def best_seconds(run: Callable[[], object], repeats: int) -> float:
    """The fastest of several runs: whatever else the machine does only ever adds."""
    jax.block_until_ready(run())
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def matmul_peak(size: int = 2048) -> float:
    """Floating-point operations per second of a float32 product of two square matrices."""
    x = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(lambda a: a @ a)
    return 2 * size**3 / best_seconds(lambda: product(x), 8)


def random_source(agents: int, batch: int, context: int) -> Source:
    """Windows of random recordings in the dtypes of RWARE vaults."""
    rng = np.random.default_rng(0)
    steps = TASKS * STEPS
    ends = np.arange(steps) % 100 == 99
    data = TaskData(
        obs=jnp.asarray(rng.integers(0, 2, (steps, agents, OBS), np.int8)),
        mask=jnp.ones((steps, agents, ACTIONS), bool),
        action=jnp.asarray(rng.integers(0, ACTIONS, (steps, agents), np.int8)),
        reward=jnp.asarray(rng.random(steps, np.float32)),
        first=jnp.asarray(np.roll(ends, 1)),
        terminal=jnp.asarray(ends),
        truncated=jnp.zeros(steps, bool),
        agents=jnp.full(TASKS, agents, jnp.int32),
        offset=jnp.arange(TASKS, dtype=jnp.int32) * STEPS,
        length=jnp.full(TASKS, STEPS, jnp.int32),
        obs_scale=jnp.ones((TASKS, OBS)),
    )
    return vault_source(data, batch, context)


def measure(
    algo_name: str, embed_dim: int, agents: int, batch: int, context: int, repeats: int
) -> dict[str, float]:
    """Milliseconds per update, seconds to compile, parameters and tokens of one setting."""
    cfg = config.compose(
        [f"+algo={algo_name}", "+tasks=rware_15", f"algo.network.embed_dim={embed_dim}"], "train"
    )
    module, settings = parse_algorithm(cfg, OFFLINE)
    dims = Dims(agents, OBS, ACTIONS, 500, TASKS)
    algo, source = module.make(settings, dims, (-1.0, 16.0)), random_source(agents, batch, context)
    plan = trainer.Plan(0, 10**6, 10, 10**6)
    state = trainer.initial_state(algo, source, example_batch(dims), 0)
    chunk = trainer.make_chunk(algo.phases[0], source, plan)
    began = time.perf_counter()
    compiled = chunk.lower(state, source.data, None).compile()
    compile_seconds = time.perf_counter() - began
    holder = {"state": state}

    def run():
        holder["state"], metrics = compiled(holder["state"], source.data, None)
        return metrics

    seconds = best_seconds(run, repeats) / plan.chunk
    return {
        "ms": 1e3 * seconds,
        "compile": compile_seconds,
        "parameters": parameter_count(holder["state"].learner.params),
        "tokens": batch * context * agents,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats and sizes")
    quick = parser.parse_args().quick
    repeats = 2 if quick else 5
    peak = matmul_peak()
    print(f"{sharding.describe()}; float32 2048^3 matmul: {peak / 1e9:.0f} GFLOP/s\n", flush=True)

    print("MT Oryx update, B=64, T=20, N=4\n")
    print("| E | parameters | ms/update | of peak | goal | compile s |\n|---:|---:|---:|---:|---:|---:|")
    for embed_dim, goal in list(GOALS.items())[: 1 if quick else None]:
        m = measure("mt_oryx", embed_dim, 4, 64, 20, repeats)
        share = 8 * m["parameters"] * m["tokens"] / (m["ms"] / 1e3) / peak
        print(
            f"| {embed_dim} | {m['parameters']:,} | {m['ms']:.1f} | {share:.1%} | {goal:.0%} | {m['compile']:.1f} |",
            flush=True,
        )

    print("\nCost per token at E=64, 12,800 tokens a batch at most, relative to T=20, N=4\n")
    print("| T | N | us/token | ratio | goal |\n|---:|---:|---:|---:|---:|")
    base = None
    shapes = ((20, 4, None), (100, 4, 1.5), (20, 32, 2.0)) if not quick else ((20, 4, None), (100, 4, 1.5))
    for context, agents, goal in shapes:
        m = measure("mt_oryx", 64, agents, max(5, 12_800 // (context * agents)), context, repeats)
        cost = 1e3 * m["ms"] / m["tokens"]
        base = base or cost
        print(f"| {context} | {agents} | {cost:.2f} | {cost / base:.2f} | {goal or ''} |", flush=True)


if __name__ == "__main__":
    main()
