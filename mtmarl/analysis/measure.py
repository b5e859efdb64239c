"""The numbers of a report as plain values, which tables, figures and results.json show.

Scores are normalised (see `runs.Run.normalised`); `which` is the checkpoint they are of, best or last.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtmarl.analysis import facts, stats, sweeps
from mtmarl.analysis.runs import SPLITS, Run, own_tasks, random_scores, scored_tasks, scores, split_scores
from mtmarl.analysis.stats import Interval
from mtmarl.analysis.sweeps import Cell, Entry, Sweep

# What a run has done beside its updates, as its `counts` name it.
PLAYED = ("env_steps", "episodes")

Pairs = Sequence[tuple[Cell, Cell]]


def aggregate(groups: Sequence[Sequence[Run]], split: str, which: str) -> dict[str, Any] | None:
    """Mean and IQM with intervals, and optimality gap, over groups of runs, one per cell; None without scores."""
    blocks = stats.blocks([split_scores(runs, split, which) for runs in groups])
    if not blocks:
        return None
    out: dict[str, Any] = {"tasks": sum(b.shape[1] for b in blocks)}
    possible = _possible([run for runs in groups for run in runs], split)
    for name, statistic in (("mean", stats.mean), ("iqm", stats.iqm)):
        out[name] = stats.value(blocks, statistic)
        out[f"{name}_interval"] = stats.interval(blocks, statistic, possible)
    out["optimality_gap"] = stats.value(blocks, stats.optimality_gap)
    out["standard_error"] = stats.standard_error(blocks)
    return out


def _possible(runs: Sequence[Run], split: str) -> Interval:
    """What scores of runs may be: shares where every task is won or lost, returns over reference returns else."""
    shares = all(run.winnable(task) for run in runs for task in scored_tasks([run], split))
    return stats.SHARES if shares else stats.ANY


def group(runs: Sequence[Run], which: str) -> dict[str, Any]:
    """What a cell or an experiment scored, and how its training went."""
    changes = [stats.late_change(*run.score_curve("train")) for run in runs]
    known = [c for c in changes if not math.isnan(c)]
    greedy = [own for own in (run.greedily() for run in runs) if own is not None]
    minutes = [float(run.record.get("minutes") or 0.0) for run in runs]
    return {
        "seeds": [run.seed for run in runs],
        **{split: aggregate([runs], split, which) for split in SPLITS},
        "greedy_seeds": [run.seed for run in greedy],
        "greedy": {split: aggregate([greedy], split, which) for split in SPLITS},
        "late_change": float(np.mean(known)) if known else None,
        "late_change_per_seed": changes,
        "updates": _one(runs, "updates"),
        "parameters": _one(runs, "parameters"),
        "minutes": sum(minutes),
        "played": _played(runs),
    }


def _played(runs: Sequence[Run]) -> dict[str, float] | None:
    """Env steps and episodes of training per run, mean over runs; None where a run did not count them."""
    counts = [run.record.get("counts") for run in runs]
    known = [c for c in counts if c]
    if not known or len(known) < len(counts):
        return None
    return {name: float(np.mean([c.get(name, 0) for c in known])) for name in PLAYED}


def _one(runs: Sequence[Run], key: str) -> Any:
    """The value of a key where all runs agree."""
    values = {run.record.get(key) for run in runs}
    return values.pop() if len(values) == 1 else None


# ------------------------------------------------------------------------------------------------ a sweep


def cells(sweep: Sweep, which: str) -> list[dict[str, Any]]:
    """Every planned cell, in order."""
    return [
        {
            "cell": dict(zip(sweep.axes, cell, strict=True)),
            "planned": len(sweep.planned(cell)),
            **group(sweep.runs(cell), which),
        }
        for cell in sweep.cells()
    ]


def combined(sweep: Sweep, which: str) -> list[dict[str, Any]]:
    """The variants of a sweep pooled over its panels, every task weighing the same; only those that all panels have."""
    found = sweeps.finals(sweep)
    if len(found) < 2:
        return []
    out = []
    for variant in sweeps.variants(sweep):
        groups = [sweep.runs(of[variant]) for of in found.values() if variant in of]
        whole = len(groups) == len(found) and all(groups)
        entry: dict[str, Any] = {"variant": variant, "panels": list(found)}
        for split in SPLITS:
            entry[split] = aggregate(groups, split, which) if whole else None
        out.append(entry)
    return out


def compare(sweep: Sweep, pairs: Pairs, split: str, which: str) -> dict[str, Any]:
    """One side of pairs of cells against the other, with how many of their runs there are."""
    entries = [e for cell in sorted({c for pair in pairs for c in pair}) for e in sweep.planned(cell)]
    return {
        "runs_finished": sum(e.finished for e in entries),
        "runs_diverged": sum(e.diverged for e in entries),
        "runs_planned": len(entries),
        **compare_runs([(sweep.runs(a), sweep.runs(b)) for a, b in pairs], split, which),
    }


def compare_runs(
    pairs: Sequence[tuple[Sequence[Run], Sequence[Run]]], split: str, which: str
) -> dict[str, Any]:
    """Pairs of groups of runs, pooled, each on the tasks that both groups of the pair were scored on.

    Where only the choice of the best checkpoint differs, the two runs of a seed are one training: a pair.
    Where runs of a side were trained on tasks of their own, training scores are compared task by task, as pairs.
    `gain_above_random`: that of scores where 0 is random play and 1 the reference; NaN where the former is unknown.
    """
    left, right, random, alike = [], [], [], []
    for ours, theirs in pairs:
        if not ours or not theirs:
            continue
        if split == "train" and (own_tasks(ours) or own_tasks(theirs)):
            own = _on_own_tasks(ours, theirs, which)
            for part, block in zip((left, right, random), own, strict=True):
                part.append(block)
            alike.append(True)
            continue
        known = set(scored_tasks(theirs, split))
        tasks = [t for t in scored_tasks(ours, split) if t in known]
        left.append(scores(ours, tasks, which))
        right.append(scores(theirs, tasks, which))
        random.append(random_scores(ours[0], tasks))
        alike.append(_trained_alike(ours, theirs, tasks))
    paired = bool(alike) and all(alike)
    above = lambda side: [(x - r) / (1 - r) for x, r in zip(side, random, strict=True)]
    above_random = stats.gain(above(left), above(right), paired)
    left, right = stats.blocks(left), stats.blocks(right)
    runs = [run for pair in pairs for side in pair for run in side]
    found = stats.gain(left, right, paired, _possible(runs, split))
    return {
        "tasks": sum(b.shape[1] for b in left),
        "seeds_of": [len(b) for b in left],
        "seeds_over": [len(b) for b in right],
        "mean_of": stats.value(left),
        "mean_over": stats.value(right),
        "gain": found.gain,
        "interval": found.interval,
        "detectable": found.detectable,
        "difference": found.difference,
        "difference_interval": found.difference_interval,
        "gain_above_random": above_random.gain,
        "interval_above_random": above_random.interval,
        "improvement": stats.probability_of_improvement(left, right, paired),
        "paired": paired,
    }


def _on_own_tasks(
    ours: Sequence[Run], theirs: Sequence[Run], which: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training scores of both sides on the tasks of each run that has its own, and random play there: [pairs, 1] each.

    The other side is the mean of those of its runs that were trained on these tasks as well.
    """
    turned = not own_tasks(ours)
    runs, others = (theirs, ours) if turned else (ours, theirs)
    rows = []
    for run in runs:
        tasks = scored_tasks([run], "train")
        beside = [other for other in others if set(tasks) <= set(other.tasks("train"))]
        if tasks and beside:
            own = scores([run], tasks, which).mean()
            rows.append((own, scores(beside, tasks, which).mean(), random_scores(run, tasks).mean()))
    own, other, played = np.asarray(rows, float).reshape(-1, 3, 1).swapaxes(0, 1)
    return (other, own, played) if turned else (own, other, played)


