"""Facts of runs: read from run folders and from files of facts, written to such a file.

A file of facts is JSON, one line per run: what ran, with which settings, what it scored on each task, its evaluations
during training, time, commit and hardware. A line of kind "sweep" is a plan, as in sweep.json. Lines are only added;
of two lines on one run the later counts. A results.json of earlier versions is read as such lines.

What is half-written, foreign or broken is named and left out; the rest is read.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mtmarl import divergence, records, settings
from mtmarl.analysis import earlier_results
from mtmarl.analysis.runs import SPLITS, Run, rounded
from mtmarl.errors import UserError
from mtmarl.files import files_below
from mtmarl.parsing import convert
from mtmarl.runs import identity
from mtmarl.runs.record import FINAL, METRICS, RUN, Figures, FinalRecord, RunRecord

FILE = "facts.jsonl"
# What sweeps of earlier versions took from the reports of others.
ADOPTED = "adopted.json"
# All that a reader can throw on a file that is foreign, of another version or being written.
BROKEN = (
    UserError, OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError,
)  # fmt: skip
REQUIRED = ("kind", "algo", "tasks", "train_tasks", "test_tasks", "seed")
# What is kept of run.json as it is. Scores, settings, references and evaluations are kept in a shape of their own.
KEPT = (
    "kind", "algo", "title", "acting", "tasks", "train_tasks", "test_tasks", "seed", "label", "started", "minutes",
    "hardware", "commit", "versions", "parameters", "updates", "select_on", "start", "counts", "dataset_steps",
    "value_range", "max_returns", "origins", "collected",
)  # fmt: skip

Refused = list[tuple[str, str]]


@dataclass(frozen=True)
class Plan:
    """`record` as in sweep.json; the folders of its runs are relative to `root`; `place` names the file."""

    record: Any
    root: Path
    place: str


@dataclass(frozen=True)
class Found:
    """What lies below some paths: runs, plans, what could not be read (place, reason), and remarks for the reader."""

    runs: tuple[Run, ...]
    plans: tuple[Plan, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()


def load(paths: Sequence[Path], references: Path | None = None) -> Found:
    """All runs and plans at or below the paths; a path that is a file holds facts.

    `references`: a folder of vaults whose reference returns replace those of the runs. Raises UserError where it
    holds none.
    """
    refused: Refused = [(shown(p, paths), "no such file or directory") for p in paths if not p.exists()]
    runs, plans = [], []
    for file in files(paths, "run.json", refused):
        try:
            runs.append(read(file.parent))
        except BROKEN as error:
            refused.append((shown(file.parent, paths), f"damaged: {reason(error)}"))
    for file in files(paths, "sweep.json", refused):
        try:
            plans.append(Plan(records.loads(file.read_bytes(), file.name), file.parent, shown(file, paths)))
        except BROKEN as error:
            refused.append((shown(file, paths), reason(error)))
    for file in _kept(paths, runs):
        place = shown(file, paths)
        try:
            kept = read_file(file)
        except BROKEN as error:
            refused.append((place, f"damaged: {reason(error)}"))
            continue
        runs += kept.runs
        plans += [replace(plan, place=place) for plan in kept.plans]
        refused += [(f"{place}: {where}", why) for where, why in kept.refused]
    known = {} if references is None else _references(references)
    runs, remarks = _one_reference_per_task(runs, known)
    return Found(tuple(runs), tuple(plans), tuple(refused), tuple(remarks))


# ------------------------------------------------------------------------------------------------ places


def shown(path: Path, roots: Iterable[Path]) -> str:
    """A path as reports name it: relative to the given folders, so that nothing of the machine is told."""
    for root in roots:
        # As it was found, links included, before where it truly lies.
        for real in (os.path.abspath, os.path.realpath):
            place, above = Path(real(path)), Path(real(root))
            if place.is_relative_to(above):
                return (Path(above.name) / place.relative_to(above)).as_posix()
    return path.name


def place(run: Run, roots: Sequence[Path]) -> str:
    """Where a run lies, or lay when its facts were kept."""
    return str(run.record.get("dir") or shown(run.path, roots))


def files(paths: Iterable[Path], name: str, refused: Refused | None = None) -> list[Path]:
    """All files of a name at or below those paths that are folders, links followed, each folder once.

    `refused` gets what could not be read on the way: (place, reason).
    """
    paths, found, lost = list(paths), {}, []
    for path in filter(Path.is_dir, paths):
        for file in files_below(path, name, lost):
            # A folder NAME.part is being copied.
            if not any(part.endswith(".part") for part in file.relative_to(path).parts):
                found.setdefault(file.parent.resolve() / name, file.absolute())
    if refused is not None:
        refused += [(shown(place, paths), why) for place, why in lost]
    return list(found.values())


def _kept(paths: Sequence[Path], runs: Sequence[Run]) -> list[Path]:
    """Files of facts, each once: those given, those that sweeps keep, and those of given folders without runs.

    Facts that an earlier report wrote beside its runs are not read: they would count these twice.
    """
    found = [path.resolve() for path in paths if path.is_file()]
    for sweep in files(paths, "sweep.json"):
        found += [file for name in (FILE, ADOPTED) if (file := sweep.with_name(name)).is_file()]
    for path in paths:
        below = any(run.path.resolve().is_relative_to(path.resolve()) for run in runs)
        found += [path / FILE] if not below and (path / FILE).is_file() else []
    return list(dict.fromkeys(file.resolve() for file in found))


# ------------------------------------------------------------------------------------------- run folders


def read(directory: Path) -> Run:
    """The run in a folder. Raises one of BROKEN."""
    record = records.read(directory / RUN, RunRecord, REQUIRED, where=RUN) or {}
    metrics = records.read_lines(directory / METRICS, where=METRICS)
    final = records.read(directory / FINAL, FinalRecord, where=FINAL) or {}
    diverged = divergence.read(directory) or divergence.lost(metrics)
    return _checked(Run(directory, record, tuple(metrics), {} if diverged else final, diverged))


def _checked(run: Run) -> Run:
    """The run, with returns of every task that it was scored on. Raises one of BROKEN."""
    for task in (*run.tasks("train"), *run.tasks("test")) if run.final else ():
        for which in ("best", "last"):
            if not np.size(run.final[which]["tasks"].get(task, {}).get("return", [])):
                raise ValueError(f"{FINAL}: no returns of {task} at the {which} checkpoint")
    return run


def reason(error: BaseException) -> str:
    """What one of BROKEN says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    if isinstance(error, UserError | ValueError):  # In our words, for the most part.
        return (str(text).splitlines() or ["damaged"])[0]
    return f"{type(error).__name__}: {text}".splitlines()[0]


