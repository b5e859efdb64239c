"""Figures of runs outside of sweeps, and performance profiles."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from mtmarl.analysis import few_shot, plots, stats
from mtmarl.analysis.plots import COLOURS, CURVES_LOWEST, SCORE, SPLIT_COLOURS, SPLIT_TITLES, styled
from mtmarl.analysis.runs import SPLITS, Run

MOST_BANDS = 6
PROFILE_BANDS = (
    f"Bands: ± one standard error over seeds; none where more than {MOST_BANDS} curves share a panel."
)
# --------------------------------------------------------------------------------------------- profiles


@styled
def profiles(groups: Mapping[str, Mapping[str, Sequence[np.ndarray]]]) -> Figure | None:
    """Performance profiles, one panel per entry, with PROFILE_BANDS; `groups`: {panel: {label: blocks}}."""
    if not groups:
        return None
    top = max(float(b.max()) for of in groups.values() for blocks in of.values() for b in blocks)
    thresholds = np.linspace(0, max(1.0, 1.02 * top), 121)
    figure, axes = plots.panels(len(groups), 4, 4.2 if len(groups) == 1 else 2.5, 2.6, sharey=True)
    known = list(dict.fromkeys(label for of in groups.values() for label in of))
    for axis, (panel, of) in zip(axes, groups.items(), strict=True):
        for label, blocks in of.items():
            i = known.index(label)
            shares = stats.performance_profile(list(blocks), thresholds)
            axis.plot(thresholds, shares, plots.dash(i), color=plots.colour(i), label=label)
            errors = stats.profile_errors(list(blocks), thresholds) if len(of) <= MOST_BANDS else None
            if errors is not None:
                band = shares - errors, shares + errors
                axis.fill_between(thresholds, *band, color=plots.colour(i), alpha=0.16, linewidth=0)
        axis.set(title=panel, xlabel=f"{SCORE} τ", ylim=(-0.02, 1.02), xlim=(0, thresholds[-1]))
    axes[0].set_ylabel("share of scores above τ")
    plots.legend(figure, axes)
    return figure


# ------------------------------------------------------------------------------------------- plain runs


@styled
def learning_curves(groups: Mapping[str, Sequence[Run]]) -> Figure:
    """Normalised return on train and test tasks over training, one colour per experiment."""
    runs = [r for g in groups.values() for r in g]
    splits = [s for s in SPLIT_COLOURS if s == "train" or any(r.score_curve(s)[0].size for r in runs)]
    figure, (row,) = plots.grid(1, len(splits), 4.6, 3.1)
    for axis, split in zip(row, splits, strict=True):
        for i, (label, runs) in enumerate(groups.items()):
            plots.band(axis, [r.score_curve(split) for r in runs], i, label)
        axis.set(title=SPLIT_TITLES[split], xlabel="updates")
        axis.xaxis.set_major_formatter(FuncFormatter(plots.shorten))
    plots.score_axes(row)
    row[0].set_ylabel(SCORE)
    plots.legend(figure, row, 3)
    return figure


@styled
def training_curves(runs: Sequence[Run]) -> Figure | None:
    """Losses and the other scalars of training, without those that are logged per task."""
    names = {k for r in runs for m in r.metrics for k in m if k.count("/") == 1}
    several = lambda name: any(r.curve(name)[0].size > 1 for r in runs)
    names = sorted(n for n in names if not n.startswith(("eval", "final")) and several(n))[:8]
    if not names:
        return None
    figure, axes = plots.panels(len(names), 4, 2.6, 2.0)
    for axis, name in zip(axes, names, strict=True):
        plots.band(axis, [r.curve(name) for r in runs], 0, name)
        axis.set_title(name)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_formatter(FuncFormatter(plots.shorten))
    figure.supxlabel("updates", fontsize=9)
    return figure


@styled
def task_bars(groups: Mapping[str, Sequence[Run]], which: str) -> Figure:
    """Normalised return per task, with 95% intervals over seeds; one row per set of experiments that share tasks.

    The place of a task that an experiment was not scored on stays empty.
    """
    rows = []
    for of in _sharing(groups):
        runs = [run for group in of.values() for run in group]
        rows.append(
            (of, [(s, t) for s in SPLITS for t in dict.fromkeys(t for r in runs for t in r.tasks(s))])
        )
    width = max(5.5, *(0.35 * len(places) * (1 + 0.6 * len(of)) + 1 for of, places in rows), 0)
    figure, grid = plots.grid(len(rows), 1, width, 3.6)
    most = max(len(places) for _, places in rows)
    for axis, (of, places) in zip(grid.ravel(), rows, strict=True):
        _task_bars(axis, of, places, which, list(groups))
        axis.set_xlim(-0.6, most - 0.4)
    plots.score_axes(grid.ravel())
    plots.legend(figure, grid.ravel(), 3)
    return figure


def _sharing(groups: Mapping[str, Sequence[Run]]) -> list[dict[str, Sequence[Run]]]:
    """Experiments apart where they have no task in common, neither by themselves nor through others."""
    lots: list[tuple[set[str], dict[str, Sequence[Run]]]] = []
    for label, runs in groups.items():
        tasks, own = {t for r in runs for s in SPLITS for t in r.tasks(s)}, {label: runs}
        joined = [lot for lot in lots if lot[0] & tasks]
        lots = [lot for lot in lots if not lot[0] & tasks]
        lots.append(
            (tasks.union(*(t for t, _ in joined)), {k: v for _, of in joined for k, v in of.items()} | own)
        )
    return [of for _, of in lots]


def _task_bars(
    axis: Axes,
    of: Mapping[str, Sequence[Run]],
    places: Sequence[tuple[str, str]],
    which: str,
    labels: list[str],
) -> None:
    width = 0.82 / len(of)
    for k, (label, runs) in enumerate(of.items()):
        i = labels.index(label)
        for x, (split, task) in enumerate(places):
            scored = [run for run in runs if task in run.tasks(split)]
            values = np.asarray([[run.normalised(task, which)] for run in scored])
            if not scored or np.isnan(values).any():
                continue
            at = x + (k - (len(of) - 1) / 2) * width
            plots.bar(axis, at, float(values.mean()), stats.interval(values), i, label, width)
    trained = sum(split == "train" for split, _ in places)
    if trained < len(places):
        axis.axvline(trained - 0.5, color="#888888", linewidth=0.8, linestyle="--")
        for shift, side, text in ((-0.08, "right", "trained on"), (0.08, "left", "held out")):
            axis.text(
                trained - 0.5 + shift, 1.02, text, ha=side, transform=axis.get_xaxis_transform(), fontsize=8.5
            )
    names = [task.partition("/")[2] or task for _, task in places]
    axis.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axis.grid(False, axis="x")
    axis.set_ylabel(SCORE)


@styled
def few_shot_curves(groups: Mapping[str, Sequence[Run]], found: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Return over env steps, one panel per task and one line per experiment; the threshold is dotted."""
    tasks = list(dict.fromkeys(f["task"] for f in found))
    if not tasks:
        return None
    labels = list(dict.fromkeys(f["label"] for f in found))
    figure, axes = plots.panels(
        len(tasks), 4, 4.2 if len(tasks) == 1 else 2.6, 2.6 if len(tasks) == 1 else 2.1
    )
    for axis, task in zip(axes, tasks, strict=True):
        here = [f for f in found if f["task"] == task]
        for f in here:
            curves = [few_shot.curve(run, task) for run in groups[f["label"]]]
            plots.band(axis, curves, labels.index(f["label"]), f["label"])
        for threshold in {f["threshold"] for f in here if f["threshold"] is not None}:
            axis.axhline(threshold, color="#888888", linewidth=0.8, linestyle=":", zorder=1)
        axis.set_title(task)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_formatter(FuncFormatter(plots.shorten))
        low, high = min(0.0, axis.dataLim.ymin), axis.dataLim.ymax
        # As for scores: a policy that has learned nothing may play far worse than nothing.
        axis.set_ylim(bottom=max(low, CURVES_LOWEST * high) if high > 0 else low)
    figure.supxlabel(", ".join(dict.fromkeys(f["unit"] for f in found)), fontsize=9)
    figure.supylabel("return per episode", fontsize=9)
    plots.legend(figure, axes, 3)
    return figure


@styled
def collection_curves(runs: Sequence[Run]) -> Figure:
    """Online training: sampled and greedy return over env steps, one panel per task, one line per seed."""
    of: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda r: (r.tasks("train"), r.seed)):
        of.setdefault(run.tasks("train")[0], []).append(run)
    figure, axes = plots.panels(len(of), 4, 2.5, 2.0)
    for axis, (task, seeds) in zip(axes, of.items(), strict=True):
        for run in seeds:
            for metric, colour, label in (
                ("return", COLOURS[0], "sampled"),
                ("greedy_return", COLOURS[1], "greedy"),
            ):
                steps, values = run.curve(f"eval/{task}/{metric}")
                axis.plot(steps, values, color=colour, label=label, linewidth=1.5)
        axis.set_title(task)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_formatter(FuncFormatter(plots.shorten))
        axis.set_ylim(bottom=min(0.0, axis.dataLim.ymin))
    figure.supxlabel("env steps", fontsize=9)
    figure.supylabel("return per episode", fontsize=9)
    plots.legend(figure, axes)
    return figure
