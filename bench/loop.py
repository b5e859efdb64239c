"""Measures the overhead of a run besides its updates: `python bench/loop.py [--tasks lbf_5] [--quick]`.

Sampling: a program that only draws batches. Host work: the trainer with its sinks, minus bare chunks. Evaluation: all
tasks of a set, with compiled programs. Compilation of the evaluation programs: with an empty and a filled persistent
cache. Start-up: the second start of `mtmarl.train` on the shipped vaults of `lbf_5`, up to the first update.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
from update import make_algorithm, measure, random_data

from mtmarl import build, config
from mtmarl.data.source import Source, vault_source
from mtmarl.envs.layout import Layout
from mtmarl.envs.registry import make_env
from mtmarl.sinks import open_sinks
from mtmarl.training import loop, sharding
from mtmarl.training.evaluator import Evaluator
from mtmarl.types import Dims, example_batch

HOST_GOAL, EVALUATION_GOAL, START_GOAL = 0.05, 0.10, 10.0


def sampling_seconds(source: Source, repeats: int, draws: int = 20) -> float:
    """Seconds per batch of a program that does nothing but draw batches, the last of which it returns."""
    first = jax.jit(source.next)(source.init(jax.random.key(0)), source.data, None, None, jax.random.key(0))

    @jax.jit
    def draw(carry, data, key):
        def one(carry, key):  # The batch is carried, so that each is written.
            return source.next(carry[0], data, None, None, key), None

        return jax.lax.scan(one, carry, jax.random.split(key, draws))[0]

    marks = []
    for _ in range(repeats + 1):  # The first one compiles.
        began = time.perf_counter()
        jax.block_until_ready(draw(first, source.data, jax.random.key(1)))
        marks.append(time.perf_counter() - began)
    return min(marks[1:]) / draws


def host_share(algo, dims, source: Source, update: float, chunk: int, count: int) -> float:
    """Seconds per update that the trainer takes with its sinks, less those of the bare update."""
    marks = []
    with tempfile.TemporaryDirectory() as folder:
        run = {"algo": "mt_oryx", "seed": 0, "quiet": True}
        sinks = open_sinks(("console", "jsonl", "marl_eval"), Path(folder), run)

        def log(step, metrics):
            sinks.log(step, metrics)
            marks.append(time.perf_counter())

        plan = loop.Plan(0, chunk * count, chunk, chunk * count)
        state = loop.initial_state(algo, source, example_batch(dims), 0)
        loop.train(algo, {"default": source}, plan, state, log=log)
        sinks.close()
    best = min(b - a for a, b in zip(marks[1:], marks[2:], strict=False))
    return max(0.0, best / chunk - update)


# Stands in for `python -m mtmarl.train`: prints when the first chunk of updates has been handed to the device.
START = """
import os, sys, time
from mtmarl import train
from mtmarl.training import loop
make = loop.make_chunk
def timed(*args):
    chunk = make(*args)
    def call(*args):
        out = chunk(*args)
        print(time.time() - float(os.environ["BEGAN"]), flush=True)
        os._exit(0)
    return call
loop.make_chunk = timed
train.main(sys.argv[1:])
"""


def start_seconds(embed_dim: int) -> float:
    """From the start of the process to its first update, with all programs in the cache."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", START, "+algo=mt_oryx", "+tasks=lbf_5", "quiet=true", "sinks=[]"]
        for name in ("cold", "warm"):
            options = [f"run_dir={folder}/{name}", f"algo.network.embed_dim={embed_dim}"]
            env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache", "BEGAN": str(time.time())}
            # Python's own cache of its modules is part of a second start.
            env.pop("PYTHONDONTWRITEBYTECODE", None)
            done = subprocess.run([*command, *options], env=env, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", default="rware_15")
    parser.add_argument(
        "--embed-dim", type=int, default=128, help="of the default run: configs/algo/mt_oryx.yaml"
    )
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--all", action="store_true", help="evaluate all tasks, not every fifth and scale up")
    args = parser.parse_args()
    cfg = config.compose(
        ["+algo=mt_oryx", f"+tasks={args.tasks}", f"algo.network.embed_dim={args.embed_dim}"], "train"
    )
    algo, dims = make_algorithm("mt_oryx", args.embed_dim, 4)
    source, repeats = vault_source(random_data(4), 64, 20), 2 if args.quick else 4
    update = measure(algo, dims, source, 5120, repeats).seconds
    sampling = sampling_seconds(source, repeats)
    host = host_share(algo, dims, source, update, 10, 4 if args.quick else 8)

    every = (*cfg.tasks.train, *cfg.tasks.test)
    tasks = every if args.all else every[::5]
    scale = len(every) / len(tasks)
    raw = {task: make_env(task) for task in tasks}
    specs = [env.spec for env in raw.values()]
    layout = Layout.of(specs, "none", max(s.agents for s in specs))
    padded = Dims(
        max(s.agents for s in specs), layout.obs, layout.actions, max(s.horizon for s in specs), len(specs)
    )
    spec, settings = build.parse_algorithm(cfg, build.ALGOS)
    player = build.make_algorithm(spec, settings, padded, 1, (-1.0, 16.0))
    params = jax.jit(player.init)(jax.random.key(0), example_batch(padded)).params
    envs = {name: layout.wrap(env) for name, env in raw.items()}
    starts = {}
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for name in ("cold", "warm"):
            evaluator = Evaluator(envs, player.act, player.init_carry, cfg.evaluator.episodes, 0)
            began = time.perf_counter()
            evaluator.compile(params)
            starts[name] = scale * (time.perf_counter() - began)
        began = time.perf_counter()
        evaluator.evaluate(params, 0, cfg.evaluator.episodes)
        evaluation = scale * (time.perf_counter() - began)
        jax.config.update("jax_compilation_cache_dir", None)
    rounds = cfg.trainer.updates // cfg.evaluator.every + 1
    whole = rounds * evaluation + cfg.trainer.updates * update

    print(
        f"{sharding.describe()}; MT Oryx, E={args.embed_dim}, B=64, T=20, N=4; {len(every)} tasks of {args.tasks}, "
        f"evaluation measured on {len(tasks)} of them\n"
    )
    print("| part | cost | share | goal |\n|---|---:|---:|---:|")
    print(f"| update | {1e3 * update:.1f} ms | | |")
    print(f"| sampling | {1e3 * sampling:.2f} ms an update | {sampling / update:.1%} of it | |")
    print(f"| logging and other host work | {1e3 * host:.2f} ms an update | {host / update:.1%} of it | |")
    both = sampling + host
    print(
        f"| the two together | {1e3 * both:.2f} ms an update | {both / update:.1%} of it | {HOST_GOAL:.0%} |"
    )
    print(
        f"| evaluation, {rounds} times {cfg.evaluator.episodes} episodes a task | {evaluation:.1f} s each | "
        f"{rounds * evaluation / whole:.1%} of {cfg.trainer.updates:,} updates | {EVALUATION_GOAL:.0%} |"
    )
    print(f"| its programs, cold | {starts['cold']:.1f} s | | |")
    print(f"| its programs, from the cache | {starts['warm']:.1f} s | | |")
    print(
        f"| start to the first update, from the cache | {start_seconds(args.embed_dim):.1f} s | | {START_GOAL:.0f} s |"
    )


if __name__ == "__main__":
    main()