# --------------------------------------------------------------------------------------- files of facts


def of_run(run: Run, roots: Sequence[Path], **plan: Any) -> dict[str, Any]:
    """The facts of a run, as its line holds them; `plan`: the sweep that it is of, its cell and its command."""
    # Collection records what a run began with only as a setting.
    record = {**run.record, "start": start(run)}
    out = {"dir": place(run, roots), **plan}
    out |= {key: record[key] for key in KEPT if record.get(key) is not None}
    if "start" in out:  # Not where it lies on this machine.
        out["start"] = {**out["start"], "from": origin(str(out["start"].get("from")))}
    if run.diverged:
        out["diverged"] = run.diverged
    out["settings"] = identity.deciding(run.record.get("config") or {}, settings.EXPERIMENT)
    tasks = {task: run.reference(task) for split in SPLITS for task in run.tasks(split)}
    out["references"] = {t: {k: r.get(k) for k in ("reference", "random")} for t, r in tasks.items() if r}
    out["evaluations"] = _evaluations(run)
    if run.final:
        out["scores"] = {t: {w: _score(run, t, w) for w in ("best", "last")} for t in tasks}
    return finite(out)


def _score(run: Run, task: str, which: str) -> dict[str, Any]:
    own = run.final[which]["tasks"][task]
    known = {key: own[key] for key in ("win_rate", "greedy_return") if own.get(key) is not None}
    return {
        "return": run.mean_return(task, which),
        "standard_error": run.episode_error(task, which),
        "episodes": run.episodes(task, which),
        **known,
    }


def _evaluations(run: Run) -> dict[str, list[Any]]:
    """The columns that learning curves are drawn from, one value per evaluation during training."""
    # Collection keeps its clock with them, and also plays greedily.
    more = ("/greedy_return",) if run.kind == "collect" else ()
    drawn = lambda metric: metric.startswith("eval/") and metric.endswith(("/return", "/win_rate", *more))
    rows = [m for m in run.metrics if any(map(drawn, m))]
    out = {"step": [m["step"] for m in rows]}
    # Counts are logged with the losses; evaluations are not always of the same line.
    for name in ("env_steps", *(["minutes"] if run.kind == "collect" else [])):
        at = dict(zip(*run.curve(name), strict=True))
        if at:
            out[name] = [at.get(step) for step in out["step"]]
    return out | {
        name: [m.get(name) for m in rows] for name in dict.fromkeys(k for m in rows for k in m if drawn(k))
    }


def start(run: Run) -> Mapping[str, Any] | None:
    """What a run began with, if anything."""
    place = (run.record.get("config") or {}).get("init_from")
    return run.record.get("start") or ({"from": place} if place else None)


def origin(path: str) -> str:
    """The folder of an earlier run without its seed and without what is of one machine."""
    parts = [p for p in Path(path).parts if not p.startswith("seed_")]
    if "runs" in parts:
        parts = parts[len(parts) - parts[::-1].index("runs") :]
    return "/".join(parts[-3:])


def to_text(lines: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(finite(line), ensure_ascii=False, allow_nan=False) + "\n" for line in lines)


