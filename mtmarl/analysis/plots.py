"""What all figures share: style, axes, legends and bands. No global plotting state."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe & Ito, colour-blind safe; markers and dashes tell lines apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
SPLIT_TITLES = {"train": "training tasks", "test": "held-out tasks, zero-shot"}
SPLIT_COLOURS = {"train": COLOURS[0], "test": COLOURS[1]}

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "errorbar.capsize": 2.5,
}
styled = rc_context(STYLE)

SCORE = "normalised score"
# Curves of scores are not shown further down.
CURVES_LOWEST = -0.5


def colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def dash(i: int) -> str:
    return DASHES[i // len(COLOURS) % len(DASHES)]


def grid(rows: int, columns: int, width: float, height: float, **share: Any) -> tuple[Figure, np.ndarray]:
    """A figure and its axes [rows, columns], each `width` by `height` inches."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def panels(count: int, most: int, width: float, height: float, **share: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes, at most `most` in a row; what is left of the last row stays empty."""
    columns = min(most, count)
    figure, axes = grid(-(-count // columns), columns, width, height, **share)
    flat = list(axes.ravel())
    for axis in flat[count:]:
        axis.set_visible(False)
    return figure, flat[:count]


def legend(figure: Figure, axes: Iterable[Axes], columns: int = 4) -> None:
    """One legend above all panels; none for a single entry."""
    entries = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if len(entries) > 1:
        # Inches of the longest label and of its mark.
        longest = 0.066 * max(map(len, entries)) + 0.5
        columns = max(1, min(columns, int(figure.get_figwidth() / longest)))
        rows = -(-len(entries) // columns)
        columns = -(-len(entries) // rows)
        figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=columns)


def score_axes(axes: Iterable[Axes], lowest: float = -np.inf) -> None:
    """The same for all: from 0, unless scores lie below, which are shown down to `lowest`; the reference, 1, is dotted
    where scores come near.
    """
    axes = list(axes)
    low = max(min(0.0, *(a.dataLim.ymin for a in axes if np.isfinite(a.dataLim.ymin)), 0.0), lowest)
    high = max((a.dataLim.ymax for a in axes if np.isfinite(a.dataLim.ymax)), default=1.0)
    near = high > 0.75
    ticks = MaxNLocator(5).tick_values(low, 1.02 * high if high > 0 else 1.0)
    top = max(1.04, 1.03 * high) if near else ticks[-1]
    for axis in axes:
        axis.set_ylim(ticks[0] if low < 0 else 0.0, top)
        if near:
            axis.axhline(1.0, color="#888888", linewidth=0.8, linestyle=":", zorder=1)


def shorten(value: float, _: Any = None) -> str:
    for scale, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:g}{unit}"
    return f"{value:g}"


def bar(
    axis: Axes, at: float, mean: float, interval: Sequence[float] | None, i: int, label: str, width: float
) -> None:
    """The bar of the series `i`, with whiskers where there is an interval."""
    hatch = None if i < len(COLOURS) else "//"
    style: dict[str, Any] = {"zorder": 2, "hatch": hatch, "edgecolor": "white", "linewidth": 0.5}
    axis.bar(at, mean, min(width * 0.92, 0.6), color=colour(i), label=label, **style)
    reach = None if interval is None else errors(mean, interval)
    if reach is not None:
        axis.errorbar(at, mean, yerr=reach, color="#222222", linewidth=1, zorder=3)


def errors(centre: float, interval: Sequence[float]) -> np.ndarray | None:
    low, high = interval
    # Where nothing varies rounding may put the point outside.
    return None if np.isnan(low) else np.asarray([[max(centre - low, 0)], [max(high - centre, 0)]])


def wrap(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))


def mean_curve(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The mean over seeds at the steps that all of them have reached."""
    steps = sorted(set.intersection(*(set(s.tolist()) for s, _ in curves)))
    tables = [dict(zip(s.tolist(), v.tolist(), strict=True)) for s, v in curves]
    return np.asarray(steps), np.asarray([np.mean([t[s] for t in tables]) for s in steps])


def band(axis: Axes, curves: Iterable[tuple[np.ndarray, np.ndarray]], i: int, label: str) -> None:
    """Mean over seeds, with the range of the seeds as a band."""
    curves = [c for c in curves if c[0].size]
    if not curves:
        return
    steps, means = mean_curve(curves)
    axis.plot(steps, means, dash(i), color=colour(i), label=label)
    if len(curves) > 1:
        values = np.asarray([np.interp(steps, *c) for c in curves])
        axis.fill_between(steps, values.min(0), values.max(0), color=colour(i), alpha=0.16, linewidth=0)
