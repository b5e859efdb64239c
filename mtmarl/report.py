"""`python -m mtmarl.report runs/…`: tables, curves and intervals from whatever runs and sweeps lie there.

Reads files alone, so runs of several machines can be put side by side: parts of one sweep below different paths are
put together, and the results.json of an earlier report stands for the runs that it was made of. Writes Markdown, one
HTML page, LaTeX tables, figures as PNG and SVG, and every number as results.json.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtmarl import config, settings, terminal
from mtmarl.command_lines import line
from mtmarl.errors import UserError, exit_with, failed
from mtmarl.files import write_together

if TYPE_CHECKING:
    from mtmarl.analysis.document import Part, Section
    from mtmarl.analysis.runs import Run
    from mtmarl.analysis.sweeps import Sweep

RESULTS = "results.json"
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


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mtmarl.report", description=__doc__)
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        help="directories of runs or sweeps, directories that hold some, or results.json of earlier reports",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="where the report goes; default: PATH/report, or ./report where several paths or files are given",
    )
    parser.add_argument(
        "--checkpoint",
        choices=tuple(CHECKPOINTS),
        default="best",
        help="which checkpoint the scores are of; best (the default) is chosen on training tasks",
    )
    parser.add_argument(
        "--references",
        type=Path,
        metavar="VAULTS",
        help="normalise by the reference returns in this vault directory, not by those that the runs recorded",
    )
    parser.add_argument(
        "--threshold",
        type=_share,
        default=0.9,
        metavar="SHARE",
        help="of the largest return, where a task has one, or of the reference return: how soon runs that learn by "
        "acting, or from an earlier policy, reach it",
    )
    parser.add_argument(
        "--pictures",
        nargs="*",
        metavar="NAME",
        help="draw these figures alone, none where no name is given; default: all",
    )
    args = parser.parse_args(argv)
    # The first of several paths has a report of its own.
    alone = len(args.runs) == 1 and not args.runs[0].is_file()
    out = args.out or (args.runs[0] / "report" if alone else Path("report"))
    try:
        # What lies at PATH/report is of the runs beside it; elsewhere it may be all that is known of its runs.
        keep = out != args.runs[0] / "report"
        report, notices = _write(
            args.runs, out, args.checkpoint, args.references, args.threshold, keep, args.pictures
        )
    except (UserError, OSError) as error:
        return failed(error)
    for notice in notices:
        terminal.say(notice)
    terminal.say(f"report: {report}")
    return 0


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 10:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; give a number above 0, at most 10")
    return value


def write_report(paths: Sequence[Path], out: Path, which: str = "best") -> Path:
    """Writes the report on all runs and sweeps at or below the paths; returns the path of report.md."""
    return _write(paths, out, which)[0]


def _write(
    paths: Sequence[Path],
    out: Path,
    which: str,
    references: Path | None = None,
    threshold: float = 0.9,
    keep: bool = False,
    pictures: Sequence[str] | None = None,
) -> tuple[Path, list[str]]:
    """`keep`: an earlier report that holds runs which this one lacks is not written over.

    `pictures`: all that are drawn.
    """
    from mtmarl.analysis import document, measure, runs, sweeps

    found = runs.load(paths, references)
    completed, unlike = [], []
    for run in found.runs:
        try:
            completed.append(_completed(run))
        except ValueError as error:
            unlike.append((runs.shown(run.path, paths), f"damaged: {runs.reason(error)}"))
    found = replace(found, runs=tuple(completed), refused=(*found.refused, *unlike))
    plans = sweeps.load(paths, found)
    planned, refused = plans.sweeps, list(dict.fromkeys([*found.refused, *plans.refused]))
    rest = [r for r in found.runs if r.path.resolve() not in plans.directories]
    trained = [r for r in rest if r.kind == "train" and r.final]
    collected = [r for r in rest if r.kind == "collect" and measure.collection(r) is not None]
    shown = {id(r) for r in (*trained, *collected)}
    for run in rest:
        if id(run) not in shown:
            refused.append((runs.shown(run.path, paths), _why_not(run)))
    if not (planned or trained or collected or any(r.diverged for r in rest)):
        reasons = [f"{place}: {reason}" for place, reason in refused]
        earlier = [p / RESULTS for p in paths if (p / RESULTS).is_file()]
        reasons += [f"{file} is that of an earlier report: give the file itself" for file in earlier]
        empty = "no runs or sweeps there"
        raise UserError(f"{', '.join(map(str, paths))}: nothing to report on ({'; '.join(reasons) or empty})")

    sections: list[Section] = []
    results: dict[str, Any] = {
        "format": runs.FORMAT,
        "method": _method(which),
        "sweeps": [],
        "experiments": [],
    }
    notices = []
    for sweep in planned:
        section, numbers = _sweep(sweep, paths, which, threshold)
        sections.append(section)
        results["sweeps"].append(numbers)
        missing, lost = len(numbers["to_do"]), len(numbers["diverged"])
        notices.append(
            f"{sweep.name} ({sweep.profile}): {len(sweep.finished())} of {len(sweep.entries)} runs finished, "
            + (f"{lost} diverged, " if lost else "")
            + f"{missing} missing or unfinished"
            + (f"; their commands: {out / 'report.md'}" if missing else "")
        )
    if trained:
        section, results["experiments"] = _experiments(trained, paths, which, threshold)
        sections.append(section)
    if collected:
        section, results["collection"] = _collection(collected, paths)
        sections.append(section)
    title = sections[0].title if len(sections) == 1 else "Report"
    if found.remarks or refused:
        results["left_out"] = [{"path": place, "reason": reason} for place, reason in sorted(refused)]
        results["remarks"] = list(found.remarks)
        sections.append(_remarks(found.remarks, sorted(refused)))

    if keep and (out / RESULTS).exists():
        _check_holds(results, out)
    if pictures is not None:
        drawn = [picture.name for section in sections for picture in section.pictures()]
        if unknown := sorted(set(pictures).difference(drawn)):
            raise UserError(f"--pictures: no figure {unknown[0]!r}; there are {', '.join(drawn) or 'none'}")
        sections = [section.with_pictures(pictures) for section in sections]
    reported = [*trained, *(r for s in planned for r in s.finished())]
    results["references"] = measure.references(reported)
    results["settings"] = measure.all_settings([*reported, *collected])
    contents: dict[Path, str | bytes] = {}
    for picture in (p for section in sections for p in section.pictures()):
        contents[out / f"{picture.name}.png"] = picture.png
        contents[out / f"{picture.name}.svg"] = picture.svg
    contents[out / "report.md"] = document.markdown(title, sections)
    contents[out / "report.html"] = document.page(title, sections)
    contents[out / "table.tex"] = document.latex(sections)
    contents[out / RESULTS] = measure.to_json(results) + "\n"
    write_together(contents)
    return out / "report.md", notices


def _completed(run: "Run") -> "Run":
    """With the defaults of settings that the record of the run, made by an earlier version, does not know."""
    own = run.record.get("config")
    if not own:
        return run
    known = settings.flatten(config.defaults(run.record["algo"]))
    return replace(run, record={**run.record, "config": settings.unflatten(known | settings.flatten(own))})


def _check_holds(results: dict[str, Any], out: Path) -> None:
    """Raises a UserError if the report at `out` holds runs that `results` lacks."""
    from mtmarl.analysis import runs

    try:
        earlier = runs.read_results(out / RESULTS)
        lost = _held(earlier) - _held(results)
    except runs.BROKEN as error:
        raise UserError(f"{out / RESULTS}: {runs.reason(error)}; give another --out") from error
    if lost:
        raise UserError(
            f"{out}: holds a report on {len(lost)} runs that this one lacks, such as {min(lost)}; give another --out, "
            f"or {line(out / RESULTS)} beside the paths"
        )


def _held(results: dict[str, Any]) -> set[str]:
    """Names of the runs in a results.json, wherever they lay."""
    seed = lambda run: f"seed {run['seed']}"
    planned = {
        " ".join([s["name"], s["profile"], *map(str, run["cell"].values()), seed(run)])
        for s in results["sweeps"]
        for run in s["runs"]
    }
    plain = {f"{e['label']} {seed(run)}" for e in results["experiments"] for run in e["runs"]}
    online = {f"{c['task']} {seed(c['run'])}" for c in results.get("collection") or ()}
    return planned | plain | online


def _why_not(run: "Run") -> str:
    if run.diverged:
        return f"seed {run.seed} of {run.label} {run.diverged}"
    if run.kind == "train":
        return "unfinished: it has no final.json yet"
    return "no evaluation yet" if run.kind == "collect" else f"a {run.kind} run: nothing is reported on those"


def _method(which: str) -> dict[str, Any]:
    from mtmarl.analysis import stats

    return {
        "checkpoint": which,
        "interval": "t over runs (Welch-Satterthwaite); gains: Fieller; IQM: standard error of the jackknife over runs",
        "confidence": stats.CONFIDENCE,
        "power": stats.POWER,
        "score": "; ".join(SCORES.values()),
    }


def _protocol(runs: Sequence["Run"], which: str) -> list[str]:
    """How the numbers below came about, in words."""
    from mtmarl.analysis import acting
    from mtmarl.analysis.runs import without_reference

    select = {str(r.record.get("select_on", "train")) for r in runs}
    counts = {r.episodes(t, which) for r in runs for s in ("train", "test") for t in r.tasks(s)}
    low, high = (min(counts), max(counts)) if counts else (0, 0)
    checkpoint = CHECKPOINTS[which].format(
        select="training" if select <= {"train"} else "/".join(sorted(select))
    )
    episodes = f"{low} episodes" if low == high else f"{low} to {high} episodes"
    score = dict.fromkeys(SCORES[r.winnable(t)] for r in runs for s in ("train", "test") for t in r.tasks(s))
    text = PROTOCOL.format(
        score="; ".join(score) or SCORES[False],
        played=acting.described(runs),
        episodes=episodes,
        checkpoint=checkpoint,
    )
    out = [text]
    if "test" in select:
        out.append(TEST_SELECTION)
    silent = sum(not run.metrics for run in runs)
    if silent:
        out.append(
            f"No evaluations during training were kept of {silent} of these runs: no learning curves of those."
        )
    missing = without_reference(runs)
    if missing:
        out.append(f"No reference return is known of {', '.join(missing)}: left out of normalised scores.")
    return out


# ---------------------------------------------------------------------------------------------- sections


def _sweep(
    sweep: "Sweep", paths: Sequence[Path], which: str, threshold: float
) -> tuple["Section", dict[str, Any]]:
    from mtmarl.analysis import few_shot, measure, plots, sweeps, tables
    from mtmarl.analysis.document import Code, Picture, Section, slug

    cells, combined = measure.cells(sweep, which), measure.combined(sweep, which)
    claims, comparisons = measure.claims(sweep, which), measure.comparisons(sweep, which)
    published = measure.published(sweep, which)
    to_do, diverged = measure.to_do(sweep), measure.diverged(sweep)
    finished = sweep.finished()
    origin = measure.provenance(finished)
    tasks = measure.per_task(sweep, which)
    numbers = {
        "name": sweep.name,
        "profile": sweep.profile,
        "title": sweep.title,
        "x": sweep.x,
        "panel": sweep.panel,
        "line": sweep.line,
        "axes": sweep.axes,
        "cells": cells,
        "combined": combined,
        "claims": claims,
        "published": published,
        "comparisons": comparisons,
        "test_tasks": tasks,
        "to_do": to_do,
        "diverged": diverged,
        "remarks": sweeps.remarks(sweep),
        "provenance": origin,
        "runs": measure.sweep_runs(sweep, paths),
    }

    prefix = slug(f"{sweep.name}-{sweep.profile}")
    done = len(finished)
    parts: list[Part | None] = [
        f"Sweep `{sweep.name}`, profile `{sweep.profile}`: {done} of {len(sweep.entries)} runs finished."
        + (" The numbers below are of those." if done < len(sweep.entries) and finished else "")
    ]
    if diverged:
        parts.append(f"**{len(diverged)} of them diverged**: they have no score and are in no mean.")
        parts.append("\n".join(f"- {line}" for line in diverged))
    if finished:
        parts += _protocol(finished, which)
    parts += numbers["remarks"]
    comparable = not measure.tasks_differ(sweep)
    if not comparable:
        parts.append(TASKS_DIFFER.format(these="cells"))
    bands = "Bands" if sweep.numbers() is not None else "Whiskers"
    bands += ": 95% intervals, where there are several seeds."
    pictures = [
        (
            "",
            plots.sweep_figure(sweep, cells, combined) if comparable else plots.comparisons(comparisons),
            f"{sweep.title}. " + (bands if comparable else SHARED_TASKS),
        ),
        ("claims", plots.claims(claims), f"{sweep.title}: published gains and ours."),
        (
            "profile",
            plots.profiles(measure.profile_groups(sweep, which)),
            f"{sweep.title}: performance profiles on held-out tasks. {plots.PROFILE_BANDS}",
        ),
    ]
    drawn = {
        name: Picture(f"{prefix}-{name}" if name else prefix, figure, caption)
        for name, figure, caption in pictures
        if figure is not None
    }
    parts.append(drawn.get(""))
    if finished:
        parts += [
            tables.sweep_overview(sweep, cells, combined, comparable),
            tables.published(published),
            tables.claims(claims),
            drawn.get("claims"),
            tables.sweep_cells(sweep, cells),
            tables.sweep_greedy(sweep, cells),
            tables.sweep_combined(sweep, combined),
            tables.comparisons(comparisons, "Comparisons between cells"),
            drawn.get("profile"),
            tables.sweep_tasks(sweep, tasks),
            tables.sweep_training(sweep, cells),
        ]
    elif claims:
        parts.append(tables.claims(claims))
    figures = plots.sweep_curves(sweep, cells)
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
    if finished:
        parts.append(tables.provenance(origin))
    if to_do:
        parts.append(
            f"**Runs to do: {len(to_do)} of {len(sweep.entries)}** are missing or unfinished. From the root of the "
            "repository:"
        )
        lines = [
            f"# {t['state']}: {', '.join(f'{a}={v}' for a, v in t['cell'].items())}, seed {t['seed']}\n{t['command']}"
            for t in to_do
        ]
        parts.append(Code("\n".join(lines)))
    title = sweep.title if sweep.profile in ("", "default") else f"{sweep.title} ({sweep.profile})"
    return Section(title, tuple(p for p in parts if p is not None)), numbers


def _experiments(
    trained: Sequence["Run"], paths: Sequence[Path], which: str, threshold: float
) -> tuple["Section", list[dict[str, Any]]]:
    from mtmarl.analysis import experiments, measure, plots, stats, tables
    from mtmarl.analysis.document import Picture, Section, slug
    from mtmarl.analysis.runs import scored_tasks, scores

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
    parts.append(tables.summary(numbers))
    parts.append(
        Picture(
            "learning_curves",
            plots.learning_curves(groups),
            "Normalised return over training. Bands: the range of the seeds.",
        )
    )
    parts.append(
        Picture(
            "tasks",
            plots.task_bars(groups, which),
            "Normalised return task by task. Whiskers: 95% intervals over seeds. A task without a bar has no score.",
        )
    )
    parts += [tables.per_task(label, group, which) for label, group in groups.items()]
    soon, more = _few_shot(groups, threshold)
    parts += more
    parts.append(tables.comparisons(comparisons, "Comparisons on the test tasks that both were scored on"))
    figure = plots.profiles({"held-out tasks": profile} if profile else {})
    if figure is not None:
        caption = f"Performance profiles on held-out tasks. {plots.PROFILE_BANDS}"
        parts.append(Picture("profile", figure, caption))
    for i, (label, group) in enumerate(groups.items()):
        figure = plots.training_curves(group)
        if figure is not None:
            parts.append(Picture(f"training_{i}", figure, f"{label}: losses and other scalars of training."))
    origin = measure.provenance(counted)
    parts.append(tables.provenance(origin))
    title = next(iter(groups)) if len(groups) == 1 else "Experiments"
    results = [
        {
            "label": label,
            "slug": slug(label),
            "settings": found.settings[label],
            "scores": of,
            "comparisons": [c for c in comparisons if c["one"] == label],
            **({"few_shot": own} if (own := [f for f in soon if f["label"] == label]) else {}),
            "runs": [measure.run_record(r, paths) for r in groups[label]],
        }
        for label, of in numbers.items()
    ]
    return Section(title, tuple(p for p in parts if p is not None)), results


def _few_shot(
    groups: dict[str, list["Run"]], threshold: float, prefix: str = ""
) -> tuple[list[dict[str, Any]], list["Part"]]:
    """How soon runs get good that learned by acting or began with an earlier policy, and how that is shown."""
    from mtmarl.analysis import few_shot, plots, tables
    from mtmarl.analysis.document import Picture

    found = few_shot.figures(groups, threshold)
    figure = plots.few_shot_curves(groups, found)
    if figure is None:
        return found, []
    caption = "Return of evaluations during training; dotted: the threshold. Bands: range of seeds. "
    caption += "Returns far below 0 are cut off."
    parts = [tables.few_shot(found, threshold), Picture(f"{prefix}few-shot", figure, caption)]
    return found, [p for p in parts if p is not None]


def _between(groups: dict[str, list["Run"]], which: str) -> list[dict[str, Any]]:
    """Every experiment against every later one, on the test tasks that both were scored on."""
    from mtmarl.analysis import measure

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


def _collection(collected: Sequence["Run"], paths: Sequence[Path]) -> tuple["Section", list[dict[str, Any]]]:
    from mtmarl.analysis import acting, measure, plots, tables
    from mtmarl.analysis.document import Picture, Section

    collected = sorted(collected, key=lambda r: (r.tasks("train"), r.seed, r.started))
    known = [(r, n) for r in collected if (n := measure.collection(r)) is not None]
    parts: list[Part | None] = [tables.collection([n for _, n in known], acting.described(collected))]
    figure = plots.collection_curves(collected)
    parts.append(Picture("collection", figure, "Online training: return per episode over env steps."))
    parts.append(tables.provenance(measure.provenance([_with_minutes(r, n) for r, n in known])))
    results = [{**n, "run": measure.run_record(r, paths)} for r, n in known]
    return Section("Online training", tuple(p for p in parts if p is not None)), results


def _with_minutes(run: "Run", numbers: dict[str, Any]) -> "Run":
    """Collection keeps its minutes with the metrics, not in run.json."""
    return replace(run, record={**run.record, "minutes": numbers["minutes"]})


def _remarks(remarks: Sequence[str], refused: Sequence[tuple[str, str]]) -> "Section":
    from mtmarl.analysis.document import Section

    parts = list(remarks)
    if refused:
        parts.append("Left out:")
        parts.append("\n".join(f"- `{place}`: {reason}" for place, reason in refused))
    return Section("Remarks", tuple(parts))


if __name__ == "__main__":
    exit_with(main)
