"""`python -m mtmarl.train +algo=mt_oryx +tasks=lbf_5`: trains on vaults, scores train and held-out tasks.

Algorithms that learn by acting, alone or beside vaults, are trained by the same command, as in `+algo=sable`.

Running the same command with the same `run_dir` goes on where the run stopped. `seeds=[0,1,2]` trains several seeds
in one program; each leaves what a run of that seed alone would leave.
"""

import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mtmarl import config, divergence, stops, terminal
from mtmarl.errors import GOES_ON, Diverged, UserError, exit_with, failed
from mtmarl.files import only_writer, write_json
from mtmarl.runs.record import BEST, FINAL, RUN, read_best
from mtmarl.sinks.summary import score

if TYPE_CHECKING:
    from mtmarl import build
    from mtmarl.training import loop

# Index of the final evaluation: its start states are met in no other.
LAST_EVALUATION = 2**31 - 1


def main(argv: list[str] | None = None) -> int:
    try:
        cfg = config.compose(sys.argv[1:] if argv is None else argv, "train")
        if not cfg.quiet:
            seeds = f"seed {cfg.seed}" if cfg.seeds is None else f"seeds {', '.join(map(str, cfg.seeds))}"
            terminal.say(f"mtmarl: {cfg.algo_name} on {cfg.tasks.name}, {seeds}; loading jax …")
        run(cfg)
    except (UserError, OSError) as error:
        return failed(error)
    return 0


def run(cfg: config.Config) -> Path:
    """Trains, scores and reports; returns the directory of the run, or the one that holds those of all seeds."""
    with ExitStack() as stack:
        return _run(cfg, stack)


def _run(cfg: config.Config, stack: ExitStack) -> Path:
    from mtmarl.training import sharding

    # Several processes must find each other before anything computes, which some libraries do when imported.
    sharding.start(cfg.distributed)
    from mtmarl import build
    from mtmarl.report import write_report
    from mtmarl.training import loop
    from mtmarl.training.checkpoint import newest_whole

    job = build.prepare(cfg)
    runs = [Run(one, job) for one in build.single_seeds(cfg)]
    root = runs[0].directory if cfg.seeds is None else runs[0].directory.parent
    left = [r for r in runs if not divergence.ended(r.directory)]
    for r in runs:
        if r not in left and not r.diverged and sharding.is_primary():
            terminal.say(f"{r.directory}: already finished; give another run_dir to train again")
    if left:
        for i, r in enumerate(left):
            r.open(stack, quiet=i > 0 or not sharding.is_primary(), sharing=len(left))
        plan = job.plan
        if cfg.seeds is not None:
            plan = plan._replace(seed=tuple(r.cfg.seed for r in left))
        state = job.initial_state(plan.seed)
        split = loop.unstack if cfg.seeds is not None else lambda state: [state]
        places = [r.directory for r in left]
        done, parts, damaged = newest_whole(
            [(r.checkpoints, like) for r, like in zip(left, split(state), strict=True)],
            lambda updates: build.common_update(dict(zip(places, updates, strict=True))),
        )
        for line in damaged:
            terminal.say(f"{line}; goes on from the one before, after update {done}", error=True)
        if done is not None:
            state = loop.stack(parts, plan.seed) if isinstance(plan.seed, tuple) else parts[0]
        for r in left:
            r.start(done)

        def each(do: Callable[[Run, Any], None], of: Any) -> None:
            for r, own in zip(left, split(of), strict=True):
                if not r.diverged:
                    do(r, own)
            # A seed that diverged ends nothing but itself.
            if all(r.diverged for r in left):
                _raise_diverged(runs, root)

        def evaluate(update: int, params: Any) -> Mapping[str, float]:
            each(partial(Run.evaluate, update=update), params)
            return {}

        def diverged(i: int, found: divergence.Divergence) -> None:
            left[i].diverge(found)
            if all(r.diverged for r in left):
                _raise_diverged(runs, root)

        with stops.awaited(root, GOES_ON) as stop:
            state = loop.train(
                job.algo,
                job.sources,
                plan,
                state,
                [loop.Event(cfg.evaluator.every, evaluate)],
                [r.log for r in left],
                partial(each, Run.save),
                list(job.train_envs),
                diverged=diverged,
                stop=stop,
            )
        each(Run.finish, state)
    sharding.wait_for_all("scores")
    if all(r.diverged for r in runs):
        _raise_diverged(runs, root)
    if (left or not (root / "report" / "results.json").exists()) and sharding.is_primary():
        report = write_report([r.directory for r in runs], root / "report")
        if not cfg.quiet:
            terminal.say(f"report: {report}")
    if any(r.diverged for r in runs):
        _raise_diverged(runs, root)
    return root


