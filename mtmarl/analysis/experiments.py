"""Runs as experiments: an experiment is one configuration with one run per seed.

Runs of one label, which is an algorithm on a task set, may have been made with different settings. They are different
experiments then, and the settings that tell them apart stand at the end of their labels.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtmarl import settings
from mtmarl.analysis.facts import origin, place
from mtmarl.analysis.runs import Run
from mtmarl.runs import identity

# The sections whose settings name an experiment before others do.
SECTIONS = ("algo", "data", "tasks", "trainer", "evaluator", "collect")
LONGEST_VALUE = 32
NOT_SET = "not set"


@dataclass(frozen=True)
class Experiments:
    """`groups`: runs by label, seeds in order; `settings`: {label: what tells it from others of its name}."""

    groups: dict[str, list[Run]]
    settings: dict[str, dict[str, str]]
    remarks: tuple[str, ...]


def deciding(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Of each run the settings that its other seeds have as well, what it began from and what its vaults held."""
    found, vaults = [_deciding(run.record) for run in runs], [_vaults(run.record) for run in runs]
    if len({tuple(sorted(run.tasks("train"))) for run in runs}) > 1:
        # Seeds that begin with another task of their set: so it was planned, and their vaults differ with it.
        theirs = ("tasks.start", "dataset_steps", "value_range")
        found = [{key: value for key, value in one.items() if key not in theirs} for one in found]
        vaults = [None]
    # Older records do not tell vaults apart by their contents; that alone is no difference.
    if len(set(vaults) - {None}) > 1:
        for out, own in zip(found, vaults, strict=True):
            out |= {} if own is None else {"vaults": own}
    return found


def _vaults(record: Mapping[str, Any]) -> str | None:
    """A name for the contents of a run's vaults."""
    if record.get("origins") is None:
        return None
    contents = {task: own for task, own in record["origins"].items() if task != "init_from"}
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:8]


def _deciding(record: Mapping[str, Any]) -> dict[str, Any]:
    out = identity.deciding(record.get("config") or {}, settings.EXPERIMENT, identity.unused(record))
    if record.get("start"):
        out["init_from"] = origin(str(record["start"].get("from")))
    if record.get("dataset_steps"):
        out["dataset_steps"] = record["dataset_steps"]
    if record.get("value_range"):
        # Sums in another order may differ in the last digits.
        out["value_range"] = [float(f"{bound:.4g}") for bound in record["value_range"]]
    return out


def sort_out(runs: Sequence[Run], roots: Sequence[Path]) -> Experiments:
    """Finished runs of training as experiments. `roots`: directories from which on remarks name a run's."""
    by_label: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda r: (r.label, r.seed, r.started, str(r.path))):
        by_label.setdefault(run.label, []).append(run)
    groups: dict[str, list[Run]] = {}
    told: dict[str, dict[str, str]] = {}
    remarks: list[str] = []
    for label, own in by_label.items():
        kinds, known = _kinds(own)
        labels = _labels(label, known)
        groups |= dict(zip(labels, kinds, strict=True))
        told |= dict(zip(labels, known, strict=True))
        if len(labels) > 1:
            remarks.append(
                f"**{label} was run with {len(labels)} different configurations.** They are not seeds of each other, "
                "so each is an experiment of its own; a label gives no more settings than tell them apart. In full:"
            )
            remarks.append("\n".join(f"- `{name}`: {_listed(told[name])}" for name in labels))
    for label, group in groups.items():
        groups[label], doubled = _one_per_seed(group)
        remarks += [
            f"Seed {of[0].seed} of {label} was run {len(of)} times with the same settings: "
            f"{', '.join(f'`{place(r, roots)}`' for r in of)}. The newest, the last of these, is counted."
            for of in doubled
        ]
    return Experiments(groups, told, tuple(remarks))


def _listed(known: Mapping[str, str]) -> str:
    return ", ".join(f"{k}={v}" for k, v in known.items())


def _one_per_seed(runs: Sequence[Run]) -> tuple[list[Run], list[list[Run]]]:
    """The newest run of every seed, and those of seeds with several, newest last."""
    of: dict[int, list[Run]] = {}
    for run in sorted(runs, key=lambda r: (r.seed, r.started, str(r.path))):
        of.setdefault(run.seed, []).append(run)
    return [seed[-1] for seed in of.values()], [seed for seed in of.values() if len(seed) > 1]


def _kinds(runs: Sequence[Run]) -> tuple[list[list[Run]], list[dict[str, str]]]:
    """Runs by configuration, and of each configuration the settings in which they differ, as text."""
    all_settings = deciding(runs)
    section = lambda key: key.partition(".")[0]
    rank = lambda key: (SECTIONS.index(section(key)) if section(key) in SECTIONS else len(SECTIONS), key)
    keys = sorted(settings.differing(all_settings), key=rank)
    kinds: dict[tuple[str, ...], list[Run]] = {}
    for run, own in zip(runs, all_settings, strict=True):
        kind = tuple(settings.spell(own[k]) if k in own else NOT_SET for k in keys)
        kinds.setdefault(kind, []).append(run)
    return list(kinds.values()), [dict(zip(keys, kind, strict=True)) for kind in kinds]


def _labels(label: str, known: Sequence[Mapping[str, str]]) -> list[str]:
    """The label with as few settings as tell configurations apart; a number where the shortened ones do not."""
    keys = list(known[0])
    names = [key.rpartition(".")[2] for key in keys]
    names = [n if names.count(n) == 1 else key for n, key in zip(names, keys, strict=True)]
    spell = lambda name, value: "" if value == NOT_SET else f"{name}={_short(value)}"
    texts = [[spell(n, kind[k]) for n, k in zip(names, keys, strict=True)] for kind in known]
    apart = lambda use: len({tuple(text[i] for i in use) for text in texts})
    used = list(range(len(keys)))
    for i in reversed(range(len(keys))):
        rest = [k for k in used if k != i]
        used = rest if apart(rest) == apart(used) else used
    out: list[str] = []
    for text in texts:
        name = " · ".join([label, *(text[i] for i in used if text[i])])
        again = sum(o == name or o.startswith(f"{name} (") for o in out)
        out.append(f"{name} ({again + 1})" if again else name)
    return out


def _short(value: str) -> str:
    """A value that fits into a label; of long ones their end, which tells names and paths apart."""
    return value if len(value) <= LONGEST_VALUE else "…" + value[1 - LONGEST_VALUE :]
