"""Saved policies and checkpoints with single bits turned over, or damaged files, against loading and resuming."""

import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.cases import Case, Door, Kind
from tests.faults.values import flip, generator, mangle_file, pick
from tests.faults.vaults import TASKS, place, sound_root


def options(root: Path, run: Path) -> list[str]:
    return [
        "+algo=bc_r", f"+tasks={TASKS[0]}", f"data.vault_dir={root}", "quiet=true", f"run_dir={run}", "sinks=[jsonl]",
        "trainer.updates=4", "trainer.chunk=2", "trainer.checkpoint_every=2", "evaluator.every=4",
        "trainer.batch_size=4",
        "trainer.context=5", "evaluator.episodes=2", "evaluator.final_episodes=2",
    ]  # fmt: skip


def sound_run(scratch: Path) -> Path:
    """A run of four updates, with two checkpoints."""
    from mtmarl import train

    run = scratch / "sound-run"
    if not (run / "final.json").exists():
        assert train.main(options(sound_root(scratch), run)) == 0
        assert place(sound_root(scratch)).exists()
    return run


def leaves(tree: Any) -> list[np.ndarray]:
    import jax

    data = lambda x: jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return [np.asarray(data(x)) for x in jax.tree.leaves(tree)]


def policy(run: Path, which: str) -> list[np.ndarray]:
    from mtmarl.runs.policy import load_policy

    return leaves(load_policy(run, which).params)


@cache
def _like(scratch: Path) -> Any:
    from mtmarl import build, config

    job = build.prepare(config.compose(options(sound_root(scratch), scratch / "sound-run"), "train"))
    return job.initial_state(job.plan.seed)


def checkpoint(scratch: Path, run: Path) -> list[np.ndarray]:
    """The state that a resumed run goes on from."""
    from contextlib import closing

    from mtmarl.training.checkpoint import Checkpoints, newest_whole

    with closing(Checkpoints(run)) as saved:
        pairs = [(saved, _like(scratch))]
        _, states, damaged = newest_whole(pairs, lambda updates: max(updates[0], default=None))
    print(*damaged, sep="\n", end="", file=sys.stderr)
    return leaves(states)


@cache
def _sound(scratch: Path, what: str) -> list[np.ndarray]:
    run = sound_run(scratch)
    return checkpoint(scratch, run) if what == "checkpoint" else policy(run, what)


def _case(scratch: Path, number: int) -> Case:
    rng, run = generator("policies", number), scratch / "run-case"
    what = ("best", "checkpoint", "last")[number % 3]
    sound = _sound(scratch, what)
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(sound_run(scratch), run)
    folder = run / (f"policy_{what}" if what != "checkpoint" else "checkpoints")
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.stat().st_size)
    if what == "checkpoint":
        newest = max((f for f in folder.iterdir() if f.name.isdecimal()), key=lambda f: int(f.name))
        files = [f for f in files if newest in f.parents]
    bits = number % 2 == 0 or number < 60
    file = pick(rng, files)
    recipe = f"{file.relative_to(run)}: {flip(file, rng) if bits else mangle_file(file, rng)}"
    same = lambda value: len(value) == len(sound) and all(map(np.array_equal, value, sound))
    use = (lambda: checkpoint(scratch, run)) if what == "checkpoint" else (lambda: policy(run, what))
    group = f"{'checkpoint' if what == 'checkpoint' else 'policy'}, {'bits' if bits else 'files'}"
    return Case(group, recipe, [Door(what, use, same)])


KINDS = {"policies": Kind("policies", 240, _case)}
