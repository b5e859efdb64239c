"""What a sweep is: one YAML file of configs/sweep or of your own, read and checked."""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mtmarl import config, settings
from mtmarl.errors import UserError
from mtmarl.ranges import Seeds

# Keys of a run that a sweep sets itself, and what to write instead.
OWN = {"run_dir": "give out=", "seed": "give seeds=", "distributed": "give launcher=slurm launcher.nodes="}


@dataclass(frozen=True)
class Profile:
    """`overrides` follow the base of the sweep; `levels` names, per axis, those that are run (default: all).

    `level_seeds`: axis -> level -> seeds, in place of `seeds` in the cells of that level.
    """

    overrides: tuple[str, ...] = ()
    levels: Mapping[str, tuple[str | int | float, ...]] = field(default_factory=dict)
    seeds: Seeds | None = None
    level_seeds: Mapping[str, Mapping[str | int | float, Seeds]] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A published gain in return of one cell over another; axes that are not named are averaged over.

    `gain` is relative: 0.29 for 29%, below 0 for a loss, 0 for no difference, None for a gain without a number.
    """

    claim: str
    of: Mapping[str, str | int | float]
    over: Mapping[str, str | int | float]
    split: Literal["train", "test"]
    gain: float | None = None


@dataclass(frozen=True)
class Published:
    """A published mean score of some cells, pooled, and its standard error."""

    of: Mapping[str, str | int | float]
    split: Literal["train", "test"]
    mean: float
    standard_error: float | None = None


@dataclass(frozen=True)
class Sweep:
    """`axes`: name -> level -> overrides; in the file also `key=a,b,c` for one level per value, named by it.

    In figures, `x` names the axis along the abscissa (null: bars), `panel` and `line` those with one panel and one
    line per level. `titles`: how reports write levels, or the first part of their names; algorithms have titles.
    """

    title: str
    axes: Mapping[str, Mapping[str, tuple[str, ...]]]
    seeds: Seeds
    profiles: Mapping[str, Profile]
    base: tuple[str, ...] = ()
    x: str | None = None
    panel: str | None = None
    line: str | None = None
    paper: tuple[Claim, ...] = ()
    published: tuple[Published, ...] = ()
    titles: Mapping[str, str] = field(default_factory=dict)


def read_sweep(name: str) -> tuple[Sweep, str]:
    """The sweep of that name, or of that YAML file, and the file for messages. Raises UserError."""
    if name.endswith((".yaml", ".yml")):
        path, where = Path(name).expanduser(), name
    else:
        known = config.options("sweep")
        if name not in known:
            raise UserError(f"unknown +sweep={name}{config.suggest(name, known)}; or give a .yaml file")
        path, where = config.file_of("sweep", name), f"configs/sweep/{name}.yaml"
    values = config.read_yaml(path)
    if isinstance(values, Mapping) and isinstance(values.get("axes"), Mapping):
        values = {
            **values,
            "axes": {str(k): _levels(v, f"{where}: axes.{k}") for k, v in values["axes"].items()},
        }
    sweep = config.parse(Sweep, values, where)
    _check(sweep, where)
    return sweep, where


def _levels(axis: Any, where: str) -> Any:
    """The short form of an axis, `key=a,b,c`, spelt out: one level per value, named by it."""
    if isinstance(axis, Mapping):
        return {str(level): [o] if isinstance(o, str) else o for level, o in axis.items()}
    if not isinstance(axis, str):
        return axis
    key, equals, values = axis.partition("=")
    names = [v.strip() for v in values.split(",")]
    if not equals or not all(names) or any(c in values for c in "[]{}'\""):
        raise UserError(f"{where}: {axis!r} is not key=a,b,c; write levels with their overrides instead")
    return {name: [f"{key}={name}"] for name in names}


def _check(sweep: Sweep, where: str) -> None:
    """Every name that refers to another must exist, and no two axes may set one key; but a level may take away, by
    `key=null`, what an axis before its own sets.
    """
    for axis, levels in sweep.axes.items():
        if not levels:
            raise UserError(f"{where}: axes.{axis} has no levels")
        if axis == "seed":
            raise UserError(f"{where}: axes.seed: seeds are no axis; write seeds: [0, 1, 2]")
        for name in (axis, *levels):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", str(name)):
                raise UserError(
                    f"{where}: axes.{axis}: {name!r} names a folder; use letters, digits and _ . + -"
                )
    owner: dict[str, str] = {}
    for axis, levels in sweep.axes.items():
        for override in itertools.chain.from_iterable(levels.values()):
            key = settings.key_of(override)
            if key in OWN:
                raise UserError(f"{where}: axes.{axis} sets {key}, which a sweep sets itself")
            if owner.setdefault(key, axis) != axis and not override.endswith("=null"):
                raise UserError(f"{where}: the axes {owner[key]} and {axis} both set {key}")
    for key, axis in (("x", sweep.x), ("panel", sweep.panel), ("line", sweep.line)):
        if axis is not None:
            check_known(axis, sweep.axes, f"{where}: {key}")
    drawn = [a for a in (sweep.x, sweep.panel, sweep.line) if a is not None]
    if len(set(drawn)) < len(drawn):
        raise UserError(f"{where}: x, panel and line must be different axes")
    if not sweep.profiles:
        raise UserError(f"{where}: profiles is empty; write one, such as cpu: {{}}")
    choices = [(f"profiles.{n}.levels", p.levels) for n, p in sweep.profiles.items()]
    choices += [(f"profiles.{n}.level_seeds", p.level_seeds) for n, p in sweep.profiles.items()]
    cells = [
        (f"paper[{i}].{part}", getattr(c, part)) for i, c in enumerate(sweep.paper) for part in ("of", "over")
    ]
    cells += [(f"published[{i}].of", p.of) for i, p in enumerate(sweep.published)]
    for key, named in (*choices, *((key, {a: (v,) for a, v in cell.items()}) for key, cell in cells)):
        for axis, names in named.items():
            check_known(axis, sweep.axes, f"{where}: {key}")
            if not names:
                raise UserError(f"{where}: {key}.{axis} names no level")
            for name in names:
                check_known(str(name), sweep.axes[axis], f"{where}: {key}.{axis}")


def check_known(name: str, known: Mapping[str, Any], where: str) -> None:
    if name not in known:
        raise UserError(f"{where}: unknown {name}{config.suggest(name, known)}")
