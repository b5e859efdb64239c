"""Evaluation of a policy: compiled episodes per task, at the task's true team size.

Initial states depend only on (seed, task name, evaluation index, batch of episodes). All methods are thus evaluated on
the same initial states.
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
    """One entry per episode. episode_return: undiscounted. length: env steps."""

    episode_return: np.ndarray
    length: np.ndarray

    @property
    def mean(self) -> float:
        return float(self.episode_return.mean())

    def win_rate(self, spec: TaskSpec) -> float | None:
        """Returns the fraction of won episodes, or None if the task has no win condition."""
        won = None if spec.win_return is None else self.episode_return > spec.win_return
        return None if won is None else float(won.mean())

    def normalised(self, spec: TaskSpec, reference: float | None) -> float | None:
        """Returns the win rate or, without a win condition, mean return / reference.

        Returns None if the reference is missing or not positive: then a worse return would give a higher score.
        """
        won = self.win_rate(spec)
        return won if won is not None else self.mean / reference if reference and reference > 0 else None

    @property
    def standard_error(self) -> float:
        """Standard error of the mean return; NaN for a single episode."""
        episodes = self.episode_return.size
        return float(self.episode_return.std(ddof=1) / np.sqrt(episodes)) if episodes > 1 else float("nan")


SEGMENT = 10


def make_episodes(env: Env, act: Act, init_carry, episodes: int) -> Callable:
    """Returns (params, key, sample_probability) -> (returns, lengths) of first episodes; stops when all have ended."""

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
            state, steps = rollout(env, act, init_carry, params, state, key, SEGMENT, sample_probability)
            last = jnp.argmax(steps.done, axis=0)
            now = steps.done.any(0) & ~ended
            at_end = lambda x: jnp.take_along_axis(x, last[None], axis=0)[0]
            total = jnp.where(now, at_end(steps.episode_return), total)
            length = jnp.where(now, at_end(steps.episode_length), length)
            return i + 1, state, ended | now, total, length

        zeros = jnp.zeros(episodes)
        begin = (0, state, jnp.zeros(episodes, bool), zeros, zeros.astype(jnp.int32))
        _, _, _, total, length = jax.lax.while_loop(unfinished, segment, begin)
        return total, length

    return run


class Evaluator:
    """Evaluates several tasks, `batch` episodes at a time. Compiles all programs in parallel at first use."""

    def __init__(self, envs: Mapping[str, Env], act: Act, init_carry, batch: int, seed: int):
        self.envs, self.batch, self.seed = dict(envs), batch, seed
        self._runs = {
            name: jax.jit(make_episodes(env, act, init_carry, batch)) for name, env in self.envs.items()
        }
        self._compiled: dict[str, Callable] = {}

    def with_seed(self, seed: int) -> "Evaluator":
        """Returns an evaluator with the initial states of another seed. It shares the compiled programs."""
        other = copy.copy(self)
        other.seed = seed
        return other

    def key(self, task: str, index: int, batch: int) -> jax.Array:
        """Returns the key of one batch of episodes. index: number of completed updates."""
        return stream(self.seed, Stream.EPISODES, zlib.crc32(task.encode()) & 0x7FFFFFFF, index, batch)

    def compile(self, params: Params) -> None:
        """Compiles the missing programs in threads: XLA releases the GIL."""
        missing = [name for name in self._runs if name not in self._compiled]
        if not missing:
            return
        args = (params, stream(0, Stream.EPISODES), jnp.float32(1.0))
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
            # Compilation overlaps with the tracing of the next program.
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
        """Returns the results of `episodes` episodes of each task. They run in full batches."""
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