def _trained_alike(ours: Sequence[Run], theirs: Sequence[Run], tasks: Sequence[str]) -> bool:
    """Whether only the choice of the best checkpoint tells runs of the same seeds apart: they end alike."""
    chosen = [{run.record.get("select_on") for run in side} for side in (ours, theirs)]
    if [run.seed for run in ours] != [run.seed for run in theirs] or not chosen[0].isdisjoint(chosen[1]):
        return False
    # A results.json keeps six digits.
    return np.allclose(scores(ours, tasks, "last"), scores(theirs, tasks, "last"), rtol=1e-5, atol=1e-8)


def comparisons(sweep: Sweep, which: str) -> list[dict[str, Any]]:
    """All comparisons of `sweeps.pairs` that can be made, on test tasks; without those on training tasks."""
    split = "test" if any(run.tasks("test") for e in sweep.entries if (run := e.run)) else "train"
    # Of several panels that are pooled one alone may have been run: that comparison is there already.
    made = lambda pairs: sum(bool(sweep.runs(a) and sweep.runs(b)) for a, b in pairs)
    found = [
        {"one": one, "other": other, "split": split, **compare(sweep, pairs, split, which)}
        for one, other, pairs in sweeps.pairs(sweep)
        if len(pairs) == 1 or made(pairs) > 1
    ]
    return [c for c in found if c["tasks"]]


def profile_groups(sweep: Sweep, which: str) -> dict[str, dict[str, list[np.ndarray]]]:
    """{panel: {label: blocks of test scores}} of the variants; a single series is split along x instead."""
    found = sweeps.finals(sweep)
    if len(sweeps.variants(sweep)) == 1 and sweep.x is not None:
        found = {p: {(sweep.level(c, sweep.x),): c for c in sweep.in_panel(p)} for p in found}
    out: dict[str, dict[str, list[np.ndarray]]] = {}
    for panel, of in found.items():
        for variant, cell in of.items():
            runs = sweep.runs(cell)
            blocks = stats.blocks([scores(runs, scored_tasks(runs, "test"), which)]) if runs else []
            if blocks:
                out.setdefault(sweep.title_of(panel), {})[sweep.spell(variant)] = blocks
    if len(out) > 1 and len(out) == len(found):
        whole = [label for label in next(iter(out.values())) if all(label in of for of in out.values())]
        if whole:
            out["combined"] = {label: [b for of in out.values() for b in of[label]] for label in whole}
            out["combined"] = {k: v for k, v in out["combined"].items() if v}
    return out


