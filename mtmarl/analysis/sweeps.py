"""Sweeps: a plan of runs in cells (one level of each axis), read from sweep.json with whatever has been run of it."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtmarl import settings
from mtmarl.analysis import experiments
from mtmarl.analysis import runs as runs_
from mtmarl.analysis.runs import Found, Run
from mtmarl.runs import identity

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
    """`mixed`: overrides that some parts of it were planned with and others were not."""

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

    def label(self, cell: Cell) -> str:
        """A cell as people read it; bare numbers get the name of their axis."""
        spell = lambda axis, level: f"{plain(axis)} {level}" if number(level) is not None else title(level)
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


# Words of names as publications write them.
WORDS = {
    "mt": "MT",
    "oryx": "Oryx",
    "cql": "CQL",
    "bc": "BC",
    "sable": "Sable",
    "icq": "ICQ",
    "odis": "ODIS",
    "hissd": "HiSSD",
    "hygen": "HyGen",
    "m3": "M3",
    "rware": "RWARE",
    "lbf": "LBF",
    "connector": "Connector",
    "smax": "SMAX",
    "madt": "MADT",
    "updet": "UPDeT",
    "qmix": "QMIX",
    "mappo": "MAPPO",
    "care": "CARE",
}


def title(level: str) -> str:
    """A level as people read it: "mt_cql_sable" is MT CQL-Sable."""
    words = " ".join(WORDS.get(word, word) for word in level.split("_"))
    return re.sub(r"\b(CQL|BC|UPDeT) (Sable|[mlrt])\b", r"\1-\2", words)


def name(levels: Sequence[str]) -> str:
    return " · ".join(map(title, levels))


def plain(axis: str) -> str:
    """An axis as people read it."""
    return axis.replace("_", " ")


def number(level: str) -> float | None:
    """The number that a level names: "64", "0.5", "50k", "6.2M", "25%"."""
    match = re.fullmatch(r"([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*([kM%]?)", level.strip())
    scale = {"": 1.0, "k": 1e3, "M": 1e6, "%": 0.01}
    return float(match[1]) * scale[match[2]] if match else None


# ------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class Plans:
    """The sweeps that were found, what was left out (place, reason), and all directories of planned runs."""

    sweeps: tuple[Sweep, ...]
    refused: tuple[tuple[str, str], ...]
    directories: frozenset[Path]


def load(paths: Sequence[Path], found: Found) -> Plans:
    """The sweeps at or below the paths, parts of one sweep put together."""
    merged: dict[tuple[str, str], Sweep] = {}
    refused: runs_.Refused = []
    directories = set()
    at = {run.path.resolve(): run for run in found.runs}
    plans = [(f, f.parent, _planned) for f in runs_.files(paths, "sweep.json", refused)]
    plans += [(f, f, _recorded) for f in runs_.results(paths)]
    for file, root, read in plans:
        try:
            for record in read(file):
                sweep, own = _read(record, root, at)
                key = sweep.name, sweep.profile
                merged[key] = _merge(merged[key], sweep) if key in merged else sweep
                directories |= own
        except runs_.BROKEN as error:
            refused.append((runs_.shown(file, paths), runs_.reason(error)))
    return Plans(tuple(merged[key] for key in sorted(merged)), tuple(refused), frozenset(directories))


def _text(level: Any) -> str:
    if isinstance(level, dict | list) or level is None:
        raise ValueError(f"{json.dumps(level)} is no level of an axis")
    return level if isinstance(level, str) else json.dumps(level)


def _levels(value: Any, axes: Mapping[str, Any], what: str) -> dict[str, str]:
    """{axis: level} with axes that the sweep has."""
    for axis in value:
        if axis not in axes:
            raise ValueError(f"{what}: no axis {axis!r}; there are {', '.join(axes)}")
    return {axis: _text(level) for axis, level in value.items()}


def _planned(file: Path) -> list[Any]:
    return [json.loads(file.read_text(encoding="utf-8"))]


def _recorded(file: Path) -> list[dict[str, Any]]:
    """The sweeps of a results.json as sweep.json has them."""
    return [_as_planned(sweep) for sweep in runs_.read_results(file)["sweeps"]]


def _as_planned(sweep: Mapping[str, Any]) -> dict[str, Any]:
    argv = lambda run: shlex.split(run["command"])[3:]
    planned = [
        {"cell": r["cell"], "seed": r["seed"], "dir": r["dir"], "argv": argv(r)} for r in sweep["runs"]
    ]
    for run in sweep["to_do"]:
        directory = "/".join([*(f"{a}={v}" for a, v in run["cell"].items()), f"seed_{run['seed']}"])
        planned.append({"cell": run["cell"], "seed": run["seed"], "dir": directory, "argv": argv(run)})
    paper = [{**claim, "gain": claim["published"]} for claim in sweep["claims"]]
    published = [
        {**own, "mean": own["published"], "standard_error": own["published_standard_error"]}
        for own in sweep.get("published") or ()
    ]
    return {**sweep, "kind": "sweep", "runs": planned, "paper": paper, "published": published}


def _read(record: Any, root: Path, at: Mapping[Path, Run]) -> tuple[Sweep, set[Path]]:
    """The sweep of a plan, as sweep.json has it; `root`: what the directories of its runs begin with."""
    if not isinstance(record, dict) or record.get("kind") != "sweep":
        raise ValueError('no sweep: "kind" is not "sweep"')
    for key in ("name", "profile", "title", "axes", "runs"):
        if key not in record:
            raise KeyError(f"sweep.json has no {key!r}")
    axes = {axis: tuple(_text(level) for level in levels) for axis, levels in record["axes"].items()}
    roles = {role: record.get(role) for role in ("x", "panel", "line")}
    for role, axis in roles.items():
        if axis is not None and axis not in axes:
            raise ValueError(f"{role}: no axis {axis!r}; there are {', '.join(axes)}")
    entries: dict[tuple[Cell, int], Entry] = {}
    directories = set()
    for planned in record["runs"]:
        levels = _levels(planned["cell"], axes, "a run's cell")
        for axis in axes:
            if axis not in levels:
                raise KeyError(f"a run's cell has no level of axis {axis!r}")
            if levels[axis] not in axes[axis]:
                raise ValueError(f"a run's cell: axis {axis} has no level {levels[axis]!r}")
        cell, seed = tuple(levels[a] for a in axes), int(planned["seed"])
        if Path(planned["dir"]).is_absolute():
            raise ValueError("a run's dir is not relative to the sweep")
        directory = (root / planned["dir"]).resolve()
        directories.add(directory)
        argv = tuple(str(word) for word in planned.get("argv") or ())
        run, problem = _outcome(directory, at, seed)
        entry = Entry(cell, seed, argv, run, problem)
        earlier = entries.get((cell, seed))
        entries[cell, seed] = _better(earlier, entry) if earlier else entry
    if not entries:
        raise ValueError("no run is planned")
    claims = []
    for i, claim in enumerate(record.get("paper") or ()):
        what = f"claim {i + 1}"
        gain = None if claim.get("gain") is None else float(claim["gain"])
        # A claim may well name levels that this profile leaves out.
        of, over = (_levels(claim[side], axes, f"{what}, {side}") for side in ("of", "over"))
        claims.append(Claim(str(claim["claim"]), of, over, _split(claim, what), gain))
    published = []
    for i, own in enumerate(record.get("published") or ()):
        what = f"published score {i + 1}"
        error = None if own.get("standard_error") is None else float(own["standard_error"])
        published.append(
            Published(_levels(own["of"], axes, what), _split(own, what), float(own["mean"]), error)
        )
    sweep = Sweep(
        name=str(record["name"]),
        profile=str(record["profile"]),
        title=str(record["title"]),
        x=roles["x"],
        panel=roles["panel"],
        line=roles["line"],
        axes=axes,
        entries=_ordered(entries),
        claims=tuple(claims),
        published=tuple(published),
    )
    return sweep, directories


def _split(statement: Mapping[str, Any], what: str) -> str:
    if statement["split"] not in ("train", "test"):
        raise ValueError(f"{what}: split is neither train nor test")
    return statement["split"]


def _ordered(entries: Mapping[tuple[Cell, int], Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries.values(), key=lambda e: e.seed))


def _outcome(directory: Path, at: Mapping[Path, Run], seed: int) -> tuple[Run | None, str | None]:
    """The run of a directory and what is wrong with it."""
    run = at.get(directory)
    if run is None:
        if not (directory / "run.json").exists():
            return None, "missing"
        try:
            runs_.read(directory)
        except runs_.BROKEN as error:
            return None, f"damaged: {runs_.reason(error)}"
        return None, "outside of the given directories"
    if run.kind != "train":
        return None, f"foreign: a {run.kind} run"
    if run.seed != seed:
        return None, f"foreign: its seed is {run.seed}"
    return run, run.diverged or (None if run.final else "unfinished")


def _better(a: Entry, b: Entry) -> Entry:
    """The finished one of two, else the newer."""
    rank = lambda e: (
        e.finished,
        e.diverged,
        e.run is not None,
        e.run.started if e.run else "",
        e.problem != "missing",
    )
    return b if rank(b) > rank(a) else a


def _merge(a: Sweep, b: Sweep) -> Sweep:
    """Parts of one sweep. Levels and claims that only one part knows are appended."""
    if set(a.axes) != set(b.axes):
        names = ", ".join(b.axes), ", ".join(a.axes)
        raise ValueError(f"has axes {names[0]}, another part of sweep {a.name} ({a.profile}) has {names[1]}")
    axes = {axis: tuple(dict.fromkeys((*a.axes[axis], *b.axes[axis]))) for axis in a.axes}
    entries = {(e.cell, e.seed): e for e in a.entries}
    order = [list(b.axes).index(axis) for axis in axes]
    mixed = a.mixed | b.mixed
    for entry in b.entries:
        entry = replace(entry, cell=tuple(entry.cell[i] for i in order))
        key = entry.cell, entry.seed
        if key in entries:
            mixed |= identity.overrides(entries[key].argv) ^ identity.overrides(entry.argv)
        entries[key] = _better(entries[key], entry) if key in entries else entry
    both = lambda ours, theirs: (*ours, *(x for x in theirs if x not in ours))
    return replace(
        a, axes=axes, entries=_ordered(entries), claims=both(a.claims, b.claims),
        published=both(a.published, b.published), mixed=mixed,
    )  # fmt: skip


def remarks(sweep: Sweep) -> list[str]:
    """What keeps runs from being seeds of each other, or cells from being compared: settings that were changed."""
    out = []
    if uneven := _uneven(sweep):
        out.append(
            f"**Parts of this sweep were planned with different settings** ({', '.join(uneven)}): cells of different "
            "parts do not compare."
        )
    for cell in sweep.cells():
        runs = sweep.runs(cell)
        known = experiments.deciding(runs)
        found = [f"{key} ({_seeds_by_value(runs, known, key)})" for key in settings.differing(known)]
        if found:
            out.append(
                f"**{sweep.label(cell) or sweep.title}: its runs are not seeds of one configuration.** They differ "
                f"in {', '.join(found)}."
            )
    return out


def _uneven(sweep: Sweep) -> list[str]:
    """`mixed` without what all runs were made with, as where one part names what another has by a default."""
    known = experiments.deciding([run for cell in sweep.cells() for run in sweep.runs(cell)])
    alike = set(known[0]).difference(settings.differing(known)) if known else ()
    held = {f"{key}={settings.spell(known[0][key])}" for key in alike}
    return sorted(override for override in sweep.mixed if override.lstrip("+") not in held)


def _seeds_by_value(runs: Sequence[Run], known: Sequence[Mapping[str, Any]], key: str) -> str:
    """ "64: seeds 0, 1; 128: seed 2"."""
    of: dict[str, list[str]] = {}
    for run, own in zip(runs, known, strict=True):
        value = settings.spell(own[key]) if key in own else experiments.NOT_SET
        of.setdefault(value, []).append(str(run.seed))
    return "; ".join(f"{v}: seed{'s' if len(s) > 1 else ''} {', '.join(s)}" for v, s in of.items())


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
        name(tuple(v for v in (panel, *variant, more) if v)) or sweep.title
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
                yield label(panel, one), name(other), [pair]
            if len(same) > 1:
                yield label("all panels", one), name(other), list(same.values())
