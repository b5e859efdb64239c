"""`python -m mtmarl.sweep +sweep=model_size`: a grid of training runs and the report over it.

A sweep is one YAML file in configs/sweep: axes whose product is the grid, profiles that fit it to a machine, and the
published claims that the report sets beside the results. Each run is one process of `mtmarl.train`. The same
command again goes on where it stopped. A run that another sweep has finished beside it is copied, not made again; one
that the results.json of an earlier report holds, of this sweep or another, is counted as it stands there.
"""

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from mtmarl import config, divergence, foreign, launcher, settings
from mtmarl.command_lines import command, word
from mtmarl.errors import UserError, exit_with, failed
from mtmarl.files import is_written, write_json
from mtmarl.sinks.summary import score

USAGE = """usage: python -m mtmarl.sweep +sweep=NAME [profile=cpu] [key=value …]

  +sweep=    one of those below, or a YAML file of your own
  profile=   smoke (does it run?), cpu (a thinned grid) or paper (the published settings)
  jobs=      runs at a time
  launcher=  local (processes of this machine) or slurm; launcher.KEY= changes what configs/launcher says
  seeds=     instead of those of the sweep
  only.AXIS= run only these levels of an axis now, as in only.algo=mt_oryx; the plan and the report keep the rest
  only.seed= run only these of the sweep's seeds now, as when several machines share a sweep
  results=   results.json of an earlier report, of this sweep or another; runs that it holds are not made again;
             several: a,b
  out=       default: runs/sweeps/NAME-PROFILE
  --dry-run  check the runs, print the commands of those that are left, run nothing
  key=value  any option of mtmarl.train, for every run (see python -m mtmarl.train --help)
"""
TRAIN = launcher.TRAIN
POLL_SECONDS = 0.2
# What a run that is asked to stop gets, to save its state, before it is killed.
GRACE_SECONDS = 30.0
# What comes before a command that gets SIGTERM when the sweep has gone, however that ended (prctl 1: PR_SET_PDEATHSIG).
_ENDS_WITH_US = (
    sys.executable, "-S", "-c",
    "import ctypes, os, signal, sys; ctypes.CDLL(None).prctl(1, signal.SIGTERM); os.execv(sys.argv[1], sys.argv[1:])",
) if sys.platform == "linux" else ()  # fmt: skip
_OWN = {"run_dir": "give out=", "seed": "give seeds=", "distributed": "give launcher=slurm launcher.nodes="}


