"""The sections of a report: text, tables and figures, each with its numbers as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from mtmarl.analysis import (
    experiments,
    few_shot,
    measure,
    plans,
    run_plots,
    run_tables,
    stats,
    sweep_plots,
    tables,
    verdicts,
)
from mtmarl.analysis.document import Code, Part, Picture, Section, slug
from mtmarl.analysis.facts import place
from mtmarl.analysis.runs import SPLITS, Run, scored_tasks, scores, without_reference
from mtmarl.analysis.sweeps import Sweep

Numbers = dict[str, Any]

CHECKPOINTS = {
    "best": "the checkpoint with the highest score on the {select} tasks",
    "last": "the checkpoint after the final update",
}
PROTOCOL = (
    "Normalised score = {score}. Actions are {played}. Scores are of {checkpoint}, over {episodes} a task. "
    "Intervals: 95% t intervals over runs, with the degrees of freedom of Welch and Satterthwaite; those of gains, "
    "which are ratios of means, are Fieller's. They hold the truth about 95 times in 100, with 3 seeds as with 5 "
    "(`experiment_scripts/coverage.py`); those of shares end at 0 and 1. The spread is that of whole runs, as a run "
    "scores all its tasks. Seeds of "
    "different cells (an algorithm with its settings and training tasks) are independent, unless only the choice of "
    "the checkpoint tells these apart. Intervals speak of new seeds on these tasks and references, not of new tasks. A "
    "single seed has no interval. IQM: mean of the middle half of all scores (Agarwal et al. 2021, Deep RL at the edge "
    "of the statistical precipice)."
)
SCORES = {
    False: "return / return of online Sable on the task",
    True: "share of episodes won, where tasks are won",
}
TEST_SELECTION = "**Some of these runs chose their best checkpoint on the test tasks.**"
TASKS_DIFFER = (
    "**Not all {these} were scored on the same held-out tasks**, so their means do not compare: see the comparisons, "
    "which take the tasks that both sides share, and the table task by task."
)
SHARED_TASKS = "Each pair over the tasks that both were scored on; above it the gain with its 95% interval."


def method(which: str) -> Numbers:
    return {
        "checkpoint": which,
        "interval": "t over runs (Welch-Satterthwaite); gains: Fieller; IQM: standard error of the jackknife over runs",
        "confidence": stats.CONFIDENCE,
        "power": stats.POWER,
        "score": "; ".join(SCORES.values()),
    }


def _protocol(runs: Sequence[Run], which: str) -> list[str]:
    """How the numbers were made, in words."""
    select = {str(r.record.get("select_on", "train")) for r in runs}
    scored = [(r, t) for r in runs for split in SPLITS for t in r.tasks(split)]
    counts = {r.episodes(t, which) for r, t in scored}
    low, high = (min(counts), max(counts)) if counts else (0, 0)
    text = PROTOCOL.format(
        score="; ".join(dict.fromkeys(SCORES[r.winnable(t)] for r, t in scored)) or SCORES[False],
        played=acting(runs),
        episodes=f"{low} episodes" if low == high else f"{low} to {high} episodes",
        checkpoint=CHECKPOINTS[which].format(
            select="training" if select <= {"train"} else "/".join(sorted(select))
        ),
    )
    out = [text]
    if "test" in select:
        out.append(TEST_SELECTION)
    if silent := sum(not run.metrics for run in runs):
        out.append(
            f"No evaluations during training were kept of {silent} of these runs: no learning curves of those."
        )
    if missing := without_reference(runs):
        out.append(f"No reference return is known of {', '.join(missing)}: left out of normalised scores.")
    return out


def acting(runs: Sequence[Run]) -> str:
    """How runs chose actions when they were scored: which algorithms how, and on which tasks where one's own differ."""
    ways: dict[str, dict[str, dict[str, None]]] = {}
    for run in runs:
        way = str(run.record.get("acting") or "chosen in a way that was not recorded")
        ways.setdefault(way, {}).setdefault(run.title, {})[str(run.record["tasks"])] = None
    if len(ways) == 1:
        return next(iter(ways))
    several = lambda algo: sum(algo in of for of in ways.values()) > 1
    name = lambda algo, tasks: algo + (f" on {', '.join(tasks)}" if several(algo) else "")
    return "; ".join(f"{way} ({', '.join(name(a, t) for a, t in of.items())})" for way, of in ways.items())


def _section(title: str, parts: Sequence[Part | None]) -> Section:
    return Section(title, tuple(part for part in parts if part is not None))


def _picture(name: str, figure: Figure | None, caption: str) -> Picture | None:
    return None if figure is None else Picture(name, figure, caption)


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


# ------------------------------------------------------------------------------------------------ a sweep


