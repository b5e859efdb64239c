"""Figures: pure functions of runs and of the numbers of `measure`. No global plotting state."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from mtmarl.analysis import few_shot, measure, stats, sweeps, tables
from mtmarl.analysis.runs import Run
from mtmarl.analysis.sweeps import Cell, Sweep, plain, title

# Okabe & Ito, colour-blind safe; markers and dashes tell lines apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
MOST_BANDS = 6
PROFILE_BANDS = (
    f"Bands: ± one standard error over seeds; none where more than {MOST_BANDS} curves share a panel."
)
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


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _dash(i: int) -> str:
    return DASHES[i // len(COLOURS) % len(DASHES)]


def _grid(rows: int, columns: int, width: float, height: float, **share: Any) -> tuple[Figure, np.ndarray]:
    """A figure and its axes [rows, columns], each `width` by `height` inches."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def _panels(count: int, most: int, width: float, height: float, **share: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `count` axes, at most `most` in a row; what is left of the last row stays empty."""
    columns = min(most, count)
    figure, axes = _grid(-(-count // columns), columns, width, height, **share)
    flat = list(axes.ravel())
    for axis in flat[count:]:
        axis.set_visible(False)
    return figure, flat[:count]


def _legend(figure: Figure, axes: Iterable[Axes], columns: int = 4) -> None:
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


def _score_axes(axes: Iterable[Axes], lowest: float = -np.inf) -> None:
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


def _shorten(value: float, _: Any = None) -> str:
    for scale, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:g}{unit}"
    return f"{value:g}"


def _errors(centre: float, interval: Sequence[float]) -> np.ndarray | None:
    low, high = interval
    # Where nothing varies rounding may put the point outside.
    return None if np.isnan(low) else np.asarray([[max(centre - low, 0)], [max(high - centre, 0)]])


# ------------------------------------------------------------------------------------------------- sweeps


def _panel_title(panel: str, split: str) -> str:
    return f"{title(panel)}: {SPLIT_TITLES[split]}" if panel else SPLIT_TITLES[split]


def _splits(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    return [split for split in measure.SPLITS if any(c[split] for c in cells)]


def sweep_figure(
    sweep: Sweep, cells: Sequence[Mapping[str, Any]], combined: Sequence[Mapping[str, Any]]
) -> Figure | None:
    """The headline figure of a sweep: lines where x is numeric, grouped bars elsewhere; None without scores."""
    if not _splits(cells):
        return None
    if sweep.numbers() is not None:
        return _lines(sweep, cells)
    return _bars_over_panels(sweep, cells, combined) if sweep.x is None else _bars_over_levels(sweep, cells)


@styled
def _lines(sweep: Sweep, cells: Sequence[Mapping[str, Any]]) -> Figure:
    """One row per panel, training tasks left, held-out tasks right; bands are 95% intervals."""
    numbers, x = sweep.numbers() or {}, sweep.x or ""
    scored = {tuple(c["cell"].values()): c for c in cells}
    splits, panels = _splits(cells), sweep.panels()
    figure, grid = _grid(len(panels), len(splits), 3.9, 2.65)
    for row, panel in zip(grid, panels, strict=True):
        for axis, split in zip(row, splits, strict=True):
            at = sorted(numbers[sweep.level(c, x)] for c in sweep.in_panel(panel))
            for i, series in enumerate(sweep.all_series()):
                points = [
                    (numbers[sweep.level(c, x)], scored[c][split])
                    for c in sweep.in_panel(panel)
                    if sweep.series(c) == series and scored[c][split]
                ]
                _line(axis, sorted(points, key=lambda p: p[0]), i, sweeps.name(series) or sweep.title)
            axis.set_title(_panel_title(panel, split))
            axis.set_xlabel(plain(x))
            _level_ticks(axis, list(dict.fromkeys(at)), {v: k for k, v in numbers.items()})
        row[0].set_ylabel(SCORE)
        _score_axes(row)
    _legend(figure, grid.ravel())
    return figure


def _line(axis: Axes, points: Sequence[tuple[float, Mapping[str, Any]]], i: int, label: str) -> None:
    if not points:
        return
    at = np.asarray([p[0] for p in points])
    means = np.asarray([p[1]["mean"] for p in points])
    low, high = np.asarray([p[1]["mean_interval"] for p in points], float).T
    marker = MARKERS[i % len(MARKERS)]
    axis.plot(at, means, _dash(i), color=_colour(i), marker=marker, label=label, markeredgecolor="white",
              markeredgewidth=0.6, zorder=3)  # fmt: skip
    axis.fill_between(at, low, high, color=_colour(i), alpha=0.16, linewidth=0)


def _level_ticks(axis: Axes, at: Sequence[float], names: Mapping[float, str]) -> None:
    """Ticks at the levels, on a log2 scale where they span a factor of 8; names only where they do not collide."""
    log = at[0] > 0 and at[-1] / at[0] >= 8
    if log:
        axis.set_xscale("log", base=2)
    places = np.log2(at) if log else np.asarray(at, float)
    span = max(places[-1] - places[0], 1e-9)
    taken: list[int] = [len(at) - 1]
    for i in range(len(at) - 1):
        apart = 0.035 + 0.022 * len(names[at[i]])
        if all(abs(places[i] - places[j]) / span >= apart for j in taken):
            taken.append(i)
    axis.set_xticks(at, [names[v] if i in taken else "" for i, v in enumerate(at)])
    axis.xaxis.set_minor_locator(NullLocator())
    if len(at) > 1:
        margin = 0.05 * span
        low, high = places[0] - margin, places[-1] + margin
        axis.set_xlim(*((2.0**low, 2.0**high) if log else (low, high)))


@styled
def _bars_over_panels(
    sweep: Sweep, cells: Sequence[Mapping[str, Any]], combined: Sequence[Mapping[str, Any]]
) -> Figure:
    """Groups of bars: one group per panel (and one for all of them), one bar per series."""
    scored = {tuple(c["cell"].values()): c for c in cells}
    series = sweep.all_series()
    groups: list[tuple[str, dict[Cell, Mapping[str, Any]]]] = [
        (title(panel), {sweep.series(c): scored[c] for c in sweep.in_panel(panel)})
        for panel in sweep.panels()
    ]
    if combined and any(c[split] for c in combined for split in measure.SPLITS):
        groups.append(("combined", {tuple(c["variant"]): c for c in combined}))
    splits = _splits(cells)
    if len(groups) == 1:  # Without groups every bar gets its name below it.
        groups = [(sweeps.name(s) or sweep.title, {s: groups[0][1][s]}) for s in series if s in groups[0][1]]
    width = max(2.6, 0.5 * len(groups) + 0.3 * sum(len(of) for _, of in groups) + 0.8)
    # Wider than a page the two go below each other.
    figure, grid = _grid(1, len(splits), width, 2.9) if 2 * width < 9.5 else _grid(len(splits), 1, width, 2.4)
    _bar_row(grid.ravel(), splits, groups, series, [SPLIT_TITLES[s] for s in splits])
    if any(len(of) > 1 for _, of in groups):
        _legend(figure, grid.ravel())
    return figure


@styled
def _bars_over_levels(sweep: Sweep, cells: Sequence[Mapping[str, Any]]) -> Figure:
    """One row per panel; groups of bars over the levels of x, one bar per series."""
    scored = {tuple(c["cell"].values()): c for c in cells}
    x, splits, panels, series = sweep.x or "", _splits(cells), sweep.panels(), sweep.all_series()
    levels = sweep.axes[x]
    width = max(3.0, 0.5 * len(levels) + 0.3 * len(levels) * len(series) + 0.8)
    figure, grid = _grid(len(panels), len(splits), width, 2.9)
    for row, panel in zip(grid, panels, strict=True):
        at = {(sweep.level(c, x), sweep.series(c)): scored[c] for c in sweep.in_panel(panel)}
        groups = [(title(v), {s: at[v, s] for s in series if (v, s) in at}) for v in levels]
        titles = [_panel_title(panel, s) for s in splits]
        _bar_row(row, splits, groups, series, titles)
    _legend(figure, grid.ravel())
    return figure


def _bar_row(axes, splits: Sequence[str], groups, series: Sequence[Cell], titles: Sequence[str]) -> None:
    for axis, split, text in zip(axes, splits, titles, strict=True):
        for place, (_, of) in enumerate(groups):
            here = [s for s in series if s in of]
            width = 0.82 / max(len(here), 1)
            for k, s in enumerate(here):
                if not of[s][split]:
                    continue
                i, mean = series.index(s), of[s][split]["mean"]
                at = place + (k - (len(here) - 1) / 2) * width
                axis.bar(at, mean, min(width * 0.92, 0.6), color=_colour(i), label=sweeps.name(s), zorder=2,
                         hatch=None if i < len(COLOURS) else "//", edgecolor="white", linewidth=0.5)  # fmt: skip
                errors = _errors(mean, of[s][split]["mean_interval"])
                if errors is not None:
                    axis.errorbar(at, mean, yerr=errors, color="#222222", linewidth=1, zorder=3)
        _names_below(axis, [name for name, _ in groups])
        axis.set_title(text)
        axis.grid(False, axis="x")
        axis.set_ylabel(SCORE if axis.get_subplotspec().is_first_col() else "")
    _score_axes(axes)


def _names_below(axis: Axes, names: Sequence[str]) -> None:
    width = axis.get_position().width * axis.figure.get_window_extent().width / 72
    crowded = sum(map(len, names)) > 12 * width
    style: dict[str, Any] = {"rotation": 25, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    axis.set_xticks(range(len(names)), list(names), **style)
    axis.set_xlim(-0.6, len(names) - 0.4)
    axis.tick_params(axis="x", length=0)


@styled
def comparisons(found: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Pairs of bars, each over the tasks that both sides were scored on, with the gain of the first above them."""
    if not found:
        return None
    names = list(dict.fromkeys(name for c in found for name in (c["one"], c["other"])))
    figure, ((axis,),) = _grid(1, 1, max(4.2, 1.9 * len(found)), 3.1)
    for place, c in enumerate(found):
        for side, name, mean in ((-0.21, c["one"], c["mean_of"]), (0.21, c["other"], c["mean_over"])):
            i = names.index(name)
            axis.bar(place + side, mean, 0.38, color=_colour(i), label=name, zorder=2,
                     hatch=None if i < len(COLOURS) else "//", edgecolor="white", linewidth=0.5)  # fmt: skip
        high = max(c["mean_of"], c["mean_over"])
        axis.text(
            place, high + 0.02, tables.gain(c).replace(" [", "\n["), ha="center", va="bottom", fontsize=7.5
        )
    axis.set_xticks(
        range(len(found)), [_wrap(f"{c['other']}: {tables.tasks(c['tasks'])}", 22) for c in found]
    )
    axis.set_xlim(-0.6, len(found) - 0.4)
    axis.tick_params(axis="x", length=0)
    axis.grid(False, axis="x")
    axis.set(ylabel=SCORE, title=f"{SPLIT_TITLES[found[0]['split']]}; gain of the first over the second")
    _score_axes([axis])
    low, high = axis.get_ylim()
    axis.set_ylim(low, max(high, 0.14 * (high - low) + max(max(c["mean_of"], c["mean_over"]) for c in found)))
    _legend(figure, [axis])
    return figure


@styled
def claims(found: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Published gains beside ours with their 95% intervals, one row per claim; None where none can be drawn."""
    drawn = [c for c in found if np.isfinite(c["gain"])]
    if not drawn:
        return None
    figure, ((axis,),) = _grid(1, 1, 7.2, 0.36 * len(drawn) + 1.0)
    for y, c in enumerate(drawn):
        whole = c["verdict"] in (measure.HOLDS, measure.REFUTED)
        colour = COLOURS[0] if whole else "#999999"
        interval = [np.nan_to_num(b, posinf=1e3, neginf=-1e3) if np.isinf(b) else b for b in c["interval"]]
        errors = _errors(c["gain"], interval)
        axis.errorbar(100 * c["gain"], y, xerr=None if errors is None else 100 * errors, fmt="o", color=colour,
                      label="these runs, 95% interval" if whole else "these runs, not decided")  # fmt: skip
        if c["published"] is not None:
            axis.plot(
                100 * c["published"], y, "D", color=COLOURS[1], markerfacecolor="none", label="published"
            )
    axis.axvline(0, color="#444444", linewidth=0.9)
    axis.set_yticks(range(len(drawn)), [_wrap(c["claim"], 60) for c in drawn])
    axis.set_ylim(len(drawn) - 0.5, -0.5)
    # Long intervals leave the figure.
    points = [0.0, *(v for c in drawn for v in (c["gain"], c["published"]) if v is not None)]
    reach = max(points) - min(points) or 1.0
    ends = [b for c in drawn for b in c["interval"] if np.isfinite(b)]
    low, high = (
        max(min([*points, *ends]), min(points) - reach),
        min(max([*points, *ends]), max(points) + reach),
    )
    axis.set_xlim(100 * (low - 0.06 * (high - low)), 100 * (high + 0.06 * (high - low)))
    axis.set_xlabel(f"gain in mean {SCORE}, %")
    axis.grid(False, axis="y")
    _legend(figure, [axis], 3)
    return figure


def _wrap(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))


# More small multiples than this go into a further figure.
PER_PAGE = 30
# Curves of scores are not shown further down.
CURVES_LOWEST = -0.5


def sweep_curves(sweep: Sweep, cells: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Learning curves of every cell that has any, training and held-out tasks, seeds thin and their mean thick."""
    late = {tuple(c["cell"].values()): tables.late(c) for c in cells}
    found = []
    for cell in sweep.cells():
        runs = [e.run for e in sweep.planned(cell) if e.run is not None]
        if any(run.score_curve("train")[0].size > 1 for run in runs):
            found.append((sweep.label(cell), runs, late[cell]))
    return [_small_multiples(found[i : i + PER_PAGE]) for i in range(0, len(found), PER_PAGE)]


@styled
def _small_multiples(found: Sequence[tuple[str, Sequence[Run], str]]) -> Figure:
    figure, axes = _panels(len(found), 5 if len(found) > 8 else 4, 2.05, 1.75, sharey=True)
    for axis, (name, runs, late) in zip(axes, found, strict=True):
        end = 0.0
        for split, colour in SPLIT_COLOURS.items():
            curves = [c for c in (run.score_curve(split) for run in runs) if c[0].size]
            for steps, values in curves:
                axis.plot(steps, values, color=colour, linewidth=0.6, alpha=0.55)
                end = max(end, steps[-1])
            # One seed that was cut short would cut the mean short as well.
            whole = [c for c in curves if c[0][-1] >= 0.99 * end]
            if whole:
                axis.plot(*_mean_curve(whole), color=colour, linewidth=1.6, label=SPLIT_TITLES[split])
        axis.axvspan(0.8 * end, end, color="#000000", alpha=0.05, linewidth=0)
        axis.set_title(_wrap(name, 30), fontsize=7.5)
        behind = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8}
        axis.text(
            0.97, 0.05, late, transform=axis.transAxes, ha="right", fontsize=6.5, color="#444444", bbox=behind
        )
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.xaxis.set_major_formatter(FuncFormatter(_shorten))
        axis.tick_params(labelsize=6.5)
    # Some play far worse than nothing at first. What is to be seen is where they end.
    _score_axes(axes, CURVES_LOWEST)
    figure.supxlabel("updates", fontsize=8.5)
    figure.supylabel(SCORE, fontsize=8.5)
    _legend(figure, axes)
    return figure


def _mean_curve(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The mean over seeds at the steps that all of them have reached."""
    steps = sorted(set.intersection(*(set(s.tolist()) for s, _ in curves)))
    tables = [dict(zip(s.tolist(), v.tolist(), strict=True)) for s, v in curves]
    return np.asarray(steps), np.asarray([np.mean([t[s] for t in tables]) for s in steps])


# --------------------------------------------------------------------------------------------- profiles


@styled
def profiles(groups: Mapping[str, Mapping[str, Sequence[np.ndarray]]]) -> Figure | None:
    """Performance profiles, one panel per entry, with PROFILE_BANDS; `groups`: {panel: {label: blocks}}."""
    if not groups:
        return None
    top = max(float(b.max()) for of in groups.values() for blocks in of.values() for b in blocks)
    thresholds = np.linspace(0, max(1.0, 1.02 * top), 121)
    figure, axes = _panels(len(groups), 4, 4.2 if len(groups) == 1 else 2.5, 2.6, sharey=True)
    known = list(dict.fromkeys(label for of in groups.values() for label in of))
    for axis, (panel, of) in zip(axes, groups.items(), strict=True):
        for label, blocks in of.items():
            i = known.index(label)
            shares = stats.performance_profile(list(blocks), thresholds)
            axis.plot(thresholds, shares, _dash(i), color=_colour(i), label=label)
            errors = stats.profile_errors(list(blocks), thresholds) if len(of) <= MOST_BANDS else None
            if errors is not None:
                band = shares - errors, shares + errors
                axis.fill_between(thresholds, *band, color=_colour(i), alpha=0.16, linewidth=0)
        axis.set(title=title(panel), xlabel=f"{SCORE} τ", ylim=(-0.02, 1.02), xlim=(0, thresholds[-1]))
    axes[0].set_ylabel("share of scores above τ")
    _legend(figure, axes)
    return figure


# ------------------------------------------------------------------------------------------- plain runs


@styled
def learning_curves(groups: Mapping[str, Sequence[Run]]) -> Figure:
    """Normalised return on train and test tasks over training, one colour per experiment."""
    runs = [r for g in groups.values() for r in g]
    splits = [s for s in SPLIT_COLOURS if s == "train" or any(r.score_curve(s)[0].size for r in runs)]
    figure, (row,) = _grid(1, len(splits), 4.6, 3.1)
    for axis, split in zip(row, splits, strict=True):
        for i, (label, runs) in enumerate(groups.items()):
            _band(axis, [r.score_curve(split) for r in runs], i, label)
        axis.set(title=SPLIT_TITLES[split], xlabel="updates")
        axis.xaxis.set_major_formatter(FuncFormatter(_shorten))
    _score_axes(row)
    row[0].set_ylabel(SCORE)
    _legend(figure, row, 3)
    return figure


def _band(axis: Axes, curves: Iterable[tuple[np.ndarray, np.ndarray]], i: int, label: str) -> None:
    """Mean over seeds, with the range of the seeds as a band."""
    curves = [c for c in curves if c[0].size]
    if not curves:
        return
    steps, means = _mean_curve(curves)
    axis.plot(steps, means, _dash(i), color=_colour(i), label=label)
    if len(curves) > 1:
        values = np.asarray([np.interp(steps, *c) for c in curves])
        axis.fill_between(steps, values.min(0), values.max(0), color=_colour(i), alpha=0.16, linewidth=0)


@styled
def training_curves(runs: Sequence[Run]) -> Figure | None:
    """Losses and the other scalars of training, without those that are logged per task."""
    names = {k for r in runs for m in r.metrics for k in m if k.count("/") == 1}
    several = lambda name: any(r.curve(name)[0].size > 1 for r in runs)
    names = sorted(n for n in names if not n.startswith(("eval", "final")) and several(n))[:8]
    if not names:
        return None
    figure, axes = _panels(len(names), 4, 2.6, 2.0)
    for axis, name in zip(axes, names, strict=True):
        _band(axis, [r.curve(name) for r in runs], 0, name)
        axis.set_title(name)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_formatter(FuncFormatter(_shorten))
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
            (of, [(s, t) for s in measure.SPLITS for t in dict.fromkeys(t for r in runs for t in r.tasks(s))])
        )
    width = max(5.5, *(0.35 * len(places) * (1 + 0.6 * len(of)) + 1 for of, places in rows), 0)
    figure, grid = _grid(len(rows), 1, width, 3.6)
    most = max(len(places) for _, places in rows)
    for axis, (of, places) in zip(grid.ravel(), rows, strict=True):
        _task_bars(axis, of, places, which, list(groups))
        axis.set_xlim(-0.6, most - 0.4)
    _score_axes(grid.ravel())
    _legend(figure, grid.ravel(), 3)
    return figure


def _sharing(groups: Mapping[str, Sequence[Run]]) -> list[dict[str, Sequence[Run]]]:
    """Experiments apart where they have no task in common, neither by themselves nor through others."""
    lots: list[tuple[set[str], dict[str, Sequence[Run]]]] = []
    for label, runs in groups.items():
        tasks, own = {t for r in runs for s in measure.SPLITS for t in r.tasks(s)}, {label: runs}
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
            axis.bar(at, values.mean(), min(width * 0.92, 0.6), color=_colour(i), label=label, zorder=2,
                     hatch=None if i < len(COLOURS) else "//", edgecolor="white", linewidth=0.5)  # fmt: skip
            errors = _errors(float(values.mean()), stats.interval(values))
            if errors is not None:
                axis.errorbar(at, values.mean(), yerr=errors, color="#222222", linewidth=1, zorder=3)
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
    figure, axes = _panels(len(tasks), 4, 4.2 if len(tasks) == 1 else 2.6, 2.6 if len(tasks) == 1 else 2.1)
    for axis, task in zip(axes, tasks, strict=True):
        here = [f for f in found if f["task"] == task]
        for f in here:
            curves = [few_shot.curve(run, task) for run in groups[f["label"]]]
            _band(axis, curves, labels.index(f["label"]), f["label"])
        for threshold in {f["threshold"] for f in here if f["threshold"] is not None}:
            axis.axhline(threshold, color="#888888", linewidth=0.8, linestyle=":", zorder=1)
        axis.set_title(task)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.xaxis.set_major_formatter(FuncFormatter(_shorten))
        low, high = min(0.0, axis.dataLim.ymin), axis.dataLim.ymax
        # As for scores: a policy that has learned nothing may play far worse than nothing.
        axis.set_ylim(bottom=max(low, CURVES_LOWEST * high) if high > 0 else low)
    figure.supxlabel(", ".join(dict.fromkeys(f["unit"] for f in found)), fontsize=9)
    figure.supylabel("return per episode", fontsize=9)
    _legend(figure, axes, 3)
    return figure


@styled
def collection_curves(runs: Sequence[Run]) -> Figure:
    """Online training: sampled and greedy return over env steps, one panel per task, one line per seed."""
    of: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda r: (r.tasks("train"), r.seed)):
        of.setdefault(run.tasks("train")[0], []).append(run)
    figure, axes = _panels(len(of), 4, 2.5, 2.0)
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
        axis.xaxis.set_major_formatter(FuncFormatter(_shorten))
        axis.set_ylim(bottom=min(0.0, axis.dataLim.ymin))
    figure.supxlabel("env steps", fontsize=9)
    figure.supylabel("return per episode", fontsize=9)
    _legend(figure, axes)
    return figure
