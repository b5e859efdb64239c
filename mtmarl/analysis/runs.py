"""Runs as they lie on disk, or in the results.json of an earlier report.

What is half-written, foreign or broken is named and left out; the rest is read.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mtmarl import divergence, records, settings
from mtmarl.errors import UserError
from mtmarl.files import files_below
from mtmarl.runs.record import FINAL, METRICS, RUN, Figures, FinalRecord, RunRecord

# What other sweeps' reports hold of the runs of a sweep, as a results.json in its directory.
ADOPTED = "adopted.json"
# Everything that a file of another make or version, or one that is being written, can throw at its reader.
BROKEN = (
    UserError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


def rounded(value: float) -> float:
    """To as many digits as results.json keeps: equal scores stay equal, whichever of the two they are read from."""
    return float(f"{value:.6g}")


@dataclass(frozen=True)
class Run:
    """One run. `final` is empty until it has finished; `metrics` are the lines of metrics.jsonl.

    `diverged`: how it did, in words. Such a run has no scores.
    """

    path: Path
    record: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    final: Mapping[str, Any]
    diverged: str | None = None

    @property
    def label(self) -> str:
        """What is trained on what; runs with one label may still differ in settings, see `experiments`."""
        earlier = (self.record.get("start") or {}).get("algo")
        algo = f"{self.record['algo']} from {earlier}" if earlier else self.record["algo"]
        return self.record.get("label") or f"{algo} · {self.record['tasks']}"

    @property
    def seed(self) -> int:
        return int(self.record["seed"])

    @property
    def kind(self) -> str:
        return str(self.record["kind"])

    @property
    def started(self) -> str:
        return str(self.record.get("started") or "")

    def reference(self, task: str) -> Mapping[str, Any]:
        return (self.record.get("references") or {}).get(task) or {}

    def aim(self, task: str) -> float | None:
        """The largest return that an episode of the task can have or, where that is not known, its reference."""
        most = (self.record.get("max_returns") or {}).get(task)
        reference = self.reference(task).get("reference") or 0.0
        return most or (float(reference) if reference > 0 else None)

    def tasks(self, split: str) -> list[str]:
        return list(self.record[f"{split}_tasks"])

    def returns(self, task: str, which: str) -> np.ndarray:
        """Episode returns [episodes] of the final score; `which`: best or last. A results.json has their mean: []."""
        return np.asarray(self.final[which]["tasks"][task]["return"], float)

    def mean_return(self, task: str, which: str) -> float:
        return rounded(float(self.returns(task, which).mean()))

    def episodes(self, task: str, which: str) -> int:
        """How many episodes the final score is of."""
        return int(self.final[which]["tasks"][task].get("episodes") or self.returns(task, which).size)

    def episode_error(self, task: str, which: str) -> float:
        """The standard error of the mean return over episodes; NaN where it was not kept."""
        returns = self.returns(task, which)
        if not returns.ndim:
            known = self.final[which]["tasks"][task].get("standard_error")
            return float("nan") if known is None else float(known)
        return float(returns.std(ddof=1) / np.sqrt(returns.size)) if returns.size > 1 else float("nan")

    def winnable(self, task: str) -> bool:
        """Whether episodes of the task are won or lost."""
        scored = (self.final.get("best") or {}).get("tasks") or {}
        logged = f"eval/{task}/win_rate"
        return (scored.get(task) or {}).get("win_rate") is not None or any(logged in m for m in self.metrics)

    def has_score(self, task: str) -> bool:
        return self.winnable(task) or (self.reference(task).get("reference") or 0.0) > 0

    def normalised(self, task: str, which: str) -> float:
        """The score: the share of won episodes or, where nothing is won, mean return / reference; NaN without one."""
        if self.winnable(task):
            return rounded(float(self.final[which]["tasks"][task]["win_rate"]))
        reference = self.reference(task).get("reference") or 0.0
        return self.mean_return(task, which) / reference if reference > 0 else float("nan")

    def greedily(self) -> "Run | None":
        """The run as it scored where it played greedily as well; None where that was not asked for.

        Of tasks that are won or lost only the return was kept.
        """
        final: dict[str, Any] = {}
        for which, scored in self.final.items():
            returns = {task: own.get("greedy_return") for task, own in scored["tasks"].items()}
            if None in returns.values() or any(map(self.winnable, returns)):
                return None
            final[which] = {**scored, "tasks": {task: {"return": value} for task, value in returns.items()}}
        return replace(self, final=final) if final else None

    def curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of a metric that was logged."""
        points = [(m["step"], m[metric]) for m in self.metrics if m.get(metric) is not None]
        steps, values = np.asarray(points, float).reshape(-1, 2).T
        return steps, values

    def score_curve(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """(updates, mean score over the tasks of a split) of the evaluations during training."""
        known = {}
        for task in filter(self.has_score, self.tasks(split)):
            if self.winnable(task):
                known[f"eval/{task}/win_rate"] = 1.0
            else:
                known[f"eval/{task}/return"] = float(self.reference(task)["reference"])
        rows = [m for m in self.metrics if known and all(m.get(k) is not None for k in known)]
        means = [np.mean([m[k] / whole for k, whole in known.items()]) for m in rows]
        return np.asarray([m["step"] for m in rows], float), np.asarray(means, float)


def scores(runs: Sequence[Run], tasks: Sequence[str], which: str) -> np.ndarray:
    """Scores, see `Run.normalised`: [seeds, tasks]."""
    return np.asarray([[run.normalised(t, which) for t in tasks] for run in runs], float).reshape(
        len(runs), len(tasks)
    )


def random_scores(run: Run, tasks: Sequence[str]) -> np.ndarray:
    """What random play scores on tasks: [tasks], below 1. NaN where that is unknown, as of tasks that are won."""
    found = []
    for task in tasks:
        known = run.reference(task)
        reference, played = known.get("reference") or 0.0, known.get("random")
        if played is None or not reference > max(0.0, float(played)) or run.winnable(task):
            found.append(float("nan"))
        else:
            found.append(float(played) / reference)
    return np.asarray(found, float)


def scored_tasks(runs: Sequence[Run], split: str) -> list[str]:
    """The tasks of a split that all runs were scored on: those that can be won or have a reference above 0."""
    if not runs:
        return []
    common = set.intersection(*(set(run.tasks(split)) for run in runs))
    return [t for t in runs[0].tasks(split) if t in common and runs[0].has_score(t)]


def own_tasks(runs: Sequence[Run]) -> bool:
    """Whether runs of one cell were trained on different tasks, as seeds with a `tasks.start` of their own are."""
    return len({frozenset(run.tasks("train")) for run in runs}) > 1


def split_scores(runs: Sequence[Run], split: str, which: str) -> np.ndarray:
    """Scores on the tasks that all runs share: [seeds, tasks]. Runs that were trained on different tasks have one
    training score each, the mean over their own tasks: [seeds, 1].
    """
    if split == "train" and own_tasks(runs):
        own = [scores([run], scored_tasks([run], split), which) for run in runs]
        return np.asarray([[x.mean()] for x in own if x.size]).reshape(-1, 1)
    return scores(runs, scored_tasks(runs, split), which)


def without_reference(runs: Sequence[Run]) -> list[str]:
    """The tasks that runs were scored on and that no normalised score can hold."""
    scored = {t: r for r in runs for split in ("train", "test") for t in r.tasks(split)}
    return sorted(t for t, r in scored.items() if not r.has_score(t))


@dataclass(frozen=True)
class Found:
    """What lies below some paths: runs, what could not be read (place, reason), and remarks for the reader."""

    runs: tuple[Run, ...]
    refused: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()


def shown(path: Path, roots: Iterable[Path]) -> str:
    """A path as reports name it: from the given directory on, so that nothing of the machine is told."""
    for root in roots:
        # As it was found, links included, before where it truly lies.
        for real in (os.path.abspath, os.path.realpath):
            place, above = Path(real(path)), Path(real(root))
            if place.is_relative_to(above):
                return (Path(above.name) / place.relative_to(above)).as_posix()
    return path.name


Refused = list[tuple[str, str]]


def files(paths: Iterable[Path], name: str, refused: Refused | None = None) -> list[Path]:
    """All files of a name at or below those of the paths that are directories, links followed, each folder once.

    `refused` gets what could not be read on the way: (place, reason).
    """
    paths, found, lost = list(paths), {}, []
    for path in filter(Path.is_dir, paths):
        for file in files_below(path, name, lost):
            if not _partial(file, path):
                found.setdefault(file.parent.resolve() / name, file.absolute())
    if refused is not None:
        refused += [(shown(place, paths), why) for place, why in lost]
    return list(found.values())


def _partial(file: Path, root: Path) -> bool:
    """Whether a file belongs to a directory that is being copied."""
    return any(part.endswith(".part") for part in file.relative_to(root).parts)


def results(paths: Iterable[Path]) -> list[Path]:
    """Those of the paths that are files, each once: results.json of earlier reports; and what sweeps took from such."""
    paths = list(paths)
    return list(dict.fromkeys([*(p.resolve() for p in paths if p.is_file()), *files(paths, ADOPTED)]))


def load(paths: Sequence[Path], references: Path | None = None) -> Found:
    """All runs at or below the paths; `references`: a vault directory whose reference returns go before theirs.

    A path that is a file is the results.json of a report and stands for the runs in it. Raises UserError where the
    directory of references holds none.
    """
    runs, refused = [], [(shown(p, paths), "no such file or directory") for p in paths if not p.exists()]
    for file in files(paths, "run.json", refused):
        try:
            runs.append(read(file.parent))
        except BROKEN as error:
            refused.append((shown(file.parent, paths), f"damaged: {reason(error)}"))
    for file in results(paths):
        try:
            kept, without = recorded(file)
            runs += kept
            refused += [(f"{shown(file, paths)}: {place}", why) for place, why in without]
        except BROKEN as error:
            refused.append((shown(file, paths), f"damaged: {reason(error)}"))
    known = {} if references is None else _references(references)
    runs, remarks = _one_reference_per_task(runs, known)
    return Found(tuple(runs), tuple(refused), tuple(remarks))


def reason(error: BaseException) -> str:
    """What one of BROKEN says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    if isinstance(error, UserError | ValueError):  # In our words, for the most part.
        return str(text).splitlines()[0]
    return f"{type(error).__name__}: {text}".splitlines()[0]


def read(directory: Path) -> Run:
    """The run in a directory. Raises one of BROKEN."""
    record = records.read(directory / RUN, RunRecord, REQUIRED, where=RUN) or {}
    metrics = records.read_lines(directory / METRICS, where=METRICS)
    final = records.read(directory / FINAL, FinalRecord, where=FINAL) or {}
    diverged = divergence.read(directory) or divergence.lost(metrics)
    return _checked(Run(directory, record, tuple(metrics), {} if diverged else final, diverged))


def _checked(run: Run) -> Run:
    """The run, with every number in it that a report draws. Raises one of BROKEN."""
    for task in (*run.tasks("train"), *run.tasks("test")) if run.final else ():
        for which in ("best", "last"):
            if not np.size(run.final[which]["tasks"].get(task, {}).get("return", [])):
                raise ValueError(f"{FINAL}: no returns of {task} at the {which} checkpoint")
    return run


REQUIRED = ("kind", "algo", "tasks", "train_tasks", "test_tasks", "seed")
# What a report keeps of a run besides its scores, its settings and its evaluations, as run.json has it.
KEPT = (
    "kind", "algo", "tasks", "seed", "label", "started", "minutes", "hardware", "commit", "versions", "parameters",
    "updates", "select_on", "start", "counts", "dataset_steps", "value_range", "max_returns", "origins",
)  # fmt: skip
FORMAT = 2


def read_results(file: Path) -> dict[str, Any]:
    """The results.json of a report. Raises one of BROKEN."""
    value = records.loads(file.read_bytes(), file.name)
    made = value.get("format")
    if made not in range(1, FORMAT + 1) or "sweeps" not in value:
        raise ValueError(
            f"{file.name} is no results.json of a report" + (f" (format {made})" if made else "")
        )
    return value


def recorded(file: Path) -> tuple[list[Run], list[tuple[str, str]]]:
    """The runs that a report was made of, from its results.json, and those that are left out: (where it lay, reason).

    Format 1 has no evaluations during training and no settings. Raises one of BROKEN.
    """
    value = read_results(file)
    trained = [run for part in (*value["sweeps"], *value["experiments"]) for run in part["runs"]]
    online = [{**c["run"], "scores": {c["task"]: {"split": "train"}}} for c in value.get("collection") or ()]
    found, left_out = [], []
    for run in (*(run for run in trained if "scores" in run or run.get("diverged")), *online):
        place = str(run.get("dir"))
        if "evaluations" not in run and run in online:
            left_out.append((place, "no evaluations of it in the file, which an earlier version wrote"))
            continue
        try:
            found.append(_checked(_recorded(file, run, value)))
        except BROKEN as error:
            left_out.append((place, reason(error)))
    return found, left_out


def _recorded(file: Path, own: Mapping[str, Any], value: Mapping[str, Any]) -> Run:
    tasks = own.get("scores") or {}
    record = {key: own[key] for key in ("dir", *KEPT) if own.get(key) is not None}
    record |= {f"{s}_tasks": [t for t in tasks if tasks[t]["split"] == s] for s in ("train", "test")}
    record["references"] = {t: value["references"][t] for t in tasks if t in value["references"]}
    record["config"] = settings.unflatten((value.get("settings") or {}).get(own.get("settings")) or {})
    columns = own.get("evaluations") or {"step": []}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    diverged = own.get("diverged")
    scored = own.get("kind") != "collect" and not diverged
    final = {w: {"tasks": {t: tasks[t][w] for t in tasks}} for w in ("best", "last")} if scored else {}
    record = records.check(RunRecord, record, "the record of a run", REQUIRED)
    records.check_lines(rows, "evaluations")
    final = records.check(FinalRecord, final, FINAL) if scored else {}
    # A path within the file, where nothing lies, tells it from other runs.
    return Run(file / own["dir"], record, tuple(rows), final, diverged and str(diverged))


def _references(vaults: Path) -> dict[str, Mapping[str, Any]]:
    """{task: reference figures} of a directory of vaults."""
    root = vaults / "references"
    files = files_below(root, "*.json") if root.is_dir() else []
    found = {f.relative_to(root).with_suffix("").as_posix(): f for f in files}
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