def of_sweep(sweep: Sweep, which: str, threshold: float) -> tuple[Section, Numbers]:
    cells, combined = measure.cells(sweep, which), measure.combined(sweep, which)
    claims, comparisons = verdicts.claims(sweep, which), measure.comparisons(sweep, which)
    published = verdicts.published(sweep, which)
    to_do, diverged = measure.to_do(sweep), measure.diverged(sweep)
    finished, remarks = sweep.finished(), plans.remarks(sweep)
    origin, tasks = measure.provenance(finished), measure.per_task(sweep, which)
    numbers = {
        **{key: getattr(sweep, key) for key in ("name", "profile", "title", "x", "panel", "line", "axes")},
        "cells": cells,
        "combined": combined,
        "claims": claims,
        "published": published,
        "comparisons": comparisons,
        "test_tasks": tasks,
        "to_do": to_do,
        "diverged": diverged,
        "remarks": remarks,
        "provenance": origin,
    }
    prefix = slug(f"{sweep.name}-{sweep.profile}")
    done, planned = len(finished), len(sweep.entries)
    parts: list[Part | None] = [
        f"Sweep `{sweep.name}`, profile `{sweep.profile}`: {done} of {planned} runs finished."
        + (" The numbers below are of those." if done < planned and finished else "")
    ]
    if diverged:
        parts.append(f"**{len(diverged)} of them diverged**: they have no score and are in no mean.")
        parts.append(_listed(diverged))
    parts += [*(_protocol(finished, which) if finished else []), *remarks]
    if comparable := not measure.tasks_differ(sweep):
        bands = "Bands" if sweep.numbers() is not None else "Whiskers"
        figure = sweep_plots.sweep_figure(sweep, cells, combined)
        caption = f"{bands}: 95% intervals, where there are several seeds."
    else:
        parts.append(TASKS_DIFFER.format(these="cells"))
        figure, caption = sweep_plots.comparisons(comparisons), SHARED_TASKS
    parts.append(_picture(prefix, figure, f"{sweep.title}. {caption}"))
    if finished:
        profiles = run_plots.profiles(measure.profile_groups(sweep, which))
        caption = f"{sweep.title}: performance profiles on held-out tasks. {run_plots.PROFILE_BANDS}"
        parts += [
            tables.sweep_overview(sweep, cells, combined, comparable),
            tables.published(sweep, published),
            tables.claims(claims),
            _picture(
                f"{prefix}-claims", sweep_plots.claims(claims), f"{sweep.title}: published gains and ours."
            ),
            tables.sweep_cells(sweep, cells),
            tables.sweep_greedy(sweep, cells),
            tables.sweep_combined(sweep, combined),
            tables.comparisons(comparisons, "Comparisons between cells"),
            _picture(f"{prefix}-profile", profiles, caption),
            tables.sweep_tasks(sweep, tasks),
            tables.sweep_training(sweep, cells),
        ]
    elif claims:
        parts.append(tables.claims(claims))
    figures = sweep_plots.sweep_curves(sweep, cells)
    for i, figure in enumerate(figures):
        more = f" ({i + 1} of {len(figures)})" if len(figures) > 1 else ""
        caption = (
            f"{sweep.title}: learning curves of every cell{more}; thin lines are seeds. Shaded: the last fifth of "
            "training, with the relative change of the score on training tasks over it. Scores far below 0 are cut off."
        )
        parts.append(Picture(f"{prefix}-curves{i or ''}", figure, caption))
    soon, more = _few_shot(few_shot.groups(sweep), threshold, f"{prefix}-")
    if soon:
        numbers["few_shot"], parts = soon, [*parts, *more]
    name = lambda e: f"{sweep.label(e.cell) or sweep.title}, seed {e.seed}"
    going = {name(e): e.run for e in sweep.entries if e.run is not None and e.unfinished}
    parts.append(run_tables.unfinished(going))
    if finished:
        parts.append(tables.provenance(origin))
    if to_do:
        parts.append(
            f"**Runs to do: {len(to_do)} of {planned}** are missing or unfinished. From the root of the repository:"
        )
        what = lambda t: ", ".join(f"{a}={v}" for a, v in t["cell"].items())
        parts.append(
            Code("\n".join(f"# {t['state']}: {what(t)}, seed {t['seed']}\n{t['command']}" for t in to_do))
        )
    title = sweep.title if sweep.profile in ("", "default") else f"{sweep.title} ({sweep.profile})"
    return _section(title, parts), numbers


# ------------------------------------------------------------------------------------------- plain runs


