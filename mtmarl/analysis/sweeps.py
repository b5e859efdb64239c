"""A sweep: runs planned in cells (one level of each axis), and which cells are compared with each other."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mtmarl.analysis.runs import Run

Cell = tuple[str, ...]  # One level per axis, in the order of the axes.


@dataclass(frozen=True)
class Entry:
    """One planned run. `problem` says why it cannot be used; `run` may be there all the same, unfinished."""

    cell: Cell
    seed: int
    argv: tuple[str, ...]
    run: Run | None
    problem: str | None

    @property
    def finished(self) -> bool:
        return self.run is not None and self.problem is None

    @property
    def diverged(self) -> bool:
        return self.run is not None and self.run.diverged is not None

    @property
    def unfinished(self) -> bool:
        return self.run is not None and not self.diverged and not self.run.final

    @property
    def command(self) -> str:
        return shlex.join(["python", "-m", "mtmarl.train", *self.argv])

    @property
    def recipe(self) -> str:
        return recipe(self.argv)


def recipe(argv: Sequence[str]) -> str:
    """The command of a run without its place, which is of one machine."""
    return shlex.join(["python", "-m", "mtmarl.train", *(a for a in argv if not a.startswith("run_dir="))])


@dataclass(frozen=True)
class Claim:
    """A published statement: the mean score of some cells over that of others. `gain` None: a direction only."""

    text: str
    of: Mapping[str, str]
    over: Mapping[str, str]
    split: str
    gain: float | None


@dataclass(frozen=True)
class Published:
    """A published mean score of the cells with these levels, pooled, and its standard error."""

    of: Mapping[str, str]
    split: str
    mean: float
    standard_error: float | None


@dataclass(frozen=True)
class Sweep:
    """`mixed`: overrides that only some parts were planned with. `titles`: names of levels, and of algorithms, as
    reports write them.
    """

    name: str
    profile: str
    title: str
    x: str | None
    panel: str | None
    line: str | None
    axes: Mapping[str, tuple[str, ...]]
    entries: tuple[Entry, ...]
    claims: tuple[Claim, ...]
    published: tuple[Published, ...] = ()
    mixed: frozenset[str] = frozenset()
    titles: Mapping[str, str] = field(default_factory=dict)

    def title_of(self, level: str) -> str:
        """A level as people read it: of the longest name in `titles` that it begins with, the title."""
        known = (name for name in self.titles if level == name or level.startswith(f"{name}_"))
        name = max(known, key=len, default="")
        return self.titles.get(name, "") + plain(level[len(name) :])

    def spell(self, levels: Sequence[str]) -> str:
        return " · ".join(map(self.title_of, levels))

    def label(self, cell: Cell) -> str:
        """A cell as people read it; bare numbers get the name of their axis."""
        spell = lambda axis, level: (
            f"{plain(axis)} {level}" if number(level) is not None else self.title_of(level)
        )
        return " · ".join(spell(a, v) for a, v in zip(self.axes, cell, strict=True))

    def level(self, cell: Cell, axis: str) -> str:
        return cell[list(self.axes).index(axis)]

    def cells(self) -> list[Cell]:
        """The planned cells in the order of the axes."""
        planned = {e.cell for e in self.entries}
        rank = lambda cell: [levels.index(c) for levels, c in zip(self.axes.values(), cell, strict=True)]
        return sorted(planned, key=rank)

    def planned(self, cell: Cell) -> list[Entry]:
        return [e for e in self.entries if e.cell == cell]

    def runs(self, cell: Cell) -> list[Run]:
        """The finished runs of a cell, seeds in order."""
        return [e.run for e in self.entries if e.cell == cell and e.finished and e.run is not None]

    def finished(self) -> list[Run]:
        """All finished runs, in the order of their cells."""
        return [run for cell in self.cells() for run in self.runs(cell)]

    @property
    def series_axes(self) -> list[str]:
        """What tells the lines (or bars) of the figure apart: every axis but x and panel."""
        rest = [a for a in self.axes if a not in (self.x, self.panel, self.line)]
        return ([self.line] if self.line else []) + rest

    def series(self, cell: Cell) -> Cell:
        return tuple(self.level(cell, a) for a in self.series_axes)

    def all_series(self) -> list[Cell]:
        """In the order of their axes, the line axis first."""
        rank = lambda s: [self.axes[a].index(v) for a, v in zip(self.series_axes, s, strict=True)]
        return sorted({self.series(c) for c in self.cells()}, key=rank)

    def panels(self) -> list[str]:
        return list(self.axes[self.panel]) if self.panel else [""]

    def in_panel(self, panel: str) -> list[Cell]:
        return [c for c in self.cells() if not self.panel or self.level(c, self.panel) == panel]

    def numbers(self) -> dict[str, float] | None:
        """The levels of x as numbers, where they are all numbers."""
        if self.x is None:
            return None
        values = {level: number(level) for level in self.axes[self.x]}
        known = {level: v for level, v in values.items() if v is not None}
        return known if len(known) == len(values) else None

    def end(self, panel: str, series: Cell, last: bool = True) -> Cell | None:
        """The cell of a series at the last (or first) level of x that is planned in a panel."""
        cells = [c for c in self.in_panel(panel) if self.series(c) == series]
        return (cells[-1] if last else cells[0]) if cells else None


def plain(axis: str) -> str:
    """An axis as people read it."""
    return axis.replace("_", " ")


def number(level: str) -> float | None:
    """The number that a level names: "64", "0.5", "50k", "6.2M", "25%"."""
    match = re.fullmatch(r"([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*([kM%]?)", level.strip())
    scale = {"": 1.0, "k": 1e3, "M": 1e6, "%": 0.01}
    return float(match[1]) * scale[match[2]] if match else None


# --------------------------------------------------------------------------------------------- comparisons


def sides(sweep: Sweep, of: Mapping[str, str], over: Mapping[str, str]) -> list[tuple[Cell, Cell]]:
    """The pairs of cells that a comparison pools; none where this plan lacks a level that is named.

    An axis that only one side names has that level on both; over an axis that neither names it pools all levels
    that are planned on both sides.
    """
    of, over = {**over, **of}, {**of, **over}
    free = [a for a in sweep.axes if a not in of]
    matches = lambda cell, levels: all(sweep.level(cell, a) == v for a, v in levels.items())
    key = lambda cell: tuple(sweep.level(cell, a) for a in free)
    right = {key(c): c for c in sweep.cells() if matches(c, over)}
    return [(c, right[key(c)]) for c in sweep.cells() if matches(c, of) and key(c) in right]


def finals(sweep: Sweep) -> dict[str, dict[Cell, Cell]]:
    """{panel: {variant: cell}}: what a table compares within a panel.

    With numbers along x a variant is a series, at its last level of x; else it is any cell of the panel.
    """
    out: dict[str, dict[Cell, Cell]] = {}
    for panel in sweep.panels():
        if sweep.numbers() is None:
            rest = [i for i, a in enumerate(sweep.axes) if a != sweep.panel]
            out[panel] = {tuple(c[i] for i in rest): c for c in sweep.in_panel(panel)}
        else:
            ends = {s: sweep.end(panel, s) for s in sweep.all_series()}
            out[panel] = {s: cell for s, cell in ends.items() if cell is not None}
    return out


def variants(sweep: Sweep) -> list[Cell]:
    """All variants of `finals`, in order."""
    return list(dict.fromkeys(v for cells in finals(sweep).values() for v in cells))


def pairs(sweep: Sweep) -> Iterator[tuple[str, str, list[tuple[Cell, Cell]]]]:
    """(one, other, cells): the comparisons of cells that differ in one axis.

    Along a numeric x the last level against the first, per series; variants (see `finals`) against each other in
    each panel and pooled over panels. Panels are not compared with each other: their tasks differ.
    """
    label = lambda panel, variant, more="": (
        sweep.spell(tuple(v for v in (panel, *variant, more) if v)) or sweep.title
    )
    if sweep.numbers() is not None and sweep.x is not None:
        for panel in sweep.panels():
            for s in sweep.all_series():
                first, last = sweep.end(panel, s, last=False), sweep.end(panel, s)
                if first and last and first != last:
                    at = lambda cell: f"{plain(sweep.x or '')} {sweep.level(cell, sweep.x or '')}"
                    yield label(panel, s, at(last)), at(first), [(last, first)]
    found, known = finals(sweep), variants(sweep)
    for i, one in enumerate(known):
        for other in known[i + 1 :]:
            if sum(a != b for a, b in zip(one, other, strict=True)) != 1:
                continue
            both = {p: (cells[one], cells[other]) for p, cells in found.items() if {one, other} <= set(cells)}
            # Series may stop at different levels of x: what is compared must differ in one axis alone.
            same = {
                p: (a, b) for p, (a, b) in both.items() if sum(x != y for x, y in zip(a, b, strict=True)) == 1
            }
            for panel, pair in same.items():
                yield label(panel, one), sweep.spell(other), [pair]
            if len(same) > 1:
                yield label("all panels", one), sweep.spell(other), list(same.values())
