"""`python -m mtmarl.train +algo=mt_oryx +tasks=lbf_5`: trains on vaults, scores train and held-out tasks.

Running the same command with the same `run_dir` goes on where the run stopped.
"""

import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

from mtmarl import config
from mtmarl.errors import UserError

# Index of the final evaluation: its start states are met in no other.
FINAL = 2**31 - 1


def main(argv: list[str] | None = None) -> int:
    try:
        cfg = config.compose(sys.argv[1:] if argv is None else argv, "train")
        if not cfg.quiet:
            print(f"mtmarl: {cfg.algo_name} on {cfg.tasks.name}, seed {cfg.seed}; loading jax …", flush=True)
        run(cfg)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(cfg: config.Config) -> Path:
    """Trains, scores and reports; returns the run's directory."""
    with ExitStack() as stack:
        return _run(cfg, stack)


def _run(cfg: config.Config, stack: ExitStack) -> Path:
    from mtmarl import build, sharding, trainer
    from mtmarl.checkpoint import Checkpoints, load_params, save_params
    from mtmarl.report import write_report

    sharding.start()
    began = time.time()
    job = build.offline(cfg)
    run_dir = build.run_directory(cfg, f"{cfg.algo_name}/{build.task_set_label(cfg)}/seed_{cfg.seed}")
    record = build.start_run(run_dir, cfg, job)
    if (run_dir / "final.json").exists():
        print(f"{run_dir}: already finished; give another run_dir to train again", flush=True)
        return run_dir
    checkpoints = stack.enter_context(closing(Checkpoints(run_dir)))
    state, done = job.initial_state(), checkpoints.latest()
    if done is not None:
        state = checkpoints.restore(state)
    sinks = stack.enter_context(closing(build.make_sinks(cfg, run_dir, done)))
    if not cfg.quiet:
        print(build.describe(job, run_dir, done), flush=True)
    sinks.start(job.plan.updates, done or 0)
    best_file = run_dir / "best.json"
    tasks = {"train": tuple(job.train_envs), "test": tuple(job.test_envs)}[cfg.evaluator.select_on]

    def evaluate(state: trainer.TrainState) -> Mapping[str, float]:
        update = int(state.update)
        results = job.evaluator.evaluate(
            state.learner.params, update, cfg.evaluator.episodes, cfg.evaluator.explore
        )
        summary = job.summary(results)
        sinks.log_evaluation(update, summary)
        score = build.score(summary, tasks)
        best = build.read_json(best_file) or {"score": float("-inf"), "update": -1}
        if best["update"] >= update or score > best["score"]:
            save_params(run_dir / "policy_best", state.learner.params)
            build.write_json(best_file, {"score": score, "update": update})
        return {}

    def keep_minutes() -> None:
        minutes = record["minutes"] + (time.time() - began) / 60
        build.write_json(run_dir / "run.json", {**record, "minutes": round(minutes, 2)})

    def save(state: trainer.TrainState) -> None:
        checkpoints.save(int(state.update), state)
        keep_minutes()

    state = trainer.train(
        job.algo,
        {"default": job.source},
        job.plan,
        state,
        [trainer.Event(cfg.evaluator.every, evaluate)],
        sinks.log,
        save,
        list(job.train_envs),
    )
    save_params(run_dir / "policy_last", state.learner.params)

    best = build.read_json(best_file)
    final = {}
    for name, params, update in (
        ("best", load_params(run_dir / "policy_best", state.learner.params), best["update"]),
        ("last", state.learner.params, job.plan.updates),
    ):
        results = job.evaluator.evaluate(params, FINAL, cfg.evaluator.final_episodes, cfg.evaluator.explore)
        summary = job.summary(results)
        greedy = (
            job.evaluator.evaluate(params, FINAL, cfg.evaluator.episodes, 0.0)
            if cfg.evaluator.greedy_too
            else {}
        )
        for task, entry in summary.items():
            entry["greedy_return"] = greedy[task].mean if task in greedy else None
        final[name] = {"step": update, "tasks": summary}
    sinks.log_evaluation(job.plan.updates, final["last"]["tasks"], final=True)
    sinks.close()
    keep_minutes()
    build.write_json(run_dir / "final.json", final)
    report = write_report([run_dir], run_dir / "report")
    if not cfg.quiet:
        print(f"report: {report}", flush=True)
    return run_dir


if __name__ == "__main__":
    sys.exit(main())