def of_experiments(
    trained: Sequence[Run], paths: Sequence[Path], which: str, threshold: float
) -> tuple[Section, list[Numbers]]:
    found = experiments.sort_out(trained, paths)
    groups = found.groups
    counted = [run for group in groups.values() for run in group]
    checkpoints = [which, *(w for w in CHECKPOINTS if w != which)]
    numbers = {k: {w: measure.group(g, w) for w in checkpoints} for k, g in groups.items()}
    comparisons = _between(groups, which)
    profile = {
        k: b for k, g in groups.items() if (b := stats.blocks([scores(g, scored_tasks(g, "test"), which)]))
    }
    parts: list[Part | None] = [*_protocol(counted, which), *found.remarks]
    if len({frozenset(scored_tasks(g, "test")) for g in groups.values()}) > 1:
        parts.append(TASKS_DIFFER.format(these="experiments"))
    curves = "Normalised return over training. Bands: the range of the seeds."
    bars = "Normalised return task by task. Whiskers: 95% intervals over seeds. A task without a bar has no score."
    parts += [
        run_tables.summary(numbers),
        Picture("learning_curves", run_plots.learning_curves(groups), curves),
        Picture("tasks", run_plots.task_bars(groups, which), bars),
        *(run_tables.per_task(label, group, which) for label, group in groups.items()),
    ]
    soon, more = _few_shot(groups, threshold)
    caption = f"Performance profiles on held-out tasks. {run_plots.PROFILE_BANDS}"
    profiles = run_plots.profiles({"held-out tasks": profile} if profile else {})
    parts += [
        *more,
        tables.comparisons(comparisons, "Comparisons on the test tasks that both were scored on"),
        _picture("profile", profiles, caption),
    ]
    for i, (label, group) in enumerate(groups.items()):
        caption = f"{label}: losses and other scalars of training."
        parts.append(_picture(f"training_{i}", run_plots.training_curves(group), caption))
    parts.append(tables.provenance(measure.provenance(counted)))
    results = [
        {
            "label": label,
            "slug": slug(label),
            "settings": found.settings[label],
            "scores": of,
            "comparisons": [c for c in comparisons if c["one"] == label],
            **({"few_shot": own} if (own := [f for f in soon if f["label"] == label]) else {}),
            "runs": [{"dir": place(run, paths), "seed": run.seed} for run in groups[label]],
        }
        for label, of in numbers.items()
    ]
    return _section(next(iter(groups)) if len(groups) == 1 else "Experiments", parts), results


def _few_shot(
    groups: Mapping[str, Sequence[Run]], threshold: float, prefix: str = ""
) -> tuple[list[Numbers], list[Part | None]]:
    """How soon runs get good that learned by acting or began with an earlier policy, and how that is shown."""
    found = few_shot.figures(groups, threshold)
    figure = run_plots.few_shot_curves(groups, found)
    if figure is None:
        return found, []
    caption = "Return of evaluations during training; dotted: the threshold. Bands: range of seeds. "
    caption += "Returns far below 0 are cut off."
    return found, [run_tables.few_shot(found, threshold), Picture(f"{prefix}few-shot", figure, caption)]


def _between(groups: Mapping[str, Sequence[Run]], which: str) -> list[Numbers]:
    """Every experiment against every later one, on the test tasks that both were scored on."""
    labels = list(groups)
    found = [
        {
            "one": a,
            "other": b,
            "split": "test",
            **measure.compare_runs([(groups[a], groups[b])], "test", which),
        }
        for i, a in enumerate(labels)
        for b in labels[i + 1 :]
    ]
    return [c for c in found if c["tasks"]]


def of_unfinished(runs: Sequence[Run], paths: Sequence[Path]) -> tuple[Section, list[Numbers]]:
    """Runs without a final score: how far they are and what their last evaluation says. They are in no mean."""
    going = {f"{run.label}, seed {run.seed}": run for run in runs}
    if len(going) < len(runs):
        going = {f"{run.label}, seed {run.seed}: {place(run, paths)}": run for run in runs}
    caption = "Unfinished runs: normalised return over training so far."
    parts = [
        "**These runs are not finished**: what they score below is that of their last evaluation, and is in no mean.",
        run_tables.unfinished(going),
        Picture("unfinished", run_plots.learning_curves({k: [r] for k, r in going.items()}), caption),
    ]
    return _section("Unfinished runs", parts), [
        {"run": name, **(measure.progress(run) or {})} for name, run in going.items()
    ]


# ------------------------------------------------------------------------------------------- collection


def of_collection(collected: Sequence[Run]) -> tuple[Section, list[Numbers]]:
    collected = sorted(collected, key=lambda r: (r.tasks("train"), r.seed, r.started))
    known = [(r, n) for r in collected if (n := measure.collection(r)) is not None]
    drawn = [r for r in collected if r.metrics]
    figure = run_plots.collection_curves(drawn) if drawn else None
    # Collection keeps its minutes with the metrics, not in run.json.
    timed = [replace(r, record={**r.record, "minutes": n["minutes"]}) for r, n in known]
    parts = [
        run_tables.collection([n for _, n in known], acting(collected)),
        _picture("collection", figure, "Online training: return per episode over env steps."),
        tables.provenance(measure.provenance(timed)),
    ]
    return _section("Online training", parts), [n for _, n in known]


def of_remarks(remarks: Sequence[str], refused: Sequence[tuple[str, str]]) -> Section:
    left_out = ["Left out:", _listed([f"`{place}`: {reason}" for place, reason in refused])]
    return Section("Remarks", (*remarks, *(left_out if refused else ())))
