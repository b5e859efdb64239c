"""Tables of the numbers that `measure` computes; nothing is computed here."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtmarl.analysis import measure, sweeps
from mtmarl.analysis.document import Table
from mtmarl.analysis.runs import Run
from mtmarl.analysis.sweeps import Sweep, plain, title

DASH = "–"
# Wider tables than this are unreadable; results.json has the numbers all the same.
MOST_COLUMNS = 8
SMALLEST = "Smallest seen: the smallest gain that as many runs, scattering like these, tell from none in 4 of 5 cases."


# -------------------------------------------------------------------------------------------------- cells


def _missing(x: float | int | None) -> bool:
    return x is None or math.isnan(x)


def number(x: float | int | None, digits: int = 3) -> str:
    return DASH if x is None or math.isnan(x) else f"{x:.{digits}f}".replace("-", "−")


def count(x: float | int | None) -> str:
    return DASH if x is None else f"{x:,.0f}"


def tasks(number: int) -> str:
    return f"{number:,} task" + "s" * (number != 1)


def percent(x: float | int | None) -> str:
    if x is None or math.isnan(x):
        return DASH
    return ("+" if x > 0 else "−") + "∞" if math.isinf(x) else f"{x:+.1%}".replace("-", "−")


def late(numbers: Mapping[str, Any]) -> str:
    """The change of the score over the last fifth of training; of several seeds their range as well."""
    mean, seeds = numbers["late_change"], [c for c in numbers["late_change_per_seed"] if not _missing(c)]
    apart = f" ({percent(min(seeds))} … {percent(max(seeds))})" if len(seeds) > 1 else ""
    return percent(mean) + apart


def _span(interval: Sequence[float], form) -> str:
    low, high = interval
    return "" if _missing(low) else f" [{form(low)}, {form(high)}]"


def with_interval(scored: Mapping[str, Any] | None, key: str = "mean") -> str:
    """ "0.803 [0.770, 0.833]", without an interval where there is none, or a dash where nothing was scored."""
    if scored is None:
        return DASH
    return number(scored[key]) + _span(scored[f"{key}_interval"], number)


def with_error(scored: Mapping[str, Any] | None) -> str:
    """ "0.803 ± 0.026": mean and standard error over seeds."""
    return DASH if scored is None else _apart(scored["mean"], scored["standard_error"])


def _signed(x: float | None) -> str:
    return ("+" if x is not None and x > 0 else "") + number(x)


def _apart(mean: float | None, error: float | None) -> str:
    return number(mean) + ("" if _missing(error) else f" ± {number(error)}")


def gain(c: Mapping[str, Any], above: str = "") -> str:
    """ "+2.6% [−5.3%, +11.2%]"; `above`: "_above_random" for that of what is scored above random play."""
    return percent(c[f"gain{above}"]) + _span(c[f"interval{above}"], percent)


def _detectable(c: Mapping[str, Any]) -> str:
    """The smallest gain that would have been seen; up and down are alike."""
    return DASH if _missing(c["detectable"]) else f"±{c['detectable']:.0%}"


# ------------------------------------------------------------------------------------------------- a sweep


def sweep_cells(sweep: Sweep, cells: Sequence[Mapping[str, Any]]) -> Table:
    """One row per cell: what was scored."""
    rows = [
        (
            *map(title, c["cell"].values()),
            _seeds(c),
            with_interval(c["train"]),
            with_interval(c["test"]),
            with_interval(c["test"], "iqm"),
            with_error(c["test"]),
        )
        for c in cells
    ]
    header = (*map(plain, sweep.axes), "seeds", "train tasks", "test tasks", "test tasks, IQM", "test ± s.e.")
    note = (
        "Mean normalised score [95% interval]; s.e.: standard error over seeds of the mean over tasks. Training "
        "tasks are those of the cell itself."
    )
    return Table("Scores", header, tuple(rows), "l" * len(sweep.axes) + "rrrrr", note)


def sweep_greedy(sweep: Sweep, cells: Sequence[Mapping[str, Any]]) -> Table | None:
    """One row per cell that was scored playing greedily as well."""
    rows = [
        (
            *map(title, c["cell"].values()),
            _seeds(c, "greedy_seeds"),
            with_interval(c["greedy"]["train"]),
            with_interval(c["greedy"]["test"]),
            with_error(c["greedy"]["test"]),
            with_error(c["test"]),
        )
        for c in cells
        if c["greedy_seeds"]
    ]
    scores = ("train tasks", "test tasks", "test ± s.e.", "as above")
    note = (
        "The same policies where every agent takes the most probable or most valuable action. Checkpoints were chosen "
        "by the scores above."
    )
    header = (*map(plain, sweep.axes), "seeds", *scores)
    return Table("Greedy play", header, tuple(rows), "l" * len(sweep.axes) + "rrrrr", note) if rows else None


def _seeds(c: Mapping[str, Any], key: str = "seeds") -> str:
    done = len(c[key])
    return str(done) if done == c["planned"] else f"{done} of {c['planned']}"


def sweep_training(sweep: Sweep, cells: Sequence[Mapping[str, Any]]) -> Table:
    """One row per cell: size, time, what was played, and whether training had reached its plateau."""
    played = [name for name in measure.PLAYED if any((c["played"] or {}).get(name) for c in cells)]
    rows = [
        (
            *map(title, c["cell"].values()),
            count(c["parameters"]),
            count(c["updates"]),
            *(count((c["played"] or {}).get(name)) for name in played),
            number(c["minutes"] / len(c["seeds"]), 1),
            number(c["test"]["optimality_gap"]) if c["test"] else DASH,
            late(c),
        )
        for c in cells
        if c["seeds"]
    ]
    header = (
        *map(plain, sweep.axes),
        "parameters",
        "updates",
        *(f"{name.replace('_', ' ')} played" for name in played),
        "minutes per run",
        "test optimality gap",
        "late change",
    )
    note = (
        "Late change: relative change of the score on training tasks over the last fifth of training (evaluations "
        "smoothed over a tenth of it on both sides), mean over seeds (and their range); near 0 on a plateau. "
        "Optimality gap: how far scores stay below 1, on average."
    )
    if played:
        note += " Played: in training, mean over seeds."
    return Table("Training", header, tuple(rows), "l" * len(sweep.axes) + "r" * (5 + len(played)), note)


def sweep_overview(
    sweep: Sweep,
    cells: Sequence[Mapping[str, Any]],
    combined: Sequence[Mapping[str, Any]],
    comparable: bool = True,
) -> Table | None:
    """Mean ± standard error on test tasks: variants by panels, and combined over panels.

    The largest mean of a column is bold where all were scored on the same tasks.
    """
    found = sweeps.finals(sweep)
    at = {tuple(c["cell"].values()): c["test"] for c in cells}
    pooled = {tuple(c["variant"]): c["test"] for c in combined}
    known = sweeps.variants(sweep)
    columns = [{v: at.get(of[v]) if v in of else None for v in known} for of in found.values()]
    if pooled:
        columns.append({v: pooled.get(v) for v in known})
    if len(known) < 2 and len(columns) < 2 or not any(s for column in columns for s in column.values()):
        return None
    rows = []
    for variant in known:
        row = [sweeps.name(variant) or sweep.title]
        for column in columns:
            means = [s["mean"] for s in column.values() if s]
            text, own = with_error(column[variant]), column[variant]
            largest = comparable and own is not None and len(means) > 1 and own["mean"] == max(means)
            row.append(f"**{text}**" if largest else text)
        rows.append(tuple(row))
    axes = [a for a in sweep.axes if a != sweep.panel and (a != sweep.x or sweep.numbers() is None)]
    first = ", ".join(map(plain, axes)) or "sweep"
    header = (first, *(title(p) or "test tasks" for p in found), *(["combined"] if pooled else []))
    note = "Largest mean in bold." if comparable else "Columns hold scores of different tasks."
    if pooled:
        note += " Combined: all tasks of all panels, every task weighing the same."
    if sweep.numbers() is not None:
        note += f" Each at the last level of {plain(sweep.x or '')}."
    return Table("Test tasks, mean ± standard error over seeds", header, tuple(rows), note=note)


def sweep_tasks(sweep: Sweep, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table | None:
    """Test tasks by variants, mean ± standard error; `found`: task → variant → numbers."""
    known = [v for v in map(sweeps.name, sweeps.variants(sweep)) if any(v in of for of in found.values())]
    if not found or len(known) > MOST_COLUMNS:
        return None
    rows = [(task, *(with_error(of.get(v)) for v in known)) for task, of in found.items()]
    return Table(
        "Test tasks one by one, mean ± standard error", ("task", *(v or "score" for v in known)), tuple(rows)
    )


def sweep_combined(sweep: Sweep, combined: Sequence[Mapping[str, Any]]) -> Table | None:
    rows = [
        (
            sweeps.name(tuple(c["variant"])) or sweep.title,
            with_interval(c["train"]),
            with_interval(c["test"]),
            with_interval(c["test"], "iqm"),
            with_error(c["test"]),
        )
        for c in combined
        if c["train"] or c["test"]
    ]
    if not rows:
        return None
    header = ("cells", "train tasks", "test tasks", "test tasks, IQM", "test ± s.e.")
    over = ", ".join(map(title, combined[0]["panels"]))
    return Table(
        "Combined over panels",
        header,
        tuple(rows),
        note=f"All tasks of {over}, every task weighing the same.",
    )


def claims(found: Sequence[Mapping[str, Any]]) -> Table | None:
    """Published gains beside ours."""
    rows = []
    for c in found:
        published = "direction only" if c["published"] is None else percent(c["published"])
        why = f" ({c['why']})" if c["why"] else ""
        beyond = DASH if c["published"] is None else percent(c["gain"] - c["published"])
        verdict = f"**{c['verdict']}**{why}"
        above = gain(c, "_above_random")
        better = number(c["improvement"], 2)
        rows.append((c["claim"], published, gain(c), beyond, _detectable(c), above, better, verdict))
    header = (
        "claim",
        "published",
        "ours [95% interval]",
        "ours − published",
        "smallest seen",
        "above random play",
        "P(improvement)",
        "verdict",
    )
    note = (
        "Gain: ratio of the means over tasks minus 1, on the tasks that both sides were scored on. Holds: the interval "
        "excludes 0 on the claimed side; the size may differ, as is said there. Refuted: it holds no gain on the "
        "claimed side, or 0 but not the published gain. Not decided at this n: it holds both 0 and the claimed gain. "
        f"A claim of no difference holds by an interval around 0 and within ±{measure.NO_DIFFERENCE:.0%}, and is not "
        f"decided by a wider one. {SMALLEST} Ours − published is in percentage points. "
        "Above random play: the gain of scores on the scale where random play is 0 and the reference 1; over a "
        "baseline near 0 the plain ratio says little. "
        "P(improvement): the chance that a run of the one side scores above one of the other on a task drawn at random."
    )
    return Table("Published claims", header, tuple(rows), "lrrrrrrl", note) if rows else None


def published(found: Sequence[Mapping[str, Any]]) -> Table | None:
    """Published scores beside ours."""
    rows = [
        (
            sweeps.name(tuple(p["of"].values())),
            {"train": "training", "test": "test"}[p["split"]],
            _apart(p["published"], p["published_standard_error"]),
            _apart(p["mean"], p["standard_error"]),
            _signed(p["difference"]),
        )
        for p in found
    ]
    header = ("cells", "tasks", "published", "ours", "ours − published")
    note = (
        "Mean normalised score ± standard error, as published and over our seeds. Each side divides returns by those "
        "of its own online policies."
    )
    return Table("Published scores", header, tuple(rows), "llrrr", note) if rows else None


def comparisons(found: Sequence[Mapping[str, Any]], title: str = "Comparisons") -> Table | None:
    rows = [
        (
            c["one"],
            c["other"],
            f"{number(c['mean_of'])} : {number(c['mean_over'])}",
            gain(c),
            _signed(c["difference"]) + _span(c["difference_interval"], number),
            _detectable(c),
            number(c["improvement"], 2),
        )
        for c in found
    ]
    header = (
        "scores of",
        "over",
        "means",
        "gain [95% interval]",
        "difference [95% interval]",
        "smallest seen",
        "P(improvement)",
    )
    split = {"test": "Test tasks", "train": "Training tasks"}.get(found[0]["split"], "") if found else ""
    note = (
        f"{split}. A difference is there where the interval excludes 0; else it is not decided. {SMALLEST} "
        "P(improvement): the chance that a run of the first scores above one of the second on a task drawn at random; "
        "ties count half."
    )
    return Table(title, header, tuple(rows), "llrrrrr", note) if rows else None


def provenance(found: Sequence[Mapping[str, Any]]) -> Table | None:
    rows = [
        (p["hardware"], p["commit"][:12], p["versions"], str(p["runs"]), number(p["minutes"] / 60, 2))
        for p in found
    ]
    header = ("hardware", "commit", "versions", "runs", "hours in all")
    return Table("Where the runs come from", header, tuple(rows), "lllrr") if rows else None


# ------------------------------------------------------------------------------------------- plain runs


def summary(groups: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Normalised returns, one row per experiment and checkpoint. `groups`: label → checkpoint → numbers."""
    rows = [
        (
            label,
            which,
            str(len(n["seeds"])),
            with_interval(n["train"]),
            with_interval(n["test"]),
            with_interval(n["test"], "iqm"),
            with_error(n["test"]),
            late(n),
        )
        for label, of in groups.items()
        for which, n in of.items()
    ]
    header = (
        "experiment",
        "checkpoint",
        "seeds",
        "train tasks",
        "test tasks",
        "test tasks, IQM",
        "test ± s.e.",
        "late change",
    )
    note = (
        "Late change: relative change of the smoothed score on training tasks over the last fifth of training, mean "
        "over seeds (and their range)."
    )
    return Table("Normalised return, mean [95% interval]", header, tuple(rows), "llrrrrrr", note)