def append(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Adds those lines to a file of facts that it does not hold yet.

    A line that was cut off by a kill stays alone on its line.
    """
    before = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    known = set(before.splitlines())
    new = [line for line in to_text(lines).splitlines() if line not in known]
    with file.open("a", encoding="utf-8") as out:
        out.write("\n" * bool(before and before[-1] != "\n") + "".join(f"{line}\n" for line in new))


def read_file(file: Path) -> Found:
    """The runs and plans in a file of facts; lines that are broken are refused. Raises one of BROKEN."""
    lines, refused = read_lines(file)
    runs: dict[str, Run] = {}
    plans: dict[str, Plan] = {}
    for line in lines:
        try:
            if line["kind"] == "sweep":
                plans[f"{line.get('name')} {line.get('profile')}"] = Plan(line, file, file.name)
            else:
                # Runs of several machines may have lain at equal places.
                key = " ".join(str(line.get(k)) for k in ("dir", "algo", "tasks", "seed", "started"))
                runs[key] = _checked(_run(file, line))
        except BROKEN as error:
            refused.append((str(line.get("dir")), reason(error)))
    return Found(tuple(runs.values()), tuple(plans.values()), tuple(refused))


def read_lines(file: Path) -> tuple[list[dict[str, Any]], Refused]:
    """The lines of a file of facts, or those that a results.json stands for, and what is none. Raises one of BROKEN."""
    text = file.read_text(encoding="utf-8")
    try:
        value = records.loads(text, file.name)
    except UserError as error:
        lines, refused = [], []
        for i, row in enumerate(text.splitlines()):
            try:
                lines.append(_line(records.loads(row, f"line {i + 1}")))
            except (UserError, ValueError) as broken:
                refused.append((f"line {i + 1}", reason(broken).removeprefix(f"line {i + 1}: ")))
        if not lines:
            raise error
        return lines, refused
    return [_line(value)] if "kind" in value else list(earlier_results.lines(value, file.name)), []


def _line(value: dict[str, Any]) -> dict[str, Any]:
    if "kind" not in value:
        raise ValueError("holds no facts of a run")
    return value


def _run(file: Path, line: Mapping[str, Any]) -> Run:
    scores = line.get("scores") or {}
    record = {key: line[key] for key in ("dir", *KEPT) if line.get(key) is not None}
    for split in SPLITS:  # A results.json has them with the scores.
        record.setdefault(f"{split}_tasks", [t for t, s in scores.items() if s.get("split") == split])
    record["references"] = line.get("references") or {}
    record["config"] = settings.unflatten(line.get("settings") or {})
    columns = line.get("evaluations") or {"step": []}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    diverged = line.get("diverged")
    scored = scores and record.get("kind") != "collect" and not diverged
    final = {w: {"tasks": {t: scores[t][w] for t in scores}} for w in ("best", "last")} if scored else {}
    record = records.check(RunRecord, record, "the record of a run", REQUIRED)
    final = records.check(FinalRecord, final, FINAL) if final else {}
    convert(dict[str, float | str | None], record.get("collected") or {}, "the record of a run", "collected")
    records.check_lines(rows, "evaluations")
    # A path within the file, where nothing lies, tells it from other runs.
    return Run(file / str(line["dir"]), record, tuple(rows), final, diverged and str(diverged))


# -------------------------------------------------------------------------------------------- references


def _references(vaults: Path) -> dict[str, Mapping[str, Any]]:
    """{task: reference figures} of a folder of vaults."""
    root = vaults / "references"
    found = {
        f.relative_to(root).with_suffix("").as_posix(): f
        for f in (files_below(root, "*.json") if root.is_dir() else ())
    }
    if not found:
        raise UserError(f"--references {vaults}: no files at references/<family>/<scenario>.json in there")
    return {task: records.read(file, Figures) or {} for task, file in found.items()}


def _one_reference_per_task(
    runs: Sequence[Run], given: Mapping[str, Mapping[str, Any]]
) -> tuple[list[Run], list[str]]:
    """All runs divided by the same numbers, those given or of the newest: else references would be compared."""
    chosen: dict[str, Mapping[str, float]] = {}
    seen: dict[str, set[float]] = {}
    for run in sorted(runs, key=lambda r: (r.started, r.path.name)):
        for task, known in (run.record.get("references") or {}).items():
            chosen[task] = known
            seen.setdefault(task, set()).add(rounded(float(known.get("reference") or 0.0)))
    chosen |= given
    differing = sorted(task for task, values in seen.items() if len(values) > 1 and task not in given)
    remarks = [
        f"The runs were recorded with different references of {task} "
        f"({', '.join(f'{v:.4g}' for v in sorted(seen[task]))}); all are divided by that of the newest run, "
        f"{float(chosen[task].get('reference') or 0.0):.4g}."
        for task in differing
    ]
    adopt = lambda r: {t: chosen[t] for t in (*r.tasks("train"), *r.tasks("test")) if t in chosen}
    return [replace(r, record={**r.record, "references": adopt(r)}) for r in runs], remarks


def finite(value: Any) -> Any:
    """The same values for JSON: floats to 6 significant digits, None for what is not finite, names as text."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, np.ndarray):
        return finite(value.tolist())
    if isinstance(value, np.generic):
        return finite(value.item())
    if isinstance(value, float):
        return rounded(value) if math.isfinite(value) else None
    return value
