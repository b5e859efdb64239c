"""When two runs are the same, and how a run is called: computed from the settings alone.

Which settings count is declared on their fields, in `config.schema` and in the settings of networks (`settings.free`).
"""

import hashlib
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import mtmarl
from mtmarl.config.schema import Config
from mtmarl.errors import UserError
from mtmarl.files import is_utf8
from mtmarl.settings import SAME_RUN, flatten, free_keys, key_of

# Folders have names of at most 255 bytes; where the training tasks begin and how many they are follows.
LONGEST_LABEL = 200


@cache
def _free(purpose: str) -> tuple[str, ...]:
    return tuple(free_keys(Config, purpose))


def is_free(key: str, purpose: str = SAME_RUN, more: Iterable[str] = ()) -> bool:
    """Whether a dotted key, or a section that it lies in, may differ. `more`: further keys or sections."""
    return any(key == f or key.startswith(f + ".") for f in (*_free(purpose), *more))


def deciding(config: Mapping[str, Any], purpose: str = SAME_RUN, more: Iterable[str] = ()) -> dict[str, Any]:
    """The settings of a recorded configuration by dotted key, without those that may differ."""
    flat, more = flatten(config), tuple(more)
    if "tasks.train" in flat:  # A set cut to as many tasks as it has is that set.
        flat["tasks.first"] = len(flat["tasks.train"][: flat.get("tasks.first")])
    return {key: value for key, value in flat.items() if not is_free(key, purpose, more)}


def unused(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The sections that decided nothing of a run: how to play, where training on recorded data played nothing."""
    counts = record.get("counts") or {}
    return ("collect",) if counts and "env_steps" not in counts else ()


def overrides(argv: Iterable[str]) -> frozenset[str]:
    """What of a command line decides what a run computes."""
    return frozenset(word for word in argv if not is_free(key_of(word)))


@cache
def commit() -> str | None:
    """The commit of the checkout that this package runs from, if it is one."""
    root = Path(mtmarl.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def made_otherwise(record: Mapping[str, Any]) -> str | None:
    """What keeps a run of the same settings from being that which this code makes, as far as it is known."""
    found, here = record.get("commit"), commit()
    code = (
        f"made by other code (commit {found[:12]}, here {here[:12]})"
        if found and here and found != here
        else ""
    )
    data = "" if record.get("origins") is not None else "does not record its data"
    return "; ".join(filter(None, (code, data))) or None


def train_tasks(cfg: Config) -> tuple[str, ...]:
    """The training tasks: `tasks.first` of the set, in its order from `tasks.start` on."""
    tasks = cfg.tasks.train
    start = cfg.tasks.start % max(1, len(tasks))
    return (*tasks[start:], *tasks[:start])[: cfg.tasks.first]


def task_set_label(cfg: Config) -> str:
    """How this task set is called in paths and reports; short enough for the name of a folder."""
    name = (cfg.tasks.name or "+".join(cfg.tasks.train)).replace("/", "-")
    if len(name) > LONGEST_LABEL:
        name = f"{name[: LONGEST_LABEL - 13]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    whole = len(train_tasks(cfg)) == len(cfg.tasks.train)
    start = f"-from{cfg.tasks.start}" if cfg.tasks.start else ""
    return name + start if whole else f"{name}{start}-first{cfg.tasks.first}"


def run_directory(cfg: Config, default: str) -> Path:
    """Where a run is written. Raises UserError for a place that the checkpoint library takes for something else."""
    place = Path(cfg.run_dir or Path("runs") / default).expanduser().resolve()
    # Patterns, addresses, and bytes that are no text.
    found = [odd for odd in ("*", "?", "[", "\\", ":/") if odd in f"{place}/"]
    if found or not is_utf8(place):
        what = " ".join(found) or "a name that is not UTF-8"
        raise UserError(
            f"run_dir={str(place)!r}: checkpoints cannot be kept below {what}; give another run_dir"
        )
    return place