def per_task(label: str, runs: Sequence[Run], which: str) -> Table:
    """Random, reference and achieved returns, task by task. Runs without a task are left out of its row."""
    other = {"best": "last", "last": "best"}[which]
    rows = []
    for split in measure.SPLITS:
        for task in dict.fromkeys(t for run in runs for t in run.tasks(split)):
            scored = [run for run in runs if task in run.tasks(split)]
            known = scored[0].reference(task)
            ours = np.asarray([run.mean_return(task, which) for run in scored])
            error = ours.std(ddof=1) / np.sqrt(len(scored)) if len(scored) > 1 else float("nan")
            if len(runs) == 1:
                error = runs[0].episode_error(task, which)
            some = "" if len(scored) == len(runs) else f" ({len(scored)} of {len(runs)} seeds)"
            beside = float(np.mean([run.mean_return(task, other) for run in scored]))
            random, reference = known.get("random"), known.get("reference")
            above = None
            if reference is not None and random is not None and reference > random:
                above = float((ours.mean() - random) / (reference - random))
            rows.append(
                (
                    task,
                    split,
                    number(random),
                    number(reference),
                    with_error({"mean": float(ours.mean()), "standard_error": float(error)}) + some,
                    number(beside),
                    number(float(np.mean([run.normalised(task, which) for run in scored]))),
                    number(above),
                )
            )
    header = (
        "task",
        "split",
        "random",
        "online Sable",
        f"return, {which}",
        f"return, {other}",
        "normalised",
        "above random",
    )
    spread = "standard error over seeds" if len(runs) > 1 else "standard error over episodes"
    return Table(f"{label}: {_count(runs)}", header, tuple(rows), "llrrrrrr", f"±: {spread}.")


