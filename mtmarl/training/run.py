"""Runs of a job: one per seed, each with its folder, records, checkpoints, sinks and scores."""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax

from mtmarl import config, divergence, stops, terminal
from mtmarl.config import Config
from mtmarl.errors import GOES_ON, Diverged, UserError
from mtmarl.files import only_writer, write_json
from mtmarl.random_streams import RULE, Stream, stream
from mtmarl.runs import resume
from mtmarl.runs.identity import run_directory, task_set_label
from mtmarl.runs.policy import say_start, start_record
from mtmarl.runs.record import BEST, FINAL, RUN, read_best
from mtmarl.settings import SAME_RUN
from mtmarl.sinks import Sinks, open_sinks
from mtmarl.sinks.summary import score
from mtmarl.training import loop, sharding
from mtmarl.training.checkpoint import Checkpoints, load_params, newest_whole, save_params
from mtmarl.training.job import Job

# Index of the final evaluation: its start states are met in no other.
LAST_EVALUATION = 2**31 - 1


def single_seeds(cfg: Config) -> list[Config]:
    """The configurations of runs with one seed each that this one stands for."""
    if cfg.seeds is None:
        return [cfg]
    under = lambda seed: None if cfg.run_dir is None else os.path.join(cfg.run_dir, f"seed_{seed}")
    return [replace(cfg, seed=s, seeds=None, run_dir=under(s)) for s in cfg.seeds]


