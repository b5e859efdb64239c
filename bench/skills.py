"""Updates per second of the methods over entities: `python bench/skills.py [--quick]`.

Random recordings as wide as those of marine_hard: teams of 3, 5 and 9, 10 enemies in 16 slots. Every phase of every
method is one compiled program for all tasks. The second table is HyGen's choice of skills on marine_hard itself: acting
in all tasks, replay, the mix with recorded windows and the update are one program, against the update on recorded
windows alone.
"""

import argparse
from dataclasses import replace
from functools import partial

import jax.numpy as jnp
import numpy as np
from update import TASKS, measure, random_data

from mtmarl import config
from mtmarl.algos import ALGOS
from mtmarl.algos.base import Algorithm, Phase
from mtmarl.build import SourceContext, make_algorithm, make_sources, parse_algorithm
from mtmarl.data.sampling import TaskData
from mtmarl.data.source import vault_source
from mtmarl.envs import smax
from mtmarl.envs.entities import of_layout
from mtmarl.envs.layout import Layout
from mtmarl.envs.registry import make_env
from mtmarl.training import sharding
from mtmarl.types import Dims

METHODS = ("bc_t", "updet_m", "odis", "hissd")
TEAMS = np.resize((3, 5, 9), TASKS)
AGENTS, ENEMIES, STEPS, WIDTH = 9, 10, 1_000, len(smax.OBS_SCALE)


def smax_data() -> TaskData:
    """Random recordings as wide as SMAX's, of five tasks."""
    rng, data = np.random.default_rng(0), random_data(AGENTS, STEPS)
    shape = (TASKS * STEPS, AGENTS)
    mask = rng.random((*shape, smax.ACTIONS)) < 0.5
    mask[..., 0] = True
    return data._replace(
        obs=jnp.asarray(rng.integers(0, 2, (*shape, WIDTH), np.int8)),
        action_mask=jnp.asarray(mask),
        action=jnp.asarray(np.argmax(mask * rng.random(mask.shape), -1).astype(np.int8)),
        obs_scale=jnp.asarray(np.tile(smax.OBS_SCALE, (TASKS, 1))),
        agents=jnp.asarray(TEAMS),
        return_to_go=jnp.zeros(shape[0]),
    )


def only(algo: Algorithm, phase: Phase) -> Algorithm:
    return algo._replace(phases=(phase._replace(fraction=1.0),))


def hybrid(batch: int, context: int, repeats: int, chunk: int) -> None:
    """HyGen with and without its environments, as the composition root wires them."""
    sizes = [f"trainer.batch_size={batch}", f"trainer.context={context}", f"collect.rollout_length={context}"]
    cfg = config.compose(["+algo=hygen", "+tasks=marine_hard", "collect.num_envs=8", *sizes], "train")
    raw = [make_env(task) for task in cfg.tasks.train]
    layout = Layout.of([env.spec for env in raw])
    envs = [layout.wrap(env) for env in raw]
    split = of_layout(layout, [env.spec for env in raw])
    dims = Dims(AGENTS, layout.obs, layout.actions, 150, len(envs), split)
    spec, settings = parse_algorithm(cfg, ALGOS)
    algo, data = make_algorithm(spec, settings, dims, 1, (0.0, 2.0)), smax_data()
    teams = jnp.asarray([env.spec.agents for env in envs], jnp.int32)
    data = data._replace(
        agents=teams, **{n: getattr(data, n)[: len(envs)] for n in ("offset", "length", "obs_scale")}
    )
    sources = make_sources(SourceContext(cfg, settings, algo, envs, 1000, partial(vault_source, data)))
    print(
        f"\nHyGen's second phase; 8 environments of each of {len(envs)} tasks, {context} steps before each update\n"
    )
    print("| batches | updates/s | env steps/s | compile s |\n|---|---:|---:|---:|")
    for name, label in (("default", "recorded"), ("hybrid", "recorded and played")):
        source = sources[name]
        one = only(algo, algo.phases[1])
        m = measure(one, dims, source, batch * context * AGENTS, repeats, chunk=chunk)
        played = f"{source.env_steps / m.seconds:,.0f}" if source.env_steps else ""
        print(f"| {label} | {1 / m.seconds:.2f} | {played} | {m.compile_seconds:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="smaller batches, fewer repeats")
    quick = parser.parse_args().quick
    batch, context, repeats = (5, 10, 1) if quick else (30, 20, 1)
    print(
        f"{sharding.describe()}; {batch} windows of {context} steps, {TASKS} tasks of {TEAMS} agents\n",
        flush=True,
    )
    print("| method | phase | parameters | updates/s | compile s |\n|---|---|---:|---:|---:|")
    layout = Layout(("smax",), WIDTH, smax.ACTIONS)
    split = replace(of_layout(layout), most_objects=ENEMIES)
    dims = Dims(AGENTS, WIDTH, smax.ACTIONS, 150, TASKS, split)
    source = vault_source(smax_data(), batch, context)
    for name in METHODS:
        cfg = config.compose([f"+algo={name}", "+tasks=marine_hard"], "train")
        spec, settings = parse_algorithm(cfg, ALGOS)
        algo = make_algorithm(spec, settings, dims, 1, (0.0, 2.0))
        for phase in algo.phases:
            tokens = batch * context * AGENTS
            m = measure(only(algo, phase), dims, source, tokens, repeats, chunk=2 if quick else 3)
            print(
                f"| {name} | {phase.name} | {m.parameters:,} | {1 / m.seconds:.2f} | {m.compile_seconds:.1f} |",
                flush=True,
            )
    hybrid(batch, context, repeats, chunk=2 if quick else 3)


if __name__ == "__main__":
    main()
