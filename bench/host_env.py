"""Cost of an env step through a PettingZoo simulator: `python bench/host_env.py [--quick]`.

Beside it, in the same run, the bare Python loop over as many simulators. simple_spread of mpe2, 3 agents.
"""

import argparse
import time

import jax
import numpy as np

from mtmarl.algos.base import no_carry, random_act
from mtmarl.envs.host import from_pettingzoo
from mtmarl.training.rollout import rollout, start

HORIZON, GOAL = 25, 1.0


def make():
    from mpe2 import simple_spread_v3

    return simple_spread_v3.parallel_env(N=3, max_cycles=HORIZON, continuous_actions=False)


def compiled(rows: int, steps: int, workers: int) -> float:
    """Seconds per env step inside a compiled rollout."""
    env = from_pettingzoo(make, "mpe/spread-3", HORIZON, workers=workers)
    run = jax.jit(lambda state, key: rollout(env, random_act, no_carry, (), state, key, steps, 1.0, pool=4))
    state, _ = run(start(env, no_carry, rows, jax.random.key(0)), jax.random.key(1))
    jax.block_until_ready(state)
    begin = time.perf_counter()
    jax.block_until_ready(run(state, jax.random.key(2)))
    return (time.perf_counter() - begin) / steps / rows


def bare(rows: int, steps: int) -> float:
    """Seconds per env step of a plain loop with random actions."""
    simulators, rng = [make() for _ in range(rows)], np.random.default_rng(0)
    for seed, simulator in enumerate(simulators):
        simulator.reset(seed=seed)
    begin = time.perf_counter()
    for step in range(steps):
        for simulator in simulators:
            if not simulator.agents:
                simulator.reset(seed=step)
            simulator.step({agent: int(rng.integers(5)) for agent in simulator.agents})
    return (time.perf_counter() - begin) / steps / rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer steps, one size")
    args = parser.parse_args()
    print(
        "| environments | bare loop | compiled | bare / compiled | two workers | bare / two workers | goal |"
    )
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for rows in (16,) if args.quick else (1, 4, 16, 64):
        steps = 50 if args.quick else 200
        alone, ours, more = bare(rows, steps), compiled(rows, steps, 0), compiled(rows, steps, 2)
        micro = lambda seconds: f"{1e6 * seconds:.0f} µs"
        goal = f"{GOAL:.1f}" if rows >= 16 else ""
        print(
            f"| {rows} | {micro(alone)} | {micro(ours)} | {alone / ours:.2f} | {micro(more)} | {alone / more:.2f} "
            f"| {goal} |"
        )


if __name__ == "__main__":
    main()