class Run:
    """One seed of a job."""

    kind, purpose, unit = "train", SAME_RUN, "updates"
    checkpoints: Checkpoints
    sinks: Sinks

    def __init__(self, cfg: Config, job: Job):
        self.cfg, self.job, self.began = cfg, job, time.time()
        self.primary, self.local = sharding.is_primary(), sharding.on_this_process
        self.directory = self.place()
        begin = lambda: resume.start_run(self.directory, cfg, partial(self.write_first, job), self.purpose)
        if self.primary:
            self.record = begin()
        sharding.wait_for_all(f"record of {self.directory}")
        if not self.primary:  # It is there now.
            self.record = begin()
        # Scores stay in the units that the run began with, whatever has been collected since.
        self.job = replace(job, references=self.record.get("references", {}))
        self.counts: dict[str, int] = {}
        # What had been done at each checkpoint that can be gone on from.
        self.counts_at: dict[str, dict[str, int]] = dict(self.record.get("counts_at") or {})
        self.diverged = divergence.read(self.directory)
        self.evaluator = job.evaluator.with_seed(cfg.seed)

    def place(self) -> Path:
        """The run's directory."""
        cfg = self.cfg
        return run_directory(cfg, f"{cfg.algo_name}/{task_set_label(cfg)}/seed_{cfg.seed}")

    def write_first(self, job: Job) -> dict[str, Any]:
        """Writes run.json."""
        dims = {k: v for k, v in vars(job.dims).items() if k != "entities"}  # They follow from the layout.
        return resume.write_run(
            self.directory, self.cfg, self.kind, list(job.train_envs), list(job.test_envs),
            parameters=job.parameters, updates=job.plan.updates, minutes=0.0, references=job.references,
            max_returns={task: env.spec.max_return for task, env in job.envs.items()}, dims=dims,
            layout=asdict(job.layout), value_range=job.value_range, dataset_steps=job.steps,
            columns=[asdict(c) for c in job.columns], start=start_record(self.cfg, job.start),
            origins=resume.read_origins(self.cfg, list(job.train_envs) if job.steps else []),
        )  # fmt: skip

    def events(self) -> list[tuple[int, Callable[..., Mapping[str, float]]]]:
        """(every so many updates, `run(params, update=…) -> metrics`)."""
        return [(self.job.evaluate_every, self.evaluate)]

    def step(self, update: int) -> int:
        """What sinks count in."""
        return update

    @property
    def story(self) -> str:
        """How the run diverged."""
        return f"{self.directory}: seed {self.cfg.seed} {self.diverged}"

    def open(self, stack: ExitStack, quiet: bool, sharing: int) -> None:
        """`quiet`: without the terminal, which one of several seeds has. `sharing`: seeds in this program."""
        self.stack, self.quiet, self.sharing = stack, quiet, sharing
        if self.primary:
            stack.enter_context(only_writer(self.directory))
        self.checkpoints = stack.enter_context(closing(Checkpoints(self.directory)))

    def start(self, done: int | None) -> None:
        """Opens the sinks, which go on from update `done`."""
        if self.primary:
            resume.warn_of_replay(self.directory, self.record, done, self.job.plan.updates)
        if done is None:
            self.checkpoints.rewind(-1)
            self.record = {**self.record, "streams": RULE}  # All of it is drawn anew.
        self.counts = dict(self.counts_at.get(str(done), {}))
        about = {
            "algo": self.cfg.algo_name, "tasks": task_set_label(self.cfg), "seed": self.cfg.seed,
            "config": config.to_dict(self.cfg), "quiet": self.cfg.quiet, "unit": self.unit,
            "resume_step": -1 if done is None else self.step(done),
        }  # fmt: skip
        names = [n for n in self.cfg.sinks if self.primary and not (self.quiet and n == "console")]
        self.sinks = self.stack.enter_context(closing(open_sinks(names, self.directory, about)))
        if not self.quiet:
            self.announce(done)
        self.sinks.start(self.step(self.job.plan.updates), self.step(done or 0))

    def announce(self, done: int | None) -> None:
        if not self.cfg.quiet:
            if self.job.start is not None and done is None:
                terminal.say(say_start(self.cfg, self.job.start))
            terminal.say(self.job.describe(self.directory, done))

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of a chunk, with what has been done since the start."""
        counts = self.counts
        if loop.EPISODES in metrics:
            counts[loop.EPISODES] = counts.get(loop.EPISODES, 0) + round(metrics[loop.EPISODES])
        counts[loop.GRADIENT_STEPS] = round(
            metrics.get(loop.GRADIENT_STEPS, counts.get(loop.GRADIENT_STEPS, 0))
        )
        counts |= self.job.counts(update)
        self.sinks.log(self.step(update), {**metrics, **counts})

    def evaluate(self, params: Any, update: int) -> Mapping[str, float]:
        settings, params = self.cfg.evaluator, self.local(params)
        results = self.evaluator.evaluate(params, update, settings.episodes, settings.explore)
        summary = self.job.summary(results)
        if self.finite(summary, update) and self.primary:
            self.keep_score(summary, params, update)
        return {}

    def finite(self, summary: Mapping[str, Mapping[str, Any]], update: int) -> bool:
        """Whether all returns are finite; where one is not, the run has diverged."""
        for task, entry in summary.items():
            wrong = [x for x in entry["return"] if not math.isfinite(x)]
            if wrong:
                self.diverge(divergence.Divergence(update, "episode return", wrong[0], task))
                return False
        return True

    def diverge(self, found: divergence.Divergence) -> None:
        """Keeps what is needed to look into it, and nothing that could be taken for a result."""
        self.diverged = found.line
        if self.primary:
            key = jax.random.key_data(stream(self.cfg.seed, Stream.DATA, max(found.update - 1, 0)))
            divergence.write(self.directory, found, self.cfg.seed, key.tolist(), self.checkpoints.latest())
            self.keep_progress()
            if self.sharing > 1:  # The others go on: it is said now, and again at their end.
                terminal.say(self.story, error=True)

    def keep_score(self, summary: Mapping[str, Mapping[str, Any]], params: Any, update: int) -> None:
        """Logs an evaluation, and saves the policy if none before it was as good."""
        self.sinks.log_evaluation(update, summary)
        select = {"train": self.job.train_envs, "test": self.job.test_envs}[self.cfg.evaluator.select_on]
        value = score(summary, tuple(select))
        best = read_best(self.directory) or {"update": -1}
        if best["update"] >= update or value > best.get("score", float("-inf")):
            self.keep_best(value, params, update)

    def keep_best(self, value: float, params: Any, update: int) -> None:
        save_params(self.directory / "policy_best", params)
        write_json(self.directory / BEST, {"score": value, "update": update, "counts": self.counts})

    @property
    def minutes(self) -> float:
        """Of training so far. Seeds that share a program share its time."""
        return self.record.get("minutes", 0.0) + (time.time() - self.began) / 60 / self.sharing

    def keep_progress(self, **more: Any) -> None:
        """Minutes and counts, into run.json."""
        progress = {"minutes": round(self.minutes, 2), "counts": self.counts, "counts_at": self.counts_at}
        write_json(self.directory / RUN, {**self.record, **progress, **more})

    def save(self, state: loop.TrainState) -> None:
        update = int(state.update)
        kept = {str(u) for u in self.checkpoints.updates()}
        self.counts_at = {u: c for u, c in self.counts_at.items() if u in kept}
        self.counts_at[str(update)] = dict(self.counts)
        if self.primary:
            self.keep_progress()  # Before the checkpoint: one without its counts could not be gone on from.
        self.checkpoints.save(update, state)

    def finish(self, state: loop.TrainState) -> None:
        """The final scores, of the best and of the last policy."""
        settings, updates, last = self.cfg.evaluator, self.job.plan.updates, self.local(state.learner.params)
        if self.primary:
            save_params(self.directory / "policy_last", last)
        sharding.wait_for_all(f"policies of {self.directory}")
        best = read_best(self.directory) or {"update": updates}
        final = {}
        for name, params, update, counts in (
            ("best", load_params(self.directory / "policy_best", last), best["update"], best.get("counts")),
            ("last", last, updates, self.counts),
        ):
            play = partial(self.evaluator.evaluate, params, LAST_EVALUATION, settings.final_episodes)
            summary = self.job.summary(play(settings.explore))
            if not self.finite(summary, updates):
                return
            greedy = play(0.0) if settings.greedy_too else {}
            for task, entry in summary.items():
                entry["greedy_return"] = greedy[task].mean if task in greedy else None
            final[name] = {"step": update, "counts": counts, "tasks": summary}
        self.sinks.log_evaluation(updates, final["last"]["tasks"], final=True)
        self.sinks.close()
        if not self.primary:
            return
        self.keep_progress()
        write_json(self.directory / FINAL, final)


def train_together(
    runs: Sequence[Run], job: Job, seeds: tuple[int, ...] | None = None, root: Path | None = None
) -> None:
    """Trains the runs of a job in one program, from their newest common checkpoint on.

    `seeds`: those of the runs where there are several; None for a single one. Raises Diverged once all have diverged;
    one that does ends nothing but itself. What a signal leaves is said to lie in `root`.
    """

    def check() -> None:
        if all(r.diverged for r in runs):
            raise Diverged("; ".join(r.story for r in runs))

    def each(do: Callable[[Run, Any], Any], of: Any) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for r, own in zip(runs, split(of), strict=True):
            if not r.diverged:
                metrics |= do(r, own) or {}
        check()
        return metrics

    def diverged(i: int, found: divergence.Divergence) -> None:
        runs[i].diverge(found)
        check()

    def event(i: int, update: int, params: Any) -> dict[str, float]:
        return each(lambda r, own: r.events()[i][1](own, update=update), params)

    with ExitStack() as stack:
        for i, r in enumerate(runs):
            r.open(stack, quiet=i > 0 or not r.primary, sharing=len(runs))
        plan = job.plan if seeds is None else job.plan._replace(seed=seeds)
        split = (lambda state: [state]) if seeds is None else loop.unstack
        state, places = job.initial_state(plan.seed), [r.directory for r in runs]
        done, states, damaged = newest_whole(
            [(r.checkpoints, like) for r, like in zip(runs, split(state), strict=True)],
            lambda updates: common_update(dict(zip(places, updates, strict=True))),
        )
        for line in damaged:
            terminal.say(f"{line}; goes on from the one before, after update {done}", error=True)
        if done is not None:
            state = states[0] if seeds is None else loop.stack(states, seeds)
        for r in runs:
            r.start(done)
        events = [loop.Event(every, partial(event, i)) for i, (every, _) in enumerate(runs[0].events())]
        with stops.awaited(root or places[0], GOES_ON) as stop:
            state = loop.train(
                job.algo, job.sources, plan, state, events, [r.log for r in runs],
                lambda state: each(lambda r, own: r.save(own), state), list(job.train_envs),
                diverged=diverged, stop=stop,
            )  # fmt: skip
        each(lambda r, own: r.finish(own), state)


def common_update(latest: Mapping[Path, Sequence[int]]) -> int | None:
    """The update from which runs can go on together, by the checkpoints that each of them has; None: from the start.

    Runs that were stopped while they saved differ by one checkpoint; the newest that all have is taken. Stopped while
    they saved their first, some have one and others none: all start anew, which replays the same numbers.
    """
    shared = set.intersection(*map(set, latest.values()))
    if shared:
        return max(shared)
    first = [[u for u in updates if u > 0] for updates in latest.values()]
    if [] in first and all(len(updates) <= 1 for updates in first):
        return None
    stand = ", ".join(f"{run_dir.name} at update {max(u, default=0):,}" for run_dir, u in latest.items())
    raise UserError(f"seeds= cannot go on with runs that share no checkpoint ({stand}); run each with seed=")
