"""Figures: pure functions of runs. No global plotting state."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mtmarl.analysis import stats
from mtmarl.analysis.runs import Run
from mtmarl.analysis.tables import scores

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)  # Okabe & Ito, colour-blind safe


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, list(axes)


def _legend(axis) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8)


def _band(axis, runs: Sequence[Run], metric: str, colour: str, label: str) -> bool:
    """Mean over seeds, with the range of the seeds as a band."""
    curves = [run.curve(metric) for run in runs]
    curves = [c for c in curves if c[0].size]
    if not curves:
        return False
    steps = sorted(set.intersection(*(set(c[0]) for c in curves)))
    values = np.asarray([[dict(zip(*c, strict=True))[s] for s in steps] for c in curves])
    axis.plot(steps, values.mean(0), color=colour, label=label, linewidth=2)
    if len(curves) > 1:
        axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0)
    return True


def learning_curves(groups: dict[str, list[Run]]) -> Figure:
    """Normalised return on train and test tasks over training, one colour per experiment."""
    figure, (train, test) = _figure(10.0, 3.8, 2)
    for colour, (label, runs) in zip(np.resize(COLOURS, len(groups)), groups.items(), strict=True):
        _band(train, runs, "eval/mean_normalised_return", colour, label)
        _band(test, runs, "eval/test/mean_normalised_return", colour, label)
    for axis, title in ((train, "training tasks"), (test, "held-out tasks, zero-shot")):
        axis.set(title=title, xlabel="updates", ylabel="normalised return")
        axis.axhline(1.0, color="grey", linewidth=0.8, linestyle=":")
        axis.set_ylim(bottom=0)
    _legend(train)
    return figure


def training_curves(runs: Sequence[Run]) -> Figure | None:
    """Losses and the other scalars of training, without those that are logged per task."""
    names = sorted(
        {k for r in runs for m in r.metrics for k in m if "/" in k and not k.startswith(("eval", "final"))}
    )
    names = [n for n in names if n.count("/") == 1][:8]
    if not names:
        return None
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, name in zip(figure.subplots(rows, columns, squeeze=False).ravel(), names, strict=False):
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        _band(axis, runs, name, COLOURS[0], name)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
    for axis in figure.axes[len(names) :]:
        axis.set_visible(False)
    return figure


def task_bars(groups: dict[str, list[Run]]) -> Figure:
    """Normalised return per task at the last checkpoint, with 95% intervals over seeds."""
    first = next(iter(groups.values()))[0]
    splits = [(split, task) for split in ("train", "test") for task in first.tasks(split)]
    same = {k: v for k, v in groups.items() if v[0].tasks("test") == first.tasks("test")}
    figure, (axis,) = _figure(max(6.0, 0.9 * len(splits) + 2), 4.2)
    width = 0.8 / len(same)
    for i, (label, runs) in enumerate(same.items()):
        for x, (_, task) in enumerate(splits):
            if task not in (*runs[0].tasks("train"), *runs[0].tasks("test")):
                continue
            values = np.asarray([[run.normalised(task, "last")] for run in runs])
            if np.isnan(values).any():
                continue
            low, high = stats.interval(values)
            at, colour = x + (i - (len(same) - 1) / 2) * width, COLOURS[i % len(COLOURS)]
            axis.bar(
                at, values.mean(), width * 0.92, color=colour, label=label if x == len(splits) - 1 else None
            )
            errors = [[values.mean() - low], [high - values.mean()]]
            axis.errorbar(at, values.mean(), yerr=errors, color="black", linewidth=1, capsize=2)
    border = sum(split == "train" for split, _ in splits) - 0.5
    if border < len(splits) - 1:
        axis.axvline(border, color="grey", linewidth=0.8, linestyle="--")
        for shift, side, text in ((-0.08, "right", "trained on"), (0.08, "left", "held out")):
            place = {"ha": side, "transform": axis.get_xaxis_transform(), "fontsize": 9}
            axis.text(border + shift, 1.02, text, **place)
    names = [task.partition("/")[2] for _, task in splits]
    axis.set_xticks(range(len(splits)), names, rotation=30, ha="right", fontsize=8)
    axis.set_ylabel("normalised return")
    figure.legend(
        *axis.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=8
    )
    return figure


def profile(groups: dict[str, list[Run]]) -> Figure:
    """Performance profiles on the held-out tasks."""
    figure, (axis,) = _figure(5.5, 3.8)
    thresholds = np.linspace(0, 1.2, 121)
    for colour, (label, runs) in zip(np.resize(COLOURS, len(groups)), groups.items(), strict=True):
        table = scores(runs, "test", "last")
        if table.size:
            axis.plot(thresholds, stats.performance_profile(table, thresholds), color=colour, label=label)
    axis.set(xlabel="normalised return τ", ylabel="share of runs above τ", title="held-out tasks")
    _legend(axis)
    return figure


def collection_curves(runs: Sequence[Run]) -> Figure:
    """Online training: sampled and greedy return over env steps, one panel per task."""
    runs = sorted(runs, key=lambda r: r.tasks("train"))
    columns = min(5, len(runs))
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(3.0 * columns, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, run in zip(panels, runs, strict=False):
        task = run.tasks("train")[0]
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        for metric, colour, label in (
            ("return", COLOURS[0], "sampled"),
            ("greedy_return", COLOURS[1], "greedy"),
        ):
            steps, values = run.curve(f"eval/{task}/{metric}")
            axis.plot(steps / 1e6, values, color=colour, label=label)
        axis.set_title(task, fontsize=9)
        axis.set_xlabel("million env steps", fontsize=8)
        axis.tick_params(labelsize=7)
    for axis in panels[len(runs) :]:
        axis.set_visible(False)
    _legend(panels[0])
    panels[0].set_ylabel("return per episode", fontsize=8)
    return figure