def per_task(sweep: Sweep, which: str) -> dict[str, dict[str, dict[str, Any]]]:
    """{task: {variant: numbers}} of the test tasks, variants as in `sweeps.finals`; panels that score a task alike
    would collide, so their name is put before the task's where a task is in several panels."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for panel, of in sweeps.finals(sweep).items():
        for variant, cell in of.items():
            runs = sweep.runs(cell)
            for task in scored_tasks(runs, "test"):
                block = [scores(runs, [task], which)]
                numbers = {"mean": stats.value(block), "standard_error": stats.standard_error(block)}
                found.setdefault((panel, task), {})[sweep.spell(variant)] = numbers
    tasks = [task for _, task in found]
    several = len(set(tasks)) < len(tasks)
    return {f"{panel}: {task}" if several else task: of for (panel, task), of in found.items()}


def tasks_differ(sweep: Sweep) -> bool:
    """Whether cells that a figure sets side by side were scored on different test tasks."""
    return any(
        len({tuple(scored_tasks(r, "test")) for c in sweep.in_panel(p) if (r := sweep.runs(c))}) > 1
        for p in sweep.panels()
    )


def to_do(sweep: Sweep) -> list[dict[str, Any]]:
    """The runs that are still to be made; those that diverged would do so again."""
    return [
        {
            "cell": dict(zip(sweep.axes, e.cell, strict=True)),
            "seed": e.seed,
            "state": e.problem,
            "command": e.command,
        }
        for e in _in_order(sweep)
        if not e.finished and not e.diverged
    ]


def diverged(sweep: Sweep) -> list[str]:
    """The runs that diverged, and how."""
    return [
        f"{sweep.label(e.cell) or sweep.title}, seed {e.seed}: {e.run.diverged}"
        for e in _in_order(sweep)
        if e.run is not None and e.run.diverged
    ]


def _in_order(sweep: Sweep) -> list[Entry]:
    return [e for cell in sweep.cells() for e in sweep.planned(cell)]


def provenance(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Runs by hardware, commit and versions, with the minutes they took in all."""
    out: dict[tuple[str, ...], dict[str, Any]] = {}
    for run in runs:
        record = run.record
        versions = record.get("versions") or {}
        key = (
            str(record.get("hardware") or "unknown"),
            str(record.get("commit") or "unknown"),
            ", ".join(f"{k} {v}" for k, v in sorted(versions.items())) or "unknown",
        )
        entry = out.setdefault(
            key, dict(zip(("hardware", "commit", "versions"), key, strict=True), runs=0, minutes=0.0)
        )
        entry["runs"] += 1
        entry["minutes"] += float(record.get("minutes") or 0.0)
    return [out[key] for key in sorted(out)]


def progress(run: Run) -> dict[str, Any] | None:
    """How far an unfinished run is, and the scores of its last evaluation; None before its first."""
    at = [m["step"] for m in run.metrics if any(k.startswith("eval/") for k in m)]
    if not at:
        return None
    last = {split: curve[1][-1] for split in SPLITS if (curve := run.score_curve(split))[1].size}
    scored = {split: float(last[split]) if split in last else None for split in SPLITS}
    return {"update": at[-1], "updates": run.record.get("updates"), **scored}


# --------------------------------------------------------------------------------------------- collection


def collection(run: Run) -> dict[str, Any] | None:
    """What an online run learned and how fast; None before its first evaluation."""
    task = run.tasks("train")[0]
    steps, sampled = run.curve(f"eval/{task}/return")
    _, greedy = run.curve(f"eval/{task}/greedy_return")
    if not steps.size:  # Of the earliest collections only these numbers were kept.
        return dict(run.record["collected"]) if run.record.get("collected") else None
    clock = [(m["step"], float(m["minutes"])) for m in run.metrics if m.get("minutes") is not None]
    at, minutes = clock[-1] if clock else (None, None)
    config = run.record.get("config") or {}
    planned = (config.get("collect") or {}).get("evaluations")
    return {
        "task": task,
        "seed": run.seed,
        "env_steps": int(steps[-1]),
        "minutes": minutes,
        "steps_per_second": at / (60 * minutes) if at and minutes else None,
        "final": float(sampled[-1]),
        "best": float(sampled.max()),
        "best_at": int(steps[sampled.argmax()]),
        "greedy": float(greedy[-1]) if greedy.size else None,
        # A run that goes on from another one does not start at random play.
        "untrained": float(sampled[0]) if steps[0] == 0 and not facts.start(run) else None,
        "evaluations": int(steps.size),
        "evaluations_planned": None if planned is None else int(planned) + 1,
    }