def _count(runs: Sequence[Run]) -> str:
    seeds = ", ".join(str(r.seed) for r in runs)
    return f"{len(runs)} seeds ({seeds})" if len(runs) > 1 else f"seed {seeds}"


def few_shot(found: Sequence[Mapping[str, Any]], share: float) -> Table | None:
    """Jump points and times to threshold, one row per experiment and task."""
    rows = []
    for f in found:
        jumps = np.asarray(f["jump_points"], float)
        error = "" if len(jumps) < 2 else f" ± {jumps.std(ddof=1) / np.sqrt(len(jumps)):.3f}"
        if f["times"] is None:
            time, reached = DASH, DASH
        else:
            time = "∞" if math.isinf(f["median_time"]) else count(f["median_time"])
            reached = f"{f['reached']} of {len(f['times'])}"
        rows.append(
            (
                f["label"], f["task"], number(float(jumps.mean())) + error, number(f["threshold"]), time, reached,
                f["unit"], count(f["last_step"]), count(f["played_before"]),
            )
        )  # fmt: skip
    header = (
        "experiment", "task", "jump point", "threshold", "time to threshold", "seeds that reach it", "in", "trained",
        "env steps before",
    )  # fmt: skip
    note = (
        "Jump point: return before the first update by acting, mean over seeds ± standard error. Time to threshold: "
        f"until the return of an evaluation is {share:g} of the task's reference return or, where it is known (2 in "
        "SMAX), of the largest there is, median over seeds; ∞: never. Env steps before: played by the policy that it "
        "began with."
    )
    return Table("From the first step on", header, tuple(rows), "llrrrrlrr", note) if rows else None


# ---------------------------------------------------------------------------------------------- collection


def collection(found: Sequence[Mapping[str, Any]], acting: str) -> Table:
    """Online training, one row per run. `acting`: how actions were chosen that are not greedy."""
    rows = []
    for c in found:
        planned = c["evaluations_planned"]
        going = "" if planned is None or c["evaluations"] >= planned else f" (of {planned})"
        rows.append(
            (
                c["task"],
                str(c["seed"]),
                count(c["env_steps"]),
                f"{c['evaluations']}{going}",
                number(c["minutes"], 1),
                count(c["steps_per_second"]),
                number(c["final"]),
                f"{number(c['best'])} at {c['best_at'] / 1e6:.2f} M",
                number(c["greedy"]),
                number(c["untrained"]),
            )
        )
    header = (
        "task",
        "seed",
        "env steps",
        "evaluations",
        "minutes",
        "env steps/s",
        "final, sampled",
        "best, sampled",
        "final, greedy",
        "untrained",
    )
    note = (
        f"Returns per episode. Sampled: actions are {acting}; greedy: the most probable or most valuable ones. "
        "Untrained: sampled return before the first update, when play is close to random."
    )
    return Table("Online training", header, tuple(rows), "l" + "r" * 9, note)
