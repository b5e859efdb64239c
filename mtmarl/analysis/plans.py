"""Sweeps from their plans, with whatever has been run of them; parts of one sweep are put together."""

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mtmarl import settings
from mtmarl.analysis import experiments, facts
from mtmarl.analysis.facts import Found
from mtmarl.analysis.runs import SPLITS, Run
from mtmarl.analysis.sweeps import Cell, Claim, Entry, Published, Sweep
from mtmarl.runs import identity


@dataclass(frozen=True)
class Plans:
    """The sweeps that were found, what was left out (place, reason), and all directories of planned runs."""

    sweeps: tuple[Sweep, ...]
    refused: tuple[tuple[str, str], ...]
    directories: frozenset[Path]


def load(found: Found) -> Plans:
    """The sweeps among what was found, parts of one sweep put together."""
    merged: dict[tuple[str, str], Sweep] = {}
    refused = list(found.refused)
    directories = set()
    at = {run.path.resolve(): run for run in found.runs}
    for plan in found.plans:
        try:
            sweep, own = _read(plan.record, plan.root, at)
            key = sweep.name, sweep.profile
            merged[key] = _merge(merged[key], sweep) if key in merged else sweep
            directories |= own
        except facts.BROKEN as error:
            refused.append((plan.place, facts.reason(error)))
    return Plans(tuple(merged[key] for key in sorted(merged)), tuple(refused), frozenset(directories))


def lines(sweep: Sweep, roots: Sequence[Path]) -> list[dict[str, Any]]:
    """The facts of a sweep: its plan, then its runs in the order of their cells."""
    planned, out = [], []
    for entry in (e for cell in sweep.cells() for e in sweep.planned(cell)):
        cell = dict(zip(sweep.axes, entry.cell, strict=True))
        directory = "/".join([*(f"{a}={v}" for a, v in cell.items()), f"seed_{entry.seed}"])
        argv = entry.argv
        if entry.run is not None and (entry.finished or entry.diverged or entry.unfinished):
            own = {"sweep": sweep.name, "profile": sweep.profile, "cell": cell, "command": entry.recipe}
            out.append(facts.of_run(entry.run, roots, **own))
            directory = out[-1]["dir"]
            argv = entry.argv if entry.unfinished else shlex.split(entry.recipe)[3:]
        planned.append({"dir": directory, "cell": cell, "seed": entry.seed, "argv": argv})
    about = {key: getattr(sweep, key) for key in ("name", "profile", "title", "x", "panel", "line", "axes")}
    paper = [{**asdict(claim), "claim": claim.text} for claim in sweep.claims]
    published = [asdict(own) for own in sweep.published]
    more = {"paper": paper, "published": published, "titles": sweep.titles}
    return [{"kind": "sweep", **about, "runs": planned, **more}, *out]


def keep(out: Path) -> None:
    """Adds the runs of the sweep in `out` that have ended to the facts that it keeps."""
    found = facts.load([out])
    folders = [run for run in found.runs if run.path.is_dir() and (run.final or run.diverged)]
    made = load(replace(found, runs=tuple(folders))).sweeps
    facts.append(out / facts.FILE, [line for sweep in made for line in lines(sweep, [out])[1:]])


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
        titles=_titles(entries.values())
        | {name: _text(title) for name, title in record.get("titles", {}).items()},
    )
    return sweep, directories


def _titles(entries: Iterable[Entry]) -> dict[str, str]:
    """The titles of algorithms that runs are of or began with, by name."""
    records = [e.run.record for e in entries if e.run is not None]
    known = [*(r["start"] for r in records if r.get("start")), *records]
    return {r["algo"]: r["title"] for r in known if r.get("algo") and r.get("title")}


def _split(statement: Mapping[str, Any], what: str) -> str:
    if statement["split"] not in SPLITS:
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
            facts.read(directory)
        except facts.BROKEN as error:
            return None, f"damaged: {facts.reason(error)}"
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
        published=both(a.published, b.published), mixed=mixed, titles={**b.titles, **a.titles},
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
