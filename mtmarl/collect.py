"""`python -m mtmarl.collect +algo=sable +tasks=lbf_5`: trains each task online and records vaults.

Training tasks get a vault of play from random to expert; held-out tasks of the set get reference returns only.
Everything is resumable: a finished task is left alone, an interrupted one goes on from its last checkpoint.
"""

import sys
from dataclasses import replace
from pathlib import Path

from mtmarl import config, divergence, terminal
from mtmarl.errors import GOES_ON, Diverged, UserError, exit_with, failed


def main(argv: list[str] | None = None) -> int:
    try:
        cfg = config.compose(sys.argv[1:] if argv is None else argv, "collect")
        run(cfg)
    except (UserError, OSError) as error:
        return failed(error)
    return 0


def run(cfg: config.Config) -> None:
    """Collects every task of the set that is not there yet, one after another."""
    from mtmarl import build
    from mtmarl.data import vault
    from mtmarl.envs.registry import make_env
    from mtmarl.runs.identity import train_tasks
    from mtmarl.training import collection, sharding

    if cfg.data.quality in vault.SINGLE_POLICIES:
        raise UserError(
            f"data.quality={cfg.data.quality}: the name of a vault of one policy's play, and this one is recorded all "
            "along training; add collect.single_policies=true for those, beside data.quality=replay"
        )
    sharding.start()
    root = Path(cfg.data.vault_dir).expanduser().resolve() if cfg.data.vault_dir else vault.own_root()
    tasks = [
        *((task, cfg.collect.record) for task in train_tasks(cfg)),
        *((t, False) for t in cfg.tasks.test),
    ]
    for task, _ in tasks:
        make_env(task)  # A name that is wrong stops everything before the first hour is spent.
    diverged: list[str] = []
    for i, (task, record) in enumerate(tasks):
        label = f"[{i + 1}/{len(tasks)}] {task}"
        if cfg.data.vault_dir is None and (other := collection.other_root(cfg, task, record, root)):
            terminal.say(f"{label}: already collected in {other}")
            continue
        there = collection.existing(cfg, task, root)
        own = replace(cfg, collect=replace(cfg.collect, record=record))
        if cfg.run_dir is not None and len(tasks) > 1:
            own = replace(own, run_dir=f"{cfg.run_dir}/{task}")
        if collection.collected(own, task, root):
            terminal.say(f"{label}: already collected in {root}{' as ' * bool(there)}{', '.join(there)}")
            lacking = [q for q in collection.qualities(cfg) if record and q not in there]
            if lacking:
                terminal.say(
                    f"  not {', '.join(lacking)}, recorded along with training alone: give another data.vault_dir "
                    "to train anew"
                )
            continue
        for quality in there if record else ():
            collection.check_own(vault.vault_path(root, task, quality))
        terminal.say(label)
        try:
            collection.collect_task(own, task, root, build.prepare_collection)
        except Diverged as error:
            diverged.append(str(error))
            terminal.say(f"  {error}", error=True)
    if tasks:
        vault.update_manifest(root)
    if diverged:
        raise Diverged(f"{'; '.join(diverged)}; {divergence.ADVICE}")


if __name__ == "__main__":
    exit_with(main, GOES_ON)
