"""What a run trains, as `build` makes it from a configuration: one type for training and collection."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from mtmarl.algos.base import Algorithm
from mtmarl.data.coverage import FamilyColumns
from mtmarl.data.source import Source
from mtmarl.envs.layout import Layout
from mtmarl.random_streams import Stream, stream
from mtmarl.runs.policy import begin_with
from mtmarl.training import loop, sharding
from mtmarl.training.checkpoint import Matching
from mtmarl.training.evaluator import EvalResult, Evaluator
from mtmarl.types import Batch, Dims, Env, example_batch


def parameter_count(params: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(params))


@dataclass(frozen=True)
class Job:
    """All that a run of training, or the collection of a task, computes with. `steps`: recorded ones of its vaults; 0
    where no phase needs any. evaluate_every, record_every: in updates; 0: nothing is recorded.

    balanced: every batch holds every task; else one of them. `start`: what `init_from` gives it. `columns`: the
    observation columns that its vaults never vary; none where the network does not read columns by their position.
    """

    train_envs: dict[str, Env]
    test_envs: dict[str, Env]
    layout: Layout
    dims: Dims
    algo: Algorithm
    sources: dict[str, Source]
    evaluator: Evaluator
    plan: loop.Plan
    references: dict[str, dict[str, float]]
    value_range: tuple[float, float] | None
    steps: int
    balanced: bool
    start: Matching | None
    evaluate_every: int
    record_every: int = 0
    columns: list[FamilyColumns] = field(default_factory=list)

    @property
    def parameters(self) -> int:
        learner = jax.eval_shape(self.algo.init, stream(0, Stream.PARAMETERS), self.example)
        return parameter_count(learner.params)

    @property
    def envs(self) -> dict[str, Env]:
        """Those of all tasks."""
        return self.train_envs | self.test_envs

    @property
    def example(self) -> Batch:
        return example_batch(self.dims)

    @property
    def source(self) -> Source:
        """Any of them: they share their state."""
        return next(iter(self.sources.values()))

    def env_steps(self, update: int) -> int:
        """Steps of environments, of all tasks together, that the first `update` updates take."""
        begin, total = 0, 0
        for phase, end in zip(self.algo.phases, loop.phase_ends(self.algo, self.plan), strict=True):
            if end > begin:
                total += max(0, min(update, end) - begin) * self.sources[phase.source].env_steps
            begin = end
        return total

    def counts(self, update: int) -> dict[str, int]:
        """What `update` updates come to: batches of single tasks, and env steps where any are taken."""
        played = self.env_steps(update)
        batches = {"task_batches": update * (self.dims.tasks if self.balanced else 1)}
        return {**batches, "env_steps": played} if self.env_steps(self.plan.updates) else batches

    def initial_state(self, seed: int | tuple[int, ...]) -> loop.TrainState:
        """Before the first update, of one seed or of several."""
        state = loop.initial_state(self.algo, self.source, self.example, seed)
        if self.start is None:
            return state
        if not isinstance(seed, tuple):
            return begin_with(state, self.start)
        return loop.stack([begin_with(one, self.start) for one in loop.unstack(state)], seed)

    def summary(self, results: Mapping[str, EvalResult]) -> dict[str, dict[str, Any]]:
        """The form that sinks take."""
        specs = {task: env.spec for task, env in self.envs.items()}
        return {
            task: {
                "return": r.episode_return.tolist(),
                "length": r.length.tolist(),
                "normalised": r.normalised(specs[task], self.references.get(task, {}).get("reference")),
                "win_rate": r.win_rate(specs[task]),
                "split": "train" if task in self.train_envs else "test",
            }
            for task, r in results.items()
        }

    def describe(self, run_dir: Path, done: int | None) -> str:
        """The lines before the first compile: what runs, on what, where it goes."""
        d, played = self.dims, self.env_steps(self.plan.updates)
        counts = {"recorded steps": self.steps, "env steps to play": played}
        data = [f"{count:,} {what}" for what, count in counts.items() if count]
        lines = [
            f"{sharding.describe()}: {self.parameters:,} parameters, {' and '.join(data)} of {d.tasks} "
            + ("task" if d.tasks == 1 else "tasks"),
            f"padded to {d.agents} agents, observations {d.obs}, actions {d.actions}"
            + (
                f"; values in [{self.value_range[0]:.2f}, {self.value_range[1]:.2f}]"
                if self.value_range
                else ""
            ),
            *(w for c in self.columns if (w := c.warning())),
            f"run: {run_dir}" + (f", goes on from update {done:,}" if done else ""),
            "compiling …",
        ]
        return "\n".join(lines)
