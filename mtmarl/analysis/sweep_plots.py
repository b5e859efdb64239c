"""Figures of a sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from mtmarl.analysis import formats, plots, verdicts
from mtmarl.analysis.plots import COLOURS, CURVES_LOWEST, MARKERS, SCORE, SPLIT_COLOURS, SPLIT_TITLES, styled
from mtmarl.analysis.runs import SPLITS, Run
from mtmarl.analysis.sweeps import Cell, Sweep, plain

# ------------------------------------------------------------------------------------------------- sweeps


def _panel_title(sweep: Sweep, panel: str, split: str) -> str:
    return f"{sweep.title_of(panel)}: {SPLIT_TITLES[split]}" if panel else SPLIT_TITLES[split]


def _splits(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    return [split for split in SPLITS if any(c[split] for c in cells)]


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
    figure, grid = plots.grid(len(panels), len(splits), 3.9, 2.65)
    for row, panel in zip(grid, panels, strict=True):
        for axis, split in zip(row, splits, strict=True):
            at = sorted(numbers[sweep.level(c, x)] for c in sweep.in_panel(panel))
            for i, series in enumerate(sweep.all_series()):
                points = [
                    (numbers[sweep.level(c, x)], scored[c][split])
                    for c in sweep.in_panel(panel)
                    if sweep.series(c) == series and scored[c][split]
                ]
                _line(axis, sorted(points, key=lambda p: p[0]), i, sweep.spell(series) or sweep.title)
            axis.set_title(_panel_title(sweep, panel, split))
            axis.set_xlabel(plain(x))
            _level_ticks(axis, list(dict.fromkeys(at)), {v: k for k, v in numbers.items()})
        row[0].set_ylabel(SCORE)
        plots.score_axes(row)
    plots.legend(figure, grid.ravel())
    return figure


def _line(axis: Axes, points: Sequence[tuple[float, Mapping[str, Any]]], i: int, label: str) -> None:
    if not points:
        return
    at = np.asarray([p[0] for p in points])
    means = np.asarray([p[1]["mean"] for p in points])
    low, high = np.asarray([p[1]["mean_interval"] for p in points], float).T
    marker = MARKERS[i % len(MARKERS)]
    axis.plot(at, means, plots.dash(i), color=plots.colour(i), marker=marker, label=label, markeredgecolor="white",
              markeredgewidth=0.6, zorder=3)  # fmt: skip
    axis.fill_between(at, low, high, color=plots.colour(i), alpha=0.16, linewidth=0)


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
        (sweep.title_of(panel), {sweep.series(c): scored[c] for c in sweep.in_panel(panel)})
        for panel in sweep.panels()
    ]
    if combined and any(c[split] for c in combined for split in SPLITS):
        groups.append(("combined", {tuple(c["variant"]): c for c in combined}))
    splits = _splits(cells)
    if len(groups) == 1:  # Without groups every bar gets its name below it.
        groups = [(sweep.spell(s) or sweep.title, {s: groups[0][1][s]}) for s in series if s in groups[0][1]]
    width = max(2.6, 0.5 * len(groups) + 0.3 * sum(len(of) for _, of in groups) + 0.8)
    # Wider than a page the two go below each other.
    figure, grid = (
        plots.grid(1, len(splits), width, 2.9) if 2 * width < 9.5 else plots.grid(len(splits), 1, width, 2.4)
    )
    _bar_row(sweep, grid.ravel(), splits, groups, series, [SPLIT_TITLES[s] for s in splits])
    if any(len(of) > 1 for _, of in groups):
        plots.legend(figure, grid.ravel())
    return figure


@styled
def _bars_over_levels(sweep: Sweep, cells: Sequence[Mapping[str, Any]]) -> Figure:
    """One row per panel; groups of bars over the levels of x, one bar per series."""
    scored = {tuple(c["cell"].values()): c for c in cells}
    x, splits, panels, series = sweep.x or "", _splits(cells), sweep.panels(), sweep.all_series()
    levels = sweep.axes[x]
    width = max(3.0, 0.5 * len(levels) + 0.3 * len(levels) * len(series) + 0.8)
    figure, grid = plots.grid(len(panels), len(splits), width, 2.9)
    for row, panel in zip(grid, panels, strict=True):
        at = {(sweep.level(c, x), sweep.series(c)): scored[c] for c in sweep.in_panel(panel)}
        groups = [(sweep.title_of(v), {s: at[v, s] for s in series if (v, s) in at}) for v in levels]
        titles = [_panel_title(sweep, panel, s) for s in splits]
        _bar_row(sweep, row, splits, groups, series, titles)
    plots.legend(figure, grid.ravel())
    return figure


def _bar_row(
    sweep: Sweep, axes, splits: Sequence[str], groups, series: Sequence[Cell], titles: Sequence[str]
) -> None:
    for axis, split, text in zip(axes, splits, titles, strict=True):
        for place, (_, of) in enumerate(groups):
            here = [s for s in series if s in of]
            width = 0.82 / max(len(here), 1)
            for k, s in enumerate(here):
                if not of[s][split]:
                    continue
                i, mean = series.index(s), of[s][split]["mean"]
                at = place + (k - (len(here) - 1) / 2) * width
                plots.bar(axis, at, mean, of[s][split]["mean_interval"], i, sweep.spell(s), width)
        _names_below(axis, [name for name, _ in groups])
        axis.set_title(text)
        axis.grid(False, axis="x")
        axis.set_ylabel(SCORE if axis.get_subplotspec().is_first_col() else "")
    plots.score_axes(axes)


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
    figure, ((axis,),) = plots.grid(1, 1, max(4.2, 1.9 * len(found)), 3.1)
    for place, c in enumerate(found):
        for side, name, mean in ((-0.21, c["one"], c["mean_of"]), (0.21, c["other"], c["mean_over"])):
            plots.bar(axis, place + side, mean, None, names.index(name), name, 0.42)
        high = max(c["mean_of"], c["mean_over"])
        axis.text(
            place, high + 0.02, formats.gain(c).replace(" [", "\n["), ha="center", va="bottom", fontsize=7.5
        )
    axis.set_xticks(
        range(len(found)), [plots.wrap(f"{c['other']}: {formats.tasks(c['tasks'])}", 22) for c in found]
    )
    axis.set_xlim(-0.6, len(found) - 0.4)
    axis.tick_params(axis="x", length=0)
    axis.grid(False, axis="x")
    axis.set(ylabel=SCORE, title=f"{SPLIT_TITLES[found[0]['split']]}; gain of the first over the second")
    plots.score_axes([axis])
    low, high = axis.get_ylim()
    axis.set_ylim(low, max(high, 0.14 * (high - low) + max(max(c["mean_of"], c["mean_over"]) for c in found)))
    plots.legend(figure, [axis])
    return figure


@styled
def claims(found: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Published gains beside ours with their 95% intervals, one row per claim; None where none can be drawn."""
    drawn = [c for c in found if np.isfinite(c["gain"])]
    if not drawn:
        return None
    figure, ((axis,),) = plots.grid(1, 1, 7.2, 0.36 * len(drawn) + 1.0)
    for y, c in enumerate(drawn):
        whole = c["verdict"] in (verdicts.HOLDS, verdicts.REFUTED)
        colour = COLOURS[0] if whole else "#999999"
        interval = [np.nan_to_num(b, posinf=1e3, neginf=-1e3) if np.isinf(b) else b for b in c["interval"]]
        errors = plots.errors(c["gain"], interval)
        axis.errorbar(100 * c["gain"], y, xerr=None if errors is None else 100 * errors, fmt="o", color=colour,
                      label="these runs, 95% interval" if whole else "these runs, not decided")  # fmt: skip
        if c["published"] is not None:
            axis.plot(
                100 * c["published"], y, "D", color=COLOURS[1], markerfacecolor="none", label="published"
            )
    axis.axvline(0, color="#444444", linewidth=0.9)
    axis.set_yticks(range(len(drawn)), [plots.wrap(c["claim"], 60) for c in drawn])
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
    plots.legend(figure, [axis], 3)
    return figure


