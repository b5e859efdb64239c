"""`python -m mtmarl.train +algo=mt_oryx +tasks=lbf_5`: trains on vaults, scores train and held-out tasks.

Algorithms that learn by acting, alone or beside vaults, are trained by the same command, as in `+algo=sable`.

Running the same command with the same `run_dir` goes on where the run stopped. `seeds=[0,1,2]` trains several seeds
in one program; each leaves what a run of that seed alone would leave.
"""

import sys
from contextlib import suppress
from pathlib import Path

from mtmarl import config, divergence, terminal
from mtmarl.errors import GOES_ON, Diverged, UserError, exit_with, failed


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
    """Trains, scores and reports; returns the directory of the run, or the one that holds those of all seeds.

    Raises Diverged, which says which seeds diverged, how, and what to change. The report says it too.
    """
    from mtmarl.training import sharding

    # Several processes must find each other before anything computes, which some libraries do when imported.
    sharding.start(cfg.distributed)
    from mtmarl import build
    from mtmarl.report import write_report
    from mtmarl.training.run import Run, single_seeds, train_together

    job = build.prepare(cfg)
    runs = [Run(one, job) for one in single_seeds(cfg)]
    root = runs[0].directory if cfg.seeds is None else runs[0].directory.parent
    left = [r for r in runs if not divergence.ended(r.directory)]
    for r in runs:
        if r not in left and not r.diverged and sharding.is_primary():
            terminal.say(f"{r.directory}: already finished; give another run_dir to train again")
    if left:
        with suppress(Diverged):  # Raised below, with all that did.
            train_together(left, job, cfg.seeds and tuple(r.cfg.seed for r in left), root)
    lost = [r for r in runs if r.diverged]
    if len(lost) < len(runs):
        sharding.wait_for_all("scores")
    written = (root / "report" / "results.json").exists()
    if sharding.is_primary() and (not written or (left and len(lost) < len(runs))):
        report = write_report([r.directory for r in runs], root / "report")
        if not cfg.quiet and len(lost) < len(runs):
            terminal.say(f"report: {report}")
    if lost:
        raise Diverged(f"{'; '.join(r.story for r in lost)}; {divergence.ADVICE}")
    return root


if __name__ == "__main__":
    exit_with(main, GOES_ON)