@dataclass(frozen=True)
class Profile:
    """`overrides` follow the base of the sweep; `levels` names, per axis, those that are run (default: all).

    `level_seeds`: axis -> level -> seeds, in place of `seeds` in the cells of that level.
    """

    overrides: tuple[str, ...] = ()
    levels: Mapping[str, tuple[str | int | float, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    level_seeds: Mapping[str, Mapping[str | int | float, tuple[int, ...]]] = field(default_factory=dict)


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
    line per level.
    """

    title: str
    axes: Mapping[str, Mapping[str, tuple[str, ...]]]
    seeds: tuple[int, ...]
    profiles: Mapping[str, Profile]
    base: tuple[str, ...] = ()
    x: str | None = None
    panel: str | None = None
    line: str | None = None
    paper: tuple[Claim, ...] = ()
    published: tuple[Published, ...] = ()


@dataclass(frozen=True)
class Options:
    """The command line; `overrides` are those of every run, `only` the levels per axis that are run now."""

    sweep: str
    profile: str = "cpu"
    jobs: int = 1
    launcher: str = "local"
    launcher_options: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    results: tuple[str, ...] = ()
    out: str | None = None
    dry_run: bool = False
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------- reading


def read_options(argv: Sequence[str]) -> Options:
    """Raises UserError."""
    values: dict[str, Any] = {}
    only, places, overrides = {}, {}, []
    for arg in argv:
        if arg == "--dry-run":
            values["dry_run"] = True
            continue
        key, equals, value = arg.partition("=")
        key = key.lstrip("+")
        if key in ("sweep", "profile", "out", "launcher"):
            values[key] = value
        elif key == "jobs":
            if not value.isdecimal() or int(value) < 1:
                raise UserError(f"jobs must be an int of at least 1, not {value!r}")
            values[key] = int(value)
        elif key == "seeds":
            seeds = [v.strip() for v in value.strip("[]").split(",")]
            if not all(v.isdecimal() for v in seeds) or len(set(seeds)) < len(seeds):
                raise UserError(f"seeds must be different ints, as in 0,1,2, not {value!r}")
            values[key] = tuple(map(int, seeds))
        elif key == "results":
            values[key] = tuple(v.strip() for v in value.split(","))
        elif key.startswith("launcher."):
            places[key.removeprefix("launcher.")] = value
        elif key.startswith("only."):
            only[key.removeprefix("only.")] = tuple(v.strip() for v in value.split(","))
        elif arg.startswith("-") or not equals:
            raise UserError(f"{arg}: options are written key=value, see --help")
        elif key in ("dry_run", "dry-run"):
            raise UserError(f"{arg}: write --dry-run")
        elif key in _OWN:
            raise UserError(f"{key}= belongs to the single run; {_OWN[key]}")
        else:
            overrides.append(arg)
    if not values.get("sweep"):
        raise UserError(f"choose one: +sweep={{{', '.join(config.options('sweep'))}}}")
    return Options(**values, only=only, launcher_options=places, overrides=tuple(overrides))


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
            if key in _OWN:
                raise UserError(f"{where}: axes.{axis} sets {key}, which a sweep sets itself")
            if owner.setdefault(key, axis) != axis and not override.endswith("=null"):
                raise UserError(f"{where}: the axes {owner[key]} and {axis} both set {key}")
    for key, axis in (("x", sweep.x), ("panel", sweep.panel), ("line", sweep.line)):
        if axis is not None:
            _known(axis, sweep.axes, f"{where}: {key}")
    drawn = [a for a in (sweep.x, sweep.panel, sweep.line) if a is not None]
    if len(set(drawn)) < len(drawn):
        raise UserError(f"{where}: x, panel and line must be different axes")
    if not sweep.profiles:
        raise UserError(f"{where}: profiles is empty; write one, such as cpu: {{}}")
    given = [
        *(p.seeds for p in sweep.profiles.values() if p.seeds is not None),
        *(s for p in sweep.profiles.values() for levels in p.level_seeds.values() for s in levels.values()),
    ]
    for seeds in (sweep.seeds, *given):
        if not seeds or len(set(seeds)) < len(seeds):
            raise UserError(f"{where}: seeds must be different numbers, at least one")
    choices = [(f"profiles.{n}.levels", p.levels) for n, p in sweep.profiles.items()]
    choices += [(f"profiles.{n}.level_seeds", p.level_seeds) for n, p in sweep.profiles.items()]
    cells = [
        (f"paper[{i}].{part}", getattr(c, part)) for i, c in enumerate(sweep.paper) for part in ("of", "over")
    ]
    cells += [(f"published[{i}].of", p.of) for i, p in enumerate(sweep.published)]
    for key, named in (*choices, *((key, {a: (v,) for a, v in cell.items()}) for key, cell in cells)):
        for axis, names in named.items():
            _known(axis, sweep.axes, f"{where}: {key}")
            if not names:
                raise UserError(f"{where}: {key}.{axis} names no level")
            for name in names:
                _known(str(name), sweep.axes[axis], f"{where}: {key}.{axis}")


def _known(name: str, known: Mapping[str, Any], where: str) -> None:
    if name not in known:
        raise UserError(f"{where}: unknown {name}{config.suggest(name, known)}")


# ------------------------------------------------------------------------------------------------- planning


def plan(sweep: Sweep, where: str, options: Options) -> dict[str, Any]:
    """The content of sweep.json: what is run and how it is drawn. Raises UserError.

    Of two overrides of one key the later wins: base < profile < level < command line. In them {seed}, {profile}
    and the name of an axis in braces stand for those of the run, so that it may start from one of another sweep. Runs
    are ordered by seed first, so that partial results cover the whole grid.
    """
    _known(options.profile, sweep.profiles, f"{where}: profile=")
    profile = sweep.profiles[options.profile]
    kept = {axis: [str(n) for n in names] for axis, names in profile.levels.items()}
    axes = {a: [n for n in levels if n in kept.get(a, levels)] for a, levels in sweep.axes.items()}
    for override in options.overrides:
        for axis, levels in sweep.axes.items():
            if settings.key_of(override) in {
                settings.key_of(o) for overrides in levels.values() for o in overrides
            }:
                raise UserError(f"{override}: the axis {axis} of this sweep sets {settings.key_of(override)}")

    out = out_directory(options)
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
        "published": published,
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
        _known(axis, axes, f"only.{axis}")
        for level in levels:
            _known(level, dict.fromkeys(axes[axis]), f"only.{axis}")
    levels_of = lambda run: {**run["cell"], "seed": str(run["seed"])}
    return [r for r in record["runs"] if all(levels_of(r)[axis] in levels for axis, levels in only.items())]


def _texts(cell: Mapping[str, Any]) -> dict[str, str]:
    return {axis: str(level) for axis, level in cell.items()}


def out_directory(options: Options) -> Path:
    default = Path("runs/sweeps") / f"{Path(options.sweep).stem}-{options.profile}"
    return Path(options.out).expanduser() if options.out else default


def in_results(record: Mapping[str, Any], files: Sequence[Path]) -> set[str]:
    """The directories of those planned runs that earlier reports on this sweep hold. Raises UserError."""
    return {own["dir"] for file in files for own, _ in _held(record, file)}


def _held(record: Mapping[str, Any], file: Path) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Planned runs beside what an earlier report on this sweep has in their place. Raises UserError."""
    from mtmarl.analysis import runs as runs_

    key = lambda run: (*sorted(run["cell"].items()), run["seed"])
    planned = {key(r): r for r in record["runs"]}
    try:
        sweeps = runs_.read_results(file)["sweeps"]
        same = [s for s in sweeps if (s["name"], s["profile"]) == (record["name"], record["profile"])]
        there = [(planned[key(run)], run) for s in same for run in s["runs"] if key(run) in planned]
        # What the command lines say is that of the plan, or it is another experiment.
        return [
            (own, run)
            for own, run in there
            if settings.overrides(own["argv"]) == settings.overrides(_argv(run))
        ]
    except runs_.BROKEN as error:
        raise UserError(f"results={file}: {runs_.reason(error)}") from None


def check_held(record: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Raises a UserError where a run that a report holds was made with settings that are others by now."""
    from mtmarl import build

    for file in files:
        recorded = _recorded(file)
        for own, run in _held(record, file):
            kept = recorded.get(file / run["dir"])
            cfg = config.compose(own["argv"], "train") if kept else None
            differing = build.differing_settings(kept, cfg, str(file), _lacking()) if kept and cfg else []
            if differing:
                raise UserError(
                    f"results={file}: {own['dir']} was made with other settings ({settings.listed(differing)}); "
                    "without that results= it is made anew"
                )


def _lacking() -> tuple[str, ...]:
    """Settings that tell repetitions apart, of which reports keep none but where a run began: that is not guessed."""
    from mtmarl.analysis import experiments

    return tuple(key for key in experiments.FREE if key != "init_from")


def _argv(recorded: Mapping[str, Any]) -> list[str]:
    return shlex.split(recorded["command"])[3:]


def check_runs(runs: Sequence[Mapping[str, Any]], out: Path, where: str) -> None:
    """All that can be wrong with a run before it starts: its options, its vaults, other results in its place.

    Raises UserError naming the run. It loads jax; the process that waits for the runs does without, and calls it
    in a child.
    """
    from mtmarl import build
    from mtmarl.data.vault import find_vault

    seen = set()
    for run in runs:
        # Of seeds alike one is enough, but for what may lie in its directory.
        rest = settings.overrides(w for w in run["argv"] if settings.key_of(w) != "seed")
        if rest in seen and not (out / run["dir"] / "run.json").exists():
            continue
        seen.add(rest)
        try:
            cfg = config.compose(run["argv"], "train")
            fetched = cfg.data.download and (cfg.hub.url or cfg.tasks.hub)
            if build.outline(cfg).needs_vaults and not fetched:
                for task in build.train_tasks(cfg):
                    find_vault(task, cfg.data.quality, build.vault_roots(cfg))
            build.earlier_run(build.run_directory(cfg, ""), cfg)
        except UserError as error:
            raise UserError(f"{where}, run {run['dir']}: {error}") from None


def find_finished(
    runs: Sequence[Mapping[str, Any]], out: Path, files: Sequence[Path] = ()
) -> dict[str, Path]:
    """{directory: where it lies} of runs that another sweep has finished.

    They lie beside this sweep, or in one of the files, a results.json each: there as FILE/DIRECTORY. They have the same
    settings and, as far as they say, the same vaults and the same policy to start from.
    """
    from mtmarl import build
    from mtmarl.analysis import runs as runs_

    found: dict[str, Path] = {}
    sweeps = [f.parent for f in sorted(out.parent.glob("*/sweep.json")) if f.parent != out]
    others = [final.parent for final in runs_.files(sweeps, "final.json")]
    candidates: list[tuple[Path, Mapping[str, Any], tuple[str, ...]]] = []
    for place in others:
        try:
            candidates.append((place, build.read_record(place) or {}, ()))
        except UserError:
            continue  # Not of this sweep, so it stops nothing.
    candidates += [(place, record, _lacking()) for file in files for place, record in _recorded(file).items()]
    for run in runs if candidates else ():  # Composing every run takes seconds.
        if (out / run["dir"]).exists():
            continue
        cfg = config.compose(run["argv"], "train")
        for place, record, free in candidates:
            same = record.get("seed") == cfg.seed and record.get("algo") == cfg.algo_name
            try:
                if same and not (
                    build.differing_settings(record, cfg, str(place), free)
                    or build.changed_origins(record, cfg)
                ):
                    found[run["dir"]] = place
                    break
            except (UserError, KeyError, TypeError):
                continue  # It is of another version; that is no matter here.
    return found


def _recorded(file: Path) -> dict[Path, dict[str, Any]]:
    """The runs of sweeps in a results.json, each with its configuration: as recorded, and as its command means where
    a report kept no setting (early ones kept none).
    """
    from mtmarl.analysis import runs as runs_

    value = runs_.read_results(file)
    out = {}
    for run in (r for sweep in value["sweeps"] for r in sweep["runs"]):
        try:
            whole = config.to_dict(config.compose(_argv(run), "train"))
            kept = (value.get("settings") or {}).get(run.get("settings")) or {}
            out[file / run["dir"]] = {**run, "config": settings.unflatten(settings.flatten(whole) | kept)}
        except (UserError, *runs_.BROKEN):
            continue  # Its options have gone since, or it is of another make.
    return out


def take(found: Mapping[str, Path], record: Mapping[str, Any], out: Path) -> None:
    """Runs of other sweeps as runs of this one: copied into their places, without the checkpoints that only a
    continuation needs, or written to `analysis.runs.ADOPTED`, a results.json of this sweep.
    """
    reported: dict[str, Path] = {}
    for directory, place in found.items():
        if place.is_dir():
            part = out / f"{directory}.part"
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(place, part, ignore=shutil.ignore_patterns("checkpoints"))
            part.rename(out / directory)
            commit = (json.loads((out / directory / "run.json").read_text()).get("commit") or "unknown")[:12]
            print(f"taken     {directory} from {place} (commit {commit})", flush=True)
        else:
            reported[directory] = place
            print(f"taken     {directory} from {place}", flush=True)
    if reported:
        _adopt(reported, record, out)


def _adopt(found: Mapping[str, Path], record: Mapping[str, Any], out: Path) -> None:
    """Adds runs that reports of other sweeps hold to those that are there."""
    from mtmarl.analysis import runs as runs_
    from mtmarl.analysis.sweeps import recipe

    path = out / runs_.ADOPTED
    files = {f for place in found.values() for f in place.parents if f.is_file()}
    values = {file: runs_.read_results(file) for file in sorted(files)}
    about = {key: record[key] for key in ("name", "profile", "title", "x", "panel", "line", "axes")}
    earlier = [runs_.read_results(path)] if path.exists() else []
    kept = [run for value in earlier for run in value["sweeps"][0]["runs"]]
    planned = {r["dir"]: r for r in record["runs"]}
    for file, value in values.items():
        there = {file / run["dir"]: run for sweep in value["sweeps"] for run in sweep["runs"]}
        for directory, place in found.items():
            if place in there:
                own = planned[directory]
                here = {"dir": f"{out.name}/{directory}", "cell": own["cell"], "command": recipe(own["argv"])}
                kept.append(there[place] | here)
    joined: dict[str, dict[str, Any]] = {"references": {}, "settings": {}}
    for value in (*earlier, *values.values()):
        for key, known in joined.items():
            known |= value.get(key) or {}
    own_sweep = {**about, "runs": kept, "to_do": [], "claims": []}
    write_json(path, {"format": runs_.FORMAT, "sweeps": [own_sweep], "experiments": [], **joined})


def check_continues(record: Mapping[str, Any], out: Path) -> None:
    """An earlier sweep.json may only gain runs, or be drawn otherwise; a UserError where its settings differ."""
    path = out / "sweep.json"
    if not path.exists():
        return
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        old = {r["dir"]: settings.overrides(r["argv"]) for r in earlier["runs"]}
        names = [earlier["name"], earlier["profile"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a readable record of a sweep ({foreign.line(repr(error))}); remove it"
        ) from error
    remedy = "give another out=, or remove this one"
    if names != [record["name"], record["profile"]]:
        raise UserError(f"{out}: holds the sweep {names[0]} with profile {names[1]}; {remedy}")
    new = {r["dir"]: settings.overrides(r["argv"]) for r in record["runs"]}
    for directory, planned in old.items():
        if directory not in new:
            raise UserError(f"{out}: holds the run {directory}, which this sweep lacks; {remedy}")
        if planned != new[directory]:
            differing = settings.listed(sorted(planned ^ new[directory]))
            raise UserError(
                f"{out}: holds this sweep with other settings ({directory}: {differing}); {remedy}"
            )


def write_plan(record: Mapping[str, Any], out: Path) -> None:
    """Writes sweep.json, whole or not at all."""
    write_json(out / "sweep.json", record)


# ------------------------------------------------------------------------------------------------- running


def execute(runs: Sequence[Mapping[str, Any]], out: Path, jobs: int) -> list[str]:
    """Runs those that have not ended, `jobs` at a time; returns a line on each that failed or diverged.

    However it is left, no child stays behind. A run that another process is writing, such as one that a killed sweep
    left, is waited for.
    """
    waiting = deque(r for r in runs if not divergence.ended(out / r["dir"]))
    places = deque(shares_of_cores(jobs))
    total, ended = len(runs), len(runs) - len(waiting)
    running: dict[subprocess.Popen, tuple[Mapping[str, Any], float, frozenset[int]]] = {}
    minutes: list[float] = []
    failures = [line for r in runs if r not in waiting and (line := _diverged(r, out))]
    environment = dict(os.environ)
    if jobs > 1:
        # Each process would claim most of an accelerator's memory for itself.
        environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    say = lambda number, text: print(f"[{number:{len(str(total))}}/{total}] {text}", flush=True)
    told: set[str] = set()

    def busy(run: Mapping[str, Any]) -> bool:
        held = is_written(out / run["dir"])
        if held and run["dir"] not in told:
            told.add(run["dir"])
            say(ended, f"waiting   {run['dir']}: another process is writing it")
        return held

    try:
        while waiting or running:
            while len(running) < jobs and (run := next((r for r in waiting if not busy(r)), None)):
                waiting.remove(run)
                if divergence.ended(out / run["dir"]):  # By the process that was waited for.
                    ended += 1
                    line = _diverged(run, out)
                    failures += [line] if line else []
                    say(ended, f"DIVERGED  {line}" if line else f"finished  {run['dir']}")
                    continue
                cores = places.popleft()
                running[_start(run, out, environment, cores)] = (run, time.monotonic(), cores)
                say(total - len(waiting), f"started   {run['dir']}")
            time.sleep(POLL_SECONDS)
            for process in [p for p in running if p.poll() is not None]:
                run, began, cores = running.pop(process)
                places.append(cores)
                took, directory = (time.monotonic() - began) / 60, out / run["dir"]
                ended += 1
                if process.returncode == 0 and (directory / "final.json").exists():
                    minutes.append(took)
                    parts = [f"finished  {run['dir']}", f"{took:.1f} min", *_score(directory / "final.json")]
                elif line := _diverged(run, out):
                    failures.append(line)
                    parts = [f"DIVERGED  {line}"]
                else:
                    failures.append(f"{run['dir']}: {_last_line(directory / 'log.txt')}")
                    parts = [f"FAILED    {run['dir']}", f"{took:.1f} min"]
                if ended < total and minutes:
                    left = sum(minutes) / len(minutes) * (total - ended) / min(jobs, total - ended)
                    parts.append(f"about {_span(left)} left")
                say(ended, ", ".join(parts))
    finally:
        _stop(list(running))
    return failures


def _queue(
    runs: Sequence[Mapping[str, Any]], out: Path, options: Options, place: launcher.Config
) -> list[str]:
    """As `execute`, on a cluster."""

    def tell(run: Mapping[str, Any]) -> None:
        final, lost = out / run["dir"] / "final.json", _diverged(run, out)
        failed = f"DIVERGED  {lost}" if lost else f"FAILED    {run['dir']}"
        print(", ".join([f"finished  {run['dir']}", *_score(final)] if final.exists() else [failed]))

    print(
        f"jobs in {out / 'slurm'}; if this is stopped they go on, and the same command waits again",
        flush=True,
    )
    failed = launcher.execute(runs, out, options.jobs, place, tell)
    return [
        _diverged(run, out) or f"{run['dir']}: {_last_line(out / run['dir'] / 'log.txt')}"
        for run in runs
        if run in failed or _diverged(run, out)
    ]


def shares_of_cores(jobs: int) -> list[frozenset[int]]:
    """The cores of each of `jobs` processes; empty (any) where there are too few, or where none can be chosen.

    Processes that share cores spend much of them waiting for each other's threads.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [frozenset(cores[i::jobs] if len(cores) >= jobs else ()) for i in range(jobs)]


def _start(
    run: Mapping[str, Any], out: Path, environment: Mapping[str, str], cores: frozenset[int]
) -> subprocess.Popen:
    directory = out / run["dir"]
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "log.txt").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [*_ENDS_WITH_US, *TRAIN, *run["argv"]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    if cores:
        os.sched_setaffinity(process.pid, cores)
    return process


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _diverged(run: Mapping[str, Any], out: Path) -> str | None:
    """A line on a run that diverged; None of others."""
    line = divergence.read(out / run["dir"])
    return line and f"{run['dir']}: {line}"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"{lines[-1].strip() if lines else 'no output'} ({log})"


def _score(final: Path) -> list[str]:
    """The held-out score of a finished run: mean over held-out tasks of the best checkpoint's normalised score."""
    tasks = json.loads(final.read_text(encoding="utf-8"))["best"]["tasks"]
    held_out = [name for name, t in tasks.items() if t["split"] == "test"]
    return [f"held-out {score(tasks, held_out):.3f}"] if held_out else []


def _span(minutes: float) -> str:
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


# ------------------------------------------------------------------------------------------------- command line


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    try:
        if any(a in ("-h", "--help") for a in argv):
            print(help_text())
            return 0
        return run_sweep(read_options(argv))
    except (UserError, OSError) as error:
        return failed(error)


def help_text() -> str:
    lines = [USAGE]
    for name in config.options("sweep"):
        sweep, _ = read_sweep(name)
        lines.append(f"  {name:<26}{sweep.title}")
    return "\n".join(lines)


def run_sweep(options: Options) -> int:
    """Plans, checks, runs and reports; the exit code is 1 if a run failed."""
    from mtmarl.analysis.runs import ADOPTED

    sweep, where = read_sweep(options.sweep)
    place = launcher.read(options.launcher, options.launcher_options)
    record, out = plan(sweep, where, options), out_directory(options)
    runs, files = chosen(record, options.only), [Path(f).expanduser() for f in options.results]
    adopted = lambda: [out / ADOPTED] if (out / ADOPTED).exists() else []
    held = {file: in_results(record, [file]) for file in (*files, *adopted())}
    known = set().union(*held.values())
    counted = sum(r["dir"] in known for r in runs)
    runs = [r for r in runs if r["dir"] not in known]
    done = counted + sum((out / r["dir"] / "final.json").exists() for r in runs)
    left = f"{counted + len(runs)} runs, {done} of them finished, {options.jobs} at a time"
    print(f"{sweep.title} ({options.profile}): {left}; {out}", flush=True)
    check_continues(record, out)
    # Ctrl-C reaches the child as well, which would answer with a traceback.
    deaf = (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=signal.signal, initargs=deaf) as child:
        child.submit(check_runs, runs, out, where).result()
        child.submit(check_held, record, list(held)).result()
        found = child.submit(find_finished, runs, out, files).result()
    own = [file for file in files if held[file]]
    for file in files:
        given = file in own or any(file in place.parents for place in found.values())
        if not (given or adopted() or options.only):
            raise UserError(
                f"results={file}: holds none of the runs of {record['name']} ({record['profile']})"
            )
    if options.dry_run:
        for directory, there in found.items():
            print(f"# {directory}: taken from {there}")
        for r in runs:
            if r["dir"] not in found and not divergence.ended(out / r["dir"]):
                print(command("train", *r["argv"]))
        return 0
    write_plan(record, out)
    take(found, record, out)
    known = in_results(record, adopted())
    runs = [r for r in runs if r["dir"] not in known]
    failures = (
        execute(runs, out, options.jobs) if place.kind == "local" else _queue(runs, out, options, place)
    )

    from mtmarl.report import write_report

    try:
        print(f"report: {write_report([out, *own], out / 'report')}", flush=True)
    except UserError as error:
        print(f"no report: {error}", file=sys.stderr)
    for line in failures:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    exit_with(main, "the same command goes on from here")
