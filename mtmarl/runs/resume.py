"""Whether the run in a folder goes on: it must have the same settings and be made of the same data."""

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import mtmarl
from mtmarl import config, terminal
from mtmarl.algos import ALGOS, parse_algorithm
from mtmarl.config import Config
from mtmarl.data import vault
from mtmarl.data.sources import find_vaults
from mtmarl.errors import UserError
from mtmarl.files import files_below, only_writer, write_json
from mtmarl.random_streams import RULE
from mtmarl.runs.identity import commit, deciding, task_set_label, unused
from mtmarl.runs.policy import read_saved, recorded_config
from mtmarl.runs.record import RUN, read_run
from mtmarl.settings import SAME_RUN, differing, listed
from mtmarl.training import sharding


def write_run(
    run_dir: Path, cfg: Config, kind: str, train: Sequence[str], test: Sequence[str], **more: Any
) -> dict[str, Any]:
    """run.json, the record of what runs here; written before anything else."""
    run_dir.mkdir(parents=True, exist_ok=True)
    spec = ALGOS[cfg.algo_name]
    record = {
        "kind": kind,
        "algo": cfg.algo_name,
        "title": spec.title,
        "acting": spec.acting(cfg.algo, 1.0 if kind == "collect" else cfg.evaluator.explore),
        "tasks": task_set_label(cfg),
        "train_tasks": list(train),
        "test_tasks": list(test),
        "seed": cfg.seed,
        "config": config.to_dict(cfg),
        "select_on": cfg.evaluator.select_on,
        "hardware": f"{sharding.describe()}, {os.cpu_count()} cores",
        "versions": {"mtmarl": mtmarl.__version__, "jax": jax.__version__},
        "streams": RULE,
        "commit": commit(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S"),
        **more,
    }
    write_json(run_dir / RUN, record)
    return record


def differing_settings(
    earlier: Mapping[str, Any], cfg: Config, where: str, purpose: str = SAME_RUN
) -> list[str]:
    """The keys in which a run.json differs from a configuration, but for those that may differ, see `settings.free`."""
    # Parsed anew: what was not yet an option when the run began has its default.
    before = recorded_config(earlier, Path(where))
    whole = lambda c: {**config.to_dict(c), "algo": config.to_dict(parse_algorithm(c, ALGOS)[1])}
    keys = differing([deciding(whole(c), purpose, unused(earlier)) for c in (before, cfg)])
    # Another algorithm has settings of its own.
    return [k for k in keys if not k.startswith("algo.")] if "algo_name" in keys else keys


def read_origins(cfg: Config, tasks: Sequence[str]) -> dict[str, str]:
    """What a run is made of beside its settings, as SHA-256: the vaults of these tasks, and where it starts."""
    origins = {task: vault.identity(path) for task, path in zip(tasks, find_vaults(cfg, tasks), strict=True)}
    start = read_saved(cfg)
    if start is not None:
        content = b"".join(f.read_bytes() for f in files_below(start.path))
        origins["init_from"] = hashlib.sha256(content).hexdigest()
    return origins


def changed_origins(earlier: Mapping[str, Any], cfg: Config) -> list[str]:
    """What differs now of what a run.json says that the run is made of; nothing where it does not say."""
    known = earlier.get("origins") or {}
    now = read_origins(cfg, [name for name in known if name != "init_from"]) if known else {}
    return [name for name in known if known[name] != now.get(name)]


def earlier_run(run_dir: Path, cfg: Config, purpose: str = SAME_RUN) -> dict[str, Any] | None:
    """The run.json that lies in the directory, if any; it must be of the same configuration and data."""
    earlier = read_run(run_dir)
    if earlier is None:
        return None
    for what, changed in (
        ("with other settings", differing_settings(earlier, cfg, str(run_dir), purpose)),
        ("that was made of other data", changed_origins(earlier, cfg)),
    ):
        if changed:
            remedy = "give another run_dir, or remove this one"
            raise UserError(f"{run_dir}: holds a run {what} ({listed(changed)}); {remedy}")
    return earlier


def start_run(
    run_dir: Path, cfg: Config, write: Callable[[], dict[str, Any]], purpose: str = SAME_RUN
) -> dict[str, Any]:
    """The record of the run in the directory, which `write` writes where there is none yet."""
    if (earlier := earlier_run(run_dir, cfg, purpose)) is not None:
        return earlier
    # Of two commands that begin here at once, the second meets the record of the first.
    with only_writer(run_dir):
        return earlier_run(run_dir, cfg, purpose) or write()


def warn_of_replay(run_dir: Path, record: Mapping[str, Any], done: int | None, updates: int) -> None:
    """Says so where a run goes on after update `done` with other random numbers than it began with."""
    if done is not None and 0 < done < updates and record.get("streams", 1) != RULE:
        terminal.say(
            f"{run_dir}: begun by a version that draws other random numbers; it goes on from update {done:,}, but does "
            "not replay bit for bit",
            error=True,
        )
