"""What the paper's experiments cost: `python bench/experiments.py [--rate FLOPS] [--env-steps RATE]`.

Counts the runs of every sweep that learn from recorded data, at their published settings, their useful floating-point
operations (8 x parameters x tokens an update, 6 without a target network; an agent's step is one token) and the
environment steps of their evaluations, and turns them into hours of one machine that does `--rate` useful operations
and `--env-steps` environment steps a second. Two sweeps that plan the same run count it twice.
"""

import argparse
import functools
from pathlib import Path

import jax

from mtmarl import build, config
from mtmarl.algos import OFFLINE
from mtmarl.envs import entities
from mtmarl.envs.layout import Layout
from mtmarl.envs.registry import make_env
from mtmarl.runs.identity import train_tasks
from mtmarl.sweeps.options import Options
from mtmarl.sweeps.plan import make_plan
from mtmarl.sweeps.spec import read_sweep
from mtmarl.training.job import parameter_count
from mtmarl.types import Dims, TaskSpec, example_batch


@functools.cache
def spec(task: str) -> TaskSpec:
    return make_env(task).spec


@functools.cache
def cost(argv: tuple[str, ...]) -> tuple[float, float] | None:
    """Useful operations and evaluation steps of one run; None where it learns by playing as well."""
    cfg = config.compose(list(argv), "train")
    if cfg.algo_name not in OFFLINE:
        return None
    spec, settings = build.parse_algorithm(cfg, build.ALGOS)
    train = [spec(t) for t in train_tasks(cfg)]
    test = [spec(t) for t in cfg.tasks.test]
    agents, told = max(s.agents for s in train), spec.task_features
    layout = Layout.of(train, cfg.data.agent_ids, max(s.agents for s in (*train, *test)), told)
    split = entities.of_layout(layout, train)
    sizes = (agents, layout.obs, layout.actions, max(s.horizon for s in train), len(train))
    dims = Dims(*sizes, split, layout.task_features)
    algo = build.make_algorithm(spec, settings, dims, cfg.trainer.updates, (-1.0, 1.0))
    learner = jax.eval_shape(algo.init, jax.random.key(0), example_batch(dims))
    per_token = 8 if jax.tree.leaves(learner.target) else 6
    tokens = cfg.trainer.batch_size * cfg.trainer.context * agents
    rounds, e = cfg.trainer.updates // cfg.evaluator.every + 1, cfg.evaluator
    steps = sum(s.horizon for s in (*train, *test)) * (rounds * e.episodes + 2 * e.final_episodes)
    return per_token * parameter_count(learner.params) * tokens * cfg.trainer.updates, steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rate", type=float, default=8e10, help="useful floating-point operations a second")
    parser.add_argument(
        "--env-steps", type=float, default=2e4, help="environment steps a second in evaluation"
    )
    args = parser.parse_args()
    print(f"at {args.rate:.3g} useful operations and {args.env_steps:.3g} evaluation steps a second\n")
    print("| sweep | runs | operations | hours of updates | evaluation steps | hours of evaluation |")
    print("|---|---:|---:|---:|---:|---:|")
    total, played = [0.0, 0.0, 0.0], {}
    for name in config.options("sweep"):
        found, where = read_sweep(name)
        options = Options(name, profile="paper", out=str(Path("unused")))
        runs = make_plan(found, where, options)["runs"]
        own = lambda run: tuple(a for a in run["argv"] if not a.startswith(("seed=", "run_dir=")))
        costs = [c for run in runs if (c := cost(own(run))) is not None]
        work, steps = sum(c[0] for c in costs), sum(c[1] for c in costs)
        total = [total[0] + len(costs), total[1] + work, total[2] + steps]
        if costs:
            row(name, len(costs), work, steps, args)
        played[name] = len(runs) - len(costs)
    row("all", *total, args)
    rest = ", ".join(f"{name} {count}" for name, count in played.items() if count)
    print(f"\nnot counted, as they learn by playing: {rest}")


def row(name: str, runs: float, work: float, steps: float, args: argparse.Namespace) -> None:
    hours = work / args.rate / 3600, steps / args.env_steps / 3600
    print(
        f"| {name} | {runs:.0f} | {work:.2e} | {hours[0]:,.1f} | {steps:.2e} | {hours[1]:,.1f} |", flush=True
    )


if __name__ == "__main__":
    main()