# More small multiples than this go into a further figure.
PER_PAGE = 30


def sweep_curves(sweep: Sweep, cells: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Learning curves of every cell that has any, training and held-out tasks, seeds thin and their mean thick."""
    late = {tuple(c["cell"].values()): formats.late(c) for c in cells}
    found = []
    for cell in sweep.cells():
        runs = [e.run for e in sweep.planned(cell) if e.run is not None]
        if any(run.score_curve("train")[0].size > 1 for run in runs):
            found.append((sweep.label(cell), runs, late[cell]))
    return [_small_multiples(found[i : i + PER_PAGE]) for i in range(0, len(found), PER_PAGE)]


@styled
def _small_multiples(found: Sequence[tuple[str, Sequence[Run], str]]) -> Figure:
    figure, axes = plots.panels(len(found), 5 if len(found) > 8 else 4, 2.05, 1.75, sharey=True)
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
                axis.plot(*plots.mean_curve(whole), color=colour, linewidth=1.6, label=SPLIT_TITLES[split])
        axis.axvspan(0.8 * end, end, color="#000000", alpha=0.05, linewidth=0)
        axis.set_title(plots.wrap(name, 30), fontsize=7.5)
        behind = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8}
        axis.text(
            0.97, 0.05, late, transform=axis.transAxes, ha="right", fontsize=6.5, color="#444444", bbox=behind
        )
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.xaxis.set_major_formatter(FuncFormatter(plots.shorten))
        axis.tick_params(labelsize=6.5)
    # Some play far worse than nothing at first. What is to be seen is where they end.
    plots.score_axes(axes, CURVES_LOWEST)
    figure.supxlabel("updates", fontsize=8.5)
    figure.supylabel(SCORE, fontsize=8.5)
    plots.legend(figure, axes)
    return figure
