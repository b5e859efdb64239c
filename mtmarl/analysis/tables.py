"""Tables of a sweep, from the numbers that `measure` computes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mtmarl.analysis import measure, sweeps, verdicts
from mtmarl.analysis.document import Table
from mtmarl.analysis.formats import (
    DASH,
    apart,
    count,
    detectable,
    gain,
    late,
    number,
    percent,
    signed,
    span,
    with_error,
    with_interval,
)  # fmt: skip
from mtmarl.analysis.sweeps import Sweep, plain

Rows = Sequence[Mapping[str, Any]]
Columns = dict[str, Callable[[Mapping[str, Any]], str]]

# Wider tables than this are unreadable; results.json has the numbers all the same.
MOST_COLUMNS = 8
SMALLEST = "Smallest seen: the smallest gain that as many runs, scattering like these, tell from none in 4 of 5 cases."
# The scores of anything that was scored on training and test tasks.
SCORES: Columns = {
    "train tasks": lambda c: with_interval(c["train"]),
    "test tasks": lambda c: with_interval(c["test"]),
    "test tasks, IQM": lambda c: with_interval(c["test"], "iqm"),
    "test ± s.e.": lambda c: with_error(c["test"]),
}


def _of_cells(sweep: Sweep, title: str, cells: Rows, columns: Columns, note: str) -> Table | None:
    """A row per cell, with its levels first."""
    levels = {plain(a): lambda c, a=a: sweep.title_of(c["cell"][a]) for a in sweep.axes}
    return Table.of(title, cells, {**levels, **columns}, note, len(levels))


def _seeds(key: str) -> Callable[[Mapping[str, Any]], str]:
    some = lambda c: "" if len(c[key]) == c["planned"] else f" of {c['planned']}"
    return lambda c: f"{len(c[key])}{some(c)}"


def sweep_cells(sweep: Sweep, cells: Rows) -> Table | None:
    """What was scored."""
    note = (
        "Mean normalised score [95% interval]; s.e.: standard error over seeds of the mean over tasks. Training "
        "tasks are those of the cell itself."
    )
    return _of_cells(sweep, "Scores", cells, {"seeds": _seeds("seeds"), **SCORES}, note)


def sweep_greedy(sweep: Sweep, cells: Rows) -> Table | None:
    """The cells that were scored playing greedily as well."""
    columns: Columns = {
        "seeds": _seeds("greedy_seeds"),
        "train tasks": lambda c: with_interval(c["greedy"]["train"]),
        "test tasks": lambda c: with_interval(c["greedy"]["test"]),
        "test ± s.e.": lambda c: with_error(c["greedy"]["test"]),
        "as above": lambda c: with_error(c["test"]),
    }
    note = (
        "The same policies where every agent takes the most probable or most valuable action. Checkpoints were chosen "
        "by the scores above."
    )
    return _of_cells(sweep, "Greedy play", [c for c in cells if c["greedy_seeds"]], columns, note)


def sweep_training(sweep: Sweep, cells: Rows) -> Table | None:
    """Size, time, what was played, and whether training had reached its plateau."""
    played = [name for name in measure.PLAYED if any((c["played"] or {}).get(name) for c in cells)]
    columns: Columns = {
        "parameters": lambda c: count(c["parameters"]),
        "updates": lambda c: count(c["updates"]),
        **{
            f"{name.replace('_', ' ')} played": lambda c, name=name: count((c["played"] or {}).get(name))
            for name in played
        },
        "minutes per run": lambda c: number(c["minutes"] / len(c["seeds"]), 1),
        "test optimality gap": lambda c: number(c["test"]["optimality_gap"]) if c["test"] else DASH,
        "late change": late,
    }
    note = (
        "Late change: relative change of the score on training tasks over the last fifth of training (evaluations "
        "smoothed over a tenth of it on both sides), mean over seeds (and their range); near 0 on a plateau. "
        "Optimality gap: how far scores stay below 1, on average."
    )
    if played:
        note += " Played: in training, mean over seeds."
    return _of_cells(sweep, "Training", [c for c in cells if c["seeds"]], columns, note)


def sweep_overview(sweep: Sweep, cells: Rows, combined: Rows, comparable: bool = True) -> Table | None:
    """Mean ± standard error on test tasks: variants by panels, and combined over panels.

    The largest mean of a column is bold where all were scored on the same tasks.
    """
    found, known = sweeps.finals(sweep), sweeps.variants(sweep)
    at = {tuple(c["cell"].values()): c["test"] for c in cells}
    scored = {
        sweep.title_of(p) or "test tasks": {v: at.get(of[v]) if v in of else None for v in known}
        for p, of in found.items()
    }
    if combined:
        scored["combined"] = {tuple(c["variant"]): c["test"] for c in combined}
    if (len(known) < 2 and len(scored) < 2) or not any(s for of in scored.values() for s in of.values()):
        return None

    def column(of: Mapping[sweeps.Cell, Mapping[str, Any] | None]) -> Callable[[sweeps.Cell], str]:
        means = [s["mean"] for s in of.values() if s]

        def cell(variant: sweeps.Cell) -> str:
            own = of.get(variant)
            largest = comparable and own is not None and len(means) > 1 and own["mean"] == max(means)
            return f"**{with_error(own)}**" if largest else with_error(own)

        return cell

    axes = [a for a in sweep.axes if a != sweep.panel and (a != sweep.x or sweep.numbers() is None)]
    columns = {", ".join(map(plain, axes)) or "sweep": lambda v: sweep.spell(v) or sweep.title}
    note = "Largest mean in bold." if comparable else "Columns hold scores of different tasks."
    if combined:
        note += " Combined: all tasks of all panels, every task weighing the same."
    if sweep.numbers() is not None:
        note += f" Each at the last level of {plain(sweep.x or '')}."
    title = "Test tasks, mean ± standard error over seeds"
    return Table.of(title, known, {**columns, **{name: column(of) for name, of in scored.items()}}, note)


def sweep_tasks(sweep: Sweep, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table | None:
    """Test tasks by variants, mean ± standard error; `found`: task → variant → numbers."""
    known = [v for v in map(sweep.spell, sweeps.variants(sweep)) if any(v in of for of in found.values())]
    if len(known) > MOST_COLUMNS:
        return None
    columns = {v or "score": lambda item, v=v: with_error(item[1].get(v)) for v in known}
    title = "Test tasks one by one, mean ± standard error"
    return Table.of(title, list(found.items()), {"task": lambda item: item[0], **columns})


def sweep_combined(sweep: Sweep, combined: Rows) -> Table | None:
    rows = [c for c in combined if c["train"] or c["test"]]
    cells: Columns = {"cells": lambda c: sweep.spell(tuple(c["variant"])) or sweep.title}
    over = ", ".join(map(sweep.title_of, combined[0]["panels"])) if combined else ""
    note = f"All tasks of {over}, every task weighing the same."
    return Table.of("Combined over panels", rows, {**cells, **SCORES}, note)


def claims(found: Rows) -> Table | None:
    """Published gains beside ours."""
    no_size = lambda c: c["published"] is None
    columns: Columns = {
        "claim": lambda c: c["claim"],
        "published": lambda c: "direction only" if no_size(c) else percent(c["published"]),
        "ours [95% interval]": gain,
        "ours − published": lambda c: DASH if no_size(c) else percent(c["gain"] - c["published"]),
        "smallest seen": detectable,
        "above random play": lambda c: gain(c, "_above_random"),
        "P(improvement)": lambda c: number(c["improvement"], 2),
        "verdict": lambda c: f"**{c['verdict']}**" + (f" ({c['why']})" if c["why"] else ""),
    }
    note = (
        "Gain: ratio of the means over tasks minus 1, on the tasks that both sides were scored on. Holds: the interval "
        "excludes 0 on the claimed side; the size may differ, as is said there. Refuted: it holds no gain on the "
        "claimed side, or 0 but not the published gain. Not decided at this n: it holds both 0 and the claimed gain. "
        f"A claim of no difference holds by an interval around 0 and within ±{verdicts.NO_DIFFERENCE:.0%}, and is not "
        f"decided by a wider one. {SMALLEST} Ours − published is in percentage points. "
        "Above random play: the gain of scores on the scale where random play is 0 and the reference 1; over a "
        "baseline near 0 the plain ratio says little. "
        "P(improvement): the chance that a run of the one side scores above one of the other on a task drawn at random."
    )
    table = Table.of("Published claims", found, columns, note)
    return table and replace(table, align="lrrrrrrl")


def published(sweep: Sweep, found: Rows) -> Table | None:
    """Published scores beside ours."""
    columns: Columns = {
        "cells": lambda p: sweep.spell(tuple(p["of"].values())),
        "tasks": lambda p: {"train": "training", "test": "test"}[p["split"]],
        "published": lambda p: apart(p["published"], p["published_standard_error"]),
        "ours": lambda p: apart(p["mean"], p["standard_error"]),
        "ours − published": lambda p: signed(p["difference"]),
    }
    note = (
        "Mean normalised score ± standard error, as published and over our seeds. Each side divides returns by those "
        "of its own online policies."
    )
    return Table.of("Published scores", found, columns, note, 2)


def comparisons(found: Rows, title: str = "Comparisons") -> Table | None:
    columns: Columns = {
        "scores of": lambda c: c["one"],
        "over": lambda c: c["other"],
        "means": lambda c: f"{number(c['mean_of'])} : {number(c['mean_over'])}",
        "gain [95% interval]": gain,
        "difference [95% interval]": lambda c: (
            signed(c["difference"]) + span(c["difference_interval"], number)
        ),
        "smallest seen": detectable,
        "P(improvement)": lambda c: number(c["improvement"], 2),
    }
    split = {"test": "Test tasks", "train": "Training tasks"}.get(found[0]["split"], "") if found else ""
    note = (
        f"{split}. A difference is there where the interval excludes 0; else it is not decided. {SMALLEST} "
        "P(improvement): the chance that a run of the first scores above one of the second on a task drawn at random; "
        "ties count half."
    )
    return Table.of(title, found, columns, note, 2)


def provenance(found: Rows) -> Table | None:
    columns: Columns = {
        "hardware": lambda p: p["hardware"],
        "commit": lambda p: p["commit"][:12],
        "versions": lambda p: p["versions"],
        "runs": lambda p: str(p["runs"]),
        "hours in all": lambda p: number(p["minutes"] / 60, 2),
    }
    return Table.of("Where the runs come from", found, columns, names=3)
