"""Measures env steps per second of online Sable: `python bench/collect.py [--quick]`.

One row per family and number of environments: the compiled update (rollout and PPO epochs), the rollout alone, and the
share of the trainer's wall time inside the compiled program.
"""

import argparse
import tempfile
import time

import jax
from update import best_seconds

from mtmarl import build, config
from mtmarl.training import loop, sharding

TASKS = ("lbf/10x10-3p-3f", "connector/con-7x7x5a", "rware/tiny-4ag")


def measure(task: str, num_envs: int, repeats: int) -> tuple[float, float, float]:
    """Returns env steps/s of training, env steps/s of the rollout alone, share of time inside compiled programs."""
    steps, chunk = 32 * num_envs, max(1, 128 // num_envs)
    cfg = config.compose(
        [
            "+algo=sable",
            f"+tasks={task}",
            f"collect.num_envs={num_envs}",
            f"collect.env_steps={chunk * steps * 20}",
            "collect.evaluations=1",
            "collect.record_points=1",
        ],
        "collect",
    )
    job = build.prepare_collection(cfg, task)
    plan = job.plan._replace(chunk=chunk, updates=chunk * repeats, checkpoint_every=chunk * repeats)
    # As the trainer calls it: state donated, metrics fetched while the next chunk runs.
    inside = []
    run = loop.make_chunk(job.algo.phases[0], job.source, plan)
    state = job.initial_state(0)
    state, metrics = jax.block_until_ready(run(state, job.source.data, None))
    for _ in range(repeats):
        began = time.perf_counter()
        state, metrics = jax.block_until_ready(run(state, job.source.data, None))
        inside.append(time.perf_counter() - began)
    draw = jax.jit(lambda s, key: job.source.next(s.source, None, None, s.learner.params, key))
    rollout = best_seconds(lambda: draw(state, jax.random.key(0)), repeats)

    stamps = []
    plan = plan._replace(updates=int(state.update) + plan.chunk * (repeats + 1), checkpoint_every=plan.chunk)
    loop.train(
        job.algo,
        job.sources,
        plan,
        state,
        log=lambda update, metrics: stamps.append(time.perf_counter()),
    )
    # From the end of the first chunk, so that compiling it does not count.
    share = min(inside) * repeats / (stamps[-1] - stamps[0])
    return plan.chunk * steps / min(inside), steps / rollout, share


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats and sizes")
    quick = parser.parse_args().quick
    print(f"{sharding.describe()}\n", flush=True)
    print("Online Sable, E=64, rollouts of 32 steps, 4 epochs of 2 minibatches\n")
    print("| task | environments | env steps/s | rollout alone | inside compiled | goal |")
    print("|---|---:|---:|---:|---:|---:|")
    rows = [(TASKS[0], 64), (TASKS[0], 256), (TASKS[1], 64), (TASKS[2], 64)]
    with tempfile.TemporaryDirectory() as cache:  # The trainer compiles once more what was measured alone.
        jax.config.update("jax_compilation_cache_dir", cache)
        for task, num_envs in rows[:1] if quick else rows:
            train, rollout, share = measure(task, num_envs, 2 if quick else 3)
            print(f"| {task} | {num_envs} | {train:,.0f} | {rollout:,.0f} | {share:.0%} | 80% |", flush=True)
        jax.config.update("jax_compilation_cache_dir", None)


if __name__ == "__main__":
    main()
