"""Plans, checks, runs and reports a sweep."""

import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mtmarl import config, divergence, settings, terminal
from mtmarl.command_lines import command
from mtmarl.errors import UserError
from mtmarl.runs import identity
from mtmarl.sweeps import local, outcome, plan, reuse, slurm
from mtmarl.sweeps.options import Options
from mtmarl.sweeps.spec import read_sweep


def run_sweep(options: Options) -> int:
    """Plans, checks, runs and reports; the exit code is 1 if a run failed."""
    from mtmarl.analysis import facts, plans

    grid, where = read_sweep(options.sweep)
    place = slurm.read(options.launcher, options.launcher_options)
    record, out = plan.make_plan(grid, where, options), options.directory
    runs, files = plan.chosen(record, options.only), [Path(f).expanduser() for f in options.results]
    adopted = lambda: [out / name for name in (facts.FILE, facts.ADOPTED) if (out / name).exists()]
    held = {file: reuse.in_results(record, [file]) for file in files}
    known = reuse.in_results(record, adopted(), taken=True).union(*held.values())
    counted = sum(r["dir"] in known for r in runs)
    runs = [r for r in runs if r["dir"] not in known]
    done = counted + sum((out / r["dir"] / "final.json").exists() for r in runs)
    left = f"{counted + len(runs)} runs, {done} of them finished, {options.jobs} at a time"
    terminal.say(f"{grid.title} ({options.profile}): {left}; {out}")
    plan.check_continues(record, out)
    # Ctrl-C reaches the child as well, which would answer with a traceback.
    deaf = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=signal.signal, initargs=deaf) as child:
        child.submit(check_runs, runs, out, where).result()
        child.submit(reuse.check_held, record, files).result()
        child.submit(reuse.check_held, record, adopted(), True).result()
        found = child.submit(reuse.find_finished, runs, out, files).result()
    own = [file for file in files if held[file]]
    for file in files:
        given = file in own or any(file in place.parents for place in found.values())
        if not (given or adopted() or options.only):
            raise UserError(
                f"results={file}: holds none of the runs of {record['name']} ({record['profile']})"
            )
    if options.dry_run:
        for directory, there in found.items():
            terminal.say(f"# {directory}: taken from {there}")
        for r in runs:
            if r["dir"] not in found and not divergence.ended(out / r["dir"]):
                terminal.say(command("train", *r["argv"]))
        return 0
    plan.write_plan(record, out)
    reuse.take(found, record, out)
    known = reuse.in_results(record, adopted(), taken=True)
    runs = [r for r in runs if r["dir"] not in known]
    failures = (
        local.execute(runs, out, options.jobs)
        if place.kind == "local"
        else _queue(runs, out, options.jobs, place)
    )

    from mtmarl.report import write_report

    plans.keep(out)
    try:
        terminal.say(f"report: {write_report([out, *own], out / 'report')}")
    except UserError as error:
        terminal.say(f"no report: {error}", error=True)
    for line in failures:
        terminal.say(f"failed: {line}", error=True)
    return 1 if failures else 0


def check_runs(runs: Sequence[Mapping[str, Any]], out: Path, where: str) -> None:
    """All that can be wrong with a run before it starts: its options, its vaults, other results in its place.

    Raises UserError naming the run. It loads jax; the process that waits for the runs does without, and calls it
    in a child.
    """
    from mtmarl import build
    from mtmarl.data.sources import vault_roots
    from mtmarl.data.vault import find_vault
    from mtmarl.envs.registry import make_env
    from mtmarl.runs.resume import earlier_run

    seen, make = set(), cache(make_env)
    for run in runs:
        # Of seeds alike one is enough, but for what may lie in its directory.
        rest = identity.overrides(w for w in run["argv"] if settings.key_of(w) != "seed")
        if rest in seen and not (out / run["dir"] / "run.json").exists():
            continue
        seen.add(rest)
        try:
            cfg = config.compose(run["argv"], "train")
            fetched = cfg.data.download and (cfg.hub.url or cfg.tasks.hub)
            if build.run_spec(cfg, make).needs_vaults and not fetched:
                for task in identity.train_tasks(cfg):
                    find_vault(task, cfg.data.quality, vault_roots(cfg))
            earlier_run(identity.run_directory(cfg, ""), cfg)
        except UserError as error:
            raise UserError(f"{where}, run {run['dir']}: {error}") from None


def _queue(runs: Sequence[Mapping[str, Any]], out: Path, jobs: int, place: slurm.Config) -> list[str]:
    """As `local.execute`, on a cluster."""
    terminal.say(
        f"jobs in {out / 'slurm'}; if this is stopped they go on, and the same command waits again",
    )
    slurm.execute(runs, out, jobs, place, lambda run: terminal.say(", ".join(outcome.of(run, out)[0])))
    return [line for run in runs if (line := outcome.of(run, out)[1])]