def _raise_diverged(runs: "list[Run]", root: Path) -> NoReturn:
    """Raises Diverged, which says which seeds did, how, and what to change. A report without scores says it too."""
    from mtmarl.report import write_report
    from mtmarl.training import sharding

    if not (root / "report" / "results.json").exists() and sharding.is_primary():
        write_report([r.directory for r in runs], root / "report")
    lost = [r for r in runs if r.diverged]
    said = "; ".join(f"{r.directory}: seed {r.cfg.seed} {r.diverged}" for r in lost)
    raise Diverged(f"{said}; {divergence.ADVICE}")


class Run:
    """What belongs to one seed: its directory, records, checkpoints, sinks and scores."""

    checkpoints: Any
    sinks: Any

    def __init__(self, cfg: config.Config, job: "build.Job"):
        from mtmarl import build
        from mtmarl.training import sharding

        self.cfg, self.began = cfg, time.time()
        self.primary, self.local = sharding.is_primary(), sharding.on_this_process
        label = f"{cfg.algo_name}/{build.task_set_label(cfg)}/seed_{cfg.seed}"
        self.directory = build.run_directory(cfg, label)
        if self.primary:
            self.record = build.start_run(self.directory, cfg, job)
        sharding.wait_for_all(f"record of {self.directory}")
        if not self.primary:  # It is there now.
            self.record = build.start_run(self.directory, cfg, job)
        # Scores stay in the units that the run began with, whatever has been collected since.
        self.job = replace(job, references=self.record["references"])
        self.counts: dict[str, int] = {}
        # What had been done at each checkpoint that can be gone on from.
        self.counts_at: dict[str, dict[str, int]] = dict(self.record.get("counts_at") or {})
        self.diverged = divergence.read(self.directory)
        self.evaluator = job.evaluator.with_seed(cfg.seed)
        self.tasks = {"train": tuple(job.train_envs), "test": tuple(job.test_envs)}[cfg.evaluator.select_on]

    def open(self, stack: ExitStack, quiet: bool, sharing: int) -> None:
        """`quiet`: without the terminal, which one of several seeds has. `sharing`: seeds in this program."""
        from mtmarl.training.checkpoint import Checkpoints

        self.stack, self.quiet, self.sharing = stack, quiet, sharing
        if self.primary:
            stack.enter_context(only_writer(self.directory))
        self.checkpoints = stack.enter_context(closing(Checkpoints(self.directory)))

    def start(self, done: int | None) -> None:
        """Opens the sinks, which go on from update `done`."""
        from mtmarl import build
        from mtmarl.random_streams import RULE

        if self.primary:
            build.warn_of_replay(self.directory, self.record, done, self.job.plan.updates)
        if done is None:
            self.checkpoints.rewind(-1)
            self.record = {**self.record, "streams": RULE}  # All of it is drawn anew.
        self.counts = dict(self.counts_at.get(str(done), {}))
        names = tuple(n for n in self.cfg.sinks if self.primary and not (self.quiet and n == "console"))
        sinks = build.make_sinks(replace(self.cfg, sinks=names), self.directory, done)
        self.sinks = self.stack.enter_context(closing(sinks))
        if not self.cfg.quiet and not self.quiet:
            if self.job.start is not None and done is None:
                terminal.say(build.say_start(self.cfg, self.job.start))
            terminal.say(build.describe(self.job, self.directory, done))
        self.sinks.start(self.job.plan.updates, done or 0)

    def log(self, update: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of a chunk, with what has been done since the start."""
        from mtmarl.training.loop import EPISODES, GRADIENT_STEPS

        counts = self.counts
        if EPISODES in metrics:
            counts[EPISODES] = counts.get(EPISODES, 0) + round(metrics[EPISODES])
        counts[GRADIENT_STEPS] = round(metrics.get(GRADIENT_STEPS, counts.get(GRADIENT_STEPS, 0)))
        counts |= self.job.counts(update)
        self.sinks.log(update, {**metrics, **counts})

    def evaluate(self, params: Any, update: int) -> None:
        settings, params = self.cfg.evaluator, self.local(params)
        results = self.evaluator.evaluate(params, update, settings.episodes, settings.explore)
        summary = self.job.summary(results)
        if self.finite(summary, update) and self.primary:
            self.keep_score(summary, params, update)

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
        import jax

        from mtmarl.random_streams import Stream, stream

        self.diverged = found.line
        if self.primary:
            key = jax.random.key_data(stream(self.cfg.seed, Stream.DATA, max(found.update - 1, 0)))
            divergence.write(self.directory, found, self.cfg.seed, key.tolist(), self.checkpoints.latest())
            self.keep_progress()
            if self.sharing > 1:  # The others go on: it is said now, and again at their end.
                terminal.say(f"{self.directory}: seed {self.cfg.seed} {found.line}", error=True)

    def keep_score(self, summary: Mapping[str, Mapping[str, Any]], params: Any, update: int) -> None:
        """Logs an evaluation, and saves the policy if none before it was as good."""
        from mtmarl.training.checkpoint import save_params

        self.sinks.log_evaluation(update, summary)
        value = score(summary, self.tasks)
        best = read_best(self.directory) or {"update": -1}
        if best["update"] >= update or value > best.get("score", float("-inf")):
            save_params(self.directory / "policy_best", params)
            write_json(self.directory / BEST, {"score": value, "update": update, "counts": self.counts})

    def keep_progress(self) -> None:
        """Minutes and counts, into run.json. Seeds that share a program share its time."""
        minutes = self.record["minutes"] + (time.time() - self.began) / 60 / self.sharing
        progress = {"minutes": round(minutes, 2), "counts": self.counts, "counts_at": self.counts_at}
        write_json(self.directory / RUN, {**self.record, **progress})

    def save(self, state: "loop.TrainState") -> None:
        update = int(state.update)
        kept = {str(u) for u in self.checkpoints.updates()}
        self.counts_at = {u: c for u, c in self.counts_at.items() if u in kept} | {
            str(update): dict(self.counts)
        }
        if self.primary:
            self.keep_progress()  # Before the checkpoint: one without its counts could not be gone on from.
        self.checkpoints.save(update, state)

    def finish(self, state: "loop.TrainState") -> None:
        """The final scores, of the best and of the last policy."""
        from mtmarl.training import sharding
        from mtmarl.training.checkpoint import load_params, save_params

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
            results = self.evaluator.evaluate(
                params, LAST_EVALUATION, settings.final_episodes, settings.explore
            )
            summary = self.job.summary(results)
            if not self.finite(summary, updates):
                return
            greedy = (
                self.evaluator.evaluate(params, LAST_EVALUATION, settings.final_episodes, 0.0)
                if settings.greedy_too
                else {}
            )
            for task, entry in summary.items():
                entry["greedy_return"] = greedy[task].mean if task in greedy else None
            final[name] = {"step": update, "counts": counts, "tasks": summary}
        self.sinks.log_evaluation(updates, final["last"]["tasks"], final=True)
        self.sinks.close()
        if not self.primary:
            return
        self.keep_progress()
        write_json(self.directory / FINAL, final)


if __name__ == "__main__":
    exit_with(main, GOES_ON)
