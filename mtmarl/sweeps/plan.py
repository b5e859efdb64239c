"""The plan of a sweep: its runs and how they are drawn, as sweep.json records it."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtmarl import config, foreign, settings
from mtmarl.command_lines import word
from mtmarl.errors import UserError
from mtmarl.files import write_json
from mtmarl.sweeps.options import Options
from mtmarl.sweeps.spec import Sweep, check_known


def make_plan(sweep: Sweep, where: str, options: Options) -> dict[str, Any]:
    """The content of sweep.json: what is run and how it is drawn. Raises UserError.

    Of two overrides of one key the later wins: base < profile < level < command line. In them {seed}, {profile}
    and the name of an axis in braces stand for those of the run, so that it may start from one of another sweep. Runs
    are ordered by seed first, so that partial results cover the whole grid.
    """
    check_known(options.profile, sweep.profiles, f"{where}: profile=")
    profile = sweep.profiles[options.profile]
    kept = {axis: [str(n) for n in names] for axis, names in profile.levels.items()}
    axes = {a: [n for n in levels if n in kept.get(a, levels)] for a, levels in sweep.axes.items()}
    for override in options.overrides:
        for axis, levels in sweep.axes.items():
            if settings.key_of(override) in {
                settings.key_of(o) for overrides in levels.values() for o in overrides
            }:
                raise UserError(f"{override}: the axis {axis} of this sweep sets {settings.key_of(override)}")

    out = options.directory
    seeds = next(s for s in (options.seeds, profile.seeds, sweep.seeds) if s is not None)
    own_seeds = {
        (axis, str(level)): own
        for axis, levels in profile.level_seeds.items()
        for level, own in levels.items()
    }

    def seeds_of(cell: Mapping[str, str]) -> tuple[int, ...]:
        own = next((own_seeds[level] for level in cell.items() if level in own_seeds), seeds)
        return seeds if options.seeds is not None else own

    cells = [dict(zip(axes, names, strict=True)) for names in itertools.product(*axes.values())]
    every_seed = sorted({seed for cell in cells for seed in seeds_of(cell)})
    runs = []
    for seed, cell in ((s, c) for s in every_seed for c in cells if s in seeds_of(c)):
        directory = "/".join([*(f"{a}={n}" for a, n in cell.items()), f"seed_{seed}"])
        levels = [o for axis, name in cell.items() for o in sweep.axes[axis][name]]
        merged: dict[str, str] = {}
        for override in (*sweep.base, *profile.overrides, *levels, *options.overrides):
            merged.pop(settings.key_of(override), None)
            for name, value in {**cell, "seed": seed, "profile": options.profile}.items():
                override = override.replace(f"{{{name}}}", str(value))
            merged[settings.key_of(override)] = override
            _check_no_credentials(override, where)
        argv = [*merged.values(), f"seed={seed}", word("run_dir", str(out / directory))]
        runs.append({"dir": directory, "cell": cell, "seed": seed, "argv": argv})
    paper = [{**asdict(c), "of": _texts(c.of), "over": _texts(c.over)} for c in sweep.paper]
    published = [{**asdict(p), "of": _texts(p.of)} for p in sweep.published]
    return {
        "kind": "sweep", "name": Path(options.sweep).stem, "profile": options.profile, "title": sweep.title,
        "x": sweep.x, "panel": sweep.panel, "line": sweep.line, "axes": axes, "runs": runs, "paper": paper,
        "published": published, "titles": dict(sweep.titles),
    }  # fmt: skip


def _check_no_credentials(override: str, where: str) -> None:
    """A plan is written to sweep.json, runs that are not checked as well. Raises UserError."""
    key, _, value = override.lstrip("+").partition("=")
    if key in ("hub.url", "tasks.hub") or "://" in value:
        config.check_address(where, key, value.strip("'\""))


def chosen(record: Mapping[str, Any], only: Mapping[str, Sequence[str]]) -> list[Mapping[str, Any]]:
    """The planned runs whose levels, or whose seeds, `only` names. Raises UserError."""
    seeds = list(dict.fromkeys(str(r["seed"]) for r in record["runs"]))
    axes = {**record["axes"], "seed": seeds}
    for axis, levels in only.items():
        check_known(axis, axes, f"only.{axis}")
        for level in levels:
            check_known(level, dict.fromkeys(axes[axis]), f"only.{axis}")
    levels_of = lambda run: {**run["cell"], "seed": str(run["seed"])}
    return [r for r in record["runs"] if all(levels_of(r)[axis] in levels for axis, levels in only.items())]


def _texts(cell: Mapping[str, Any]) -> dict[str, str]:
    return {axis: str(level) for axis, level in cell.items()}


def check_continues(record: Mapping[str, Any], out: Path) -> None:
    """An earlier sweep.json may only gain runs, or be drawn otherwise; a UserError where its settings differ."""
    path = out / "sweep.json"
    if not path.exists():
        return
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        old = {r["dir"]: config.deciding_words(r["argv"]) for r in earlier["runs"]}
        names = [earlier["name"], earlier["profile"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a readable record of a sweep ({foreign.line(repr(error))}); remove it"
        ) from error
    remedy = "give another out=, or remove this one"
    if names != [record["name"], record["profile"]]:
        raise UserError(f"{out}: holds the sweep {names[0]} with profile {names[1]}; {remedy}")
    new = {r["dir"]: config.deciding_words(r["argv"]) for r in record["runs"]}
    for directory, planned in old.items():
        if directory not in new:
            raise UserError(f"{out}: holds the run {directory}, which this sweep lacks; {remedy}")
        if planned != new[directory]:
            differing = settings.listed(sorted(planned ^ new[directory]))
            raise UserError(
                f"{out}: holds this sweep with other settings ({directory}: {differing}); {remedy}"
            )


def write_plan(record: Mapping[str, Any], out: Path) -> None:
    """Writes sweep.json, whole or not at all, and adds the plan to the facts of the sweep."""
    from mtmarl.analysis import facts

    write_json(out / "sweep.json", record)
    runs = [{**r, "dir": f"{out.name}/{r['dir']}"} for r in record["runs"]]
    facts.append(out / facts.FILE, [{**record, "runs": runs}])
