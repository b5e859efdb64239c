"""Scores of a policy: per task, compiled episodes at the task's own team size.

Start states depend on (seed, task name, index of the evaluation, episodes played at once) alone, so all methods that
are scored on as many episodes meet the same ones.
"""

import copy
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.random_streams import Stream, stream
from mtmarl.training.rollout import rollout, start
from mtmarl.types import Act, Env, Params, TaskSpec


class EvalResult(NamedTuple):
    """One entry per episode. `episode_return` is undiscounted, `length` in env steps."""

    episode_return: np.ndarray
    length: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.episode_return.mean())

    def win_rate(self, spec: TaskSpec) -> float | None:
        """The share of won episodes, 0 … 1; None in tasks that cannot be won."""
        won = None if spec.win_return is None else self.episode_return > spec.win_return
        return None if won is None else float(won.mean())

    def normalised(self, spec: TaskSpec, reference: float | None) -> float | None:
        """The score: the win rate or, in tasks that cannot be won, mean return / reference.

        None without a reference, and with one that is not positive, by which a worse return would score higher.
        """
        won = self.win_rate(spec)
        return won if won is not None else self.mean / reference if reference and reference > 0 else None

    @property
    def standard_error(self) -> float:
        """NaN of a single episode."""
        episodes = self.episode_return.size
        return float(self.episode_return.std(ddof=1) / np.sqrt(episodes)) if episodes > 1 else float("nan")


SEGMENT = 10


def make_episodes(env: Env, act: Act, init_carry, episodes: int) -> Callable:
    """(params, key, sample_probability) -> (returns, lengths) of first episodes, stopping once all have ended."""

    def run(params: Params, key: jax.Array, sample_probability):
        key_start, key_steps = jax.random.split(key)
        state = start(env, init_carry, episodes, key_start)
        segments = -(-env.spec.horizon // SEGMENT)

        def unfinished(carry):
            i, _, ended, _, _ = carry
            return (i < segments) & ~ended.all()

        def segment(carry):
            i, state, ended, total, length = carry
            key = jax.random.fold_in(key_steps, i)
            state, seen = rollout(env, act, init_carry, params, state, key, SEGMENT, sample_probability)
            here = jnp.argmax(seen.done, axis=0)
            now = seen.done.any(0) & ~ended
            at_end = lambda x: jnp.take_along_axis(x, here[None], axis=0)[0]
            total = jnp.where(now, at_end(seen.episode_return), total)
            length = jnp.where(now, at_end(seen.episode_length), length)
            return i + 1, state, ended | now, total, length

        nothing = jnp.zeros(episodes)
        begin = (0, state, jnp.zeros(episodes, bool), nothing, nothing.astype(jnp.int32))
        _, _, _, total, length = jax.lax.while_loop(unfinished, segment, begin)
        return total, length

    return run


class Evaluator:
    """Compiled episodes of several tasks, `batch` at a time; all programs are compiled in parallel at first use."""

    def __init__(self, envs: Mapping[str, Env], act: Act, init_carry, batch: int, seed: int):
        self.envs, self.batch, self.seed = dict(envs), batch, seed
        self._runs = {
            name: jax.jit(make_episodes(env, act, init_carry, batch)) for name, env in self.envs.items()
        }
        self._compiled: dict[str, Callable] = {}

    def with_seed(self, seed: int) -> "Evaluator":
        """The same programs, compiled once for all, on the start states of another seed."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def key(self, task: str, index: int, batch: int) -> jax.Array:
        """Of one batch of the episodes that are played at an index (the updates done)."""
        return stream(self.seed, Stream.EPISODES, zlib.crc32(task.encode()) & 0x7FFFFFFF, index, batch)

    def compile(self, params: Params) -> None:
        """Compiles what is missing, in parallel: XLA releases the interpreter lock."""
        missing = [name for name in self._runs if name not in self._compiled]
        if not missing:
            return
        args = (params, stream(0, Stream.EPISODES), jnp.float32(1.0))
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
            # The first compile while the next is traced.
            pending = {name: threads.submit(self._runs[name].lower(*args).compile) for name in missing}
        self._compiled |= {name: program.result() for name, program in pending.items()}

    def evaluate(
        self,
        params: Params,
        index: int,
        episodes: int,
        sample_probability: float = 1.0,
        tasks: Sequence[str] | None = None,
    ) -> dict[str, EvalResult]:
        """The first `episodes` episodes of each task; they are played in whole batches."""
        self.compile(params)
        rounds = -(-episodes // self.batch)
        futures = {
            task: [
                self._compiled[task](params, self.key(task, index, r), jnp.float32(sample_probability))
                for r in range(rounds)
            ]
            for task in (self.envs if tasks is None else tasks)
        }
        join = lambda parts: np.concatenate([np.asarray(x) for x in parts])[:episodes]
        return {task: EvalResult(*map(join, zip(*parts, strict=True))) for task, parts in futures.items()}
