"""Runs that need not be made again: those that other sweeps have finished, or that the files of results= hold."""

import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtmarl import config, settings, terminal
from mtmarl.errors import UserError
from mtmarl.files import write_json
from mtmarl.runs import identity
from mtmarl.runs.record import read_run


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
            if config.deciding_words(own["argv"]) == config.deciding_words(_argv(run))
        ]
    except runs_.BROKEN as error:
        raise UserError(f"results={file}: {runs_.reason(error)}") from None


def check_held(record: Mapping[str, Any], files: Sequence[Path]) -> None:
    """Raises a UserError where a run that a report holds was made with settings that are others by now."""
    from mtmarl.runs import resume

    for file in files:
        recorded = _recorded(file)
        for own, run in _held(record, file):
            kept = recorded.get(file / run["dir"])
            cfg = config.compose(own["argv"], "train") if kept else None
            differing = (
                resume.differing_settings(kept, cfg, str(file), settings.REPORTED) if kept and cfg else []
            )
            if differing:
                raise UserError(
                    f"results={file}: {own['dir']} was made with other settings ({settings.listed(differing)}); "
                    "without that results= it is made anew"
                )


def _argv(recorded: Mapping[str, Any]) -> list[str]:
    return shlex.split(recorded["command"])[3:]


def find_finished(
    runs: Sequence[Mapping[str, Any]], out: Path, files: Sequence[Path] = ()
) -> dict[str, Path]:
    """{directory: where it lies} of runs that another sweep has finished.

    They lie beside this sweep, or in one of the files, a results.json each: there as FILE/DIRECTORY. They have the same
    settings and, as far as they say, the same vaults and the same policy to start from.
    """
    from mtmarl.analysis import runs as runs_
    from mtmarl.runs import resume

    found: dict[str, Path] = {}
    sweeps = [f.parent for f in sorted(out.parent.glob("*/sweep.json")) if f.parent != out]
    others = [final.parent for final in runs_.files(sweeps, "final.json")]
    candidates: list[tuple[Path, Mapping[str, Any], str]] = []
    for place in others:
        try:
            candidates.append((place, read_run(place) or {}, settings.SAME_RUN))
        except UserError:
            continue  # Not of this sweep, so it stops nothing.
    candidates += [
        (place, record, settings.REPORTED) for file in files for place, record in _recorded(file).items()
    ]
    for run in runs if candidates else ():  # Composing every run takes seconds.
        if (out / run["dir"]).exists():
            continue
        cfg = config.compose(run["argv"], "train")
        for place, record, purpose in candidates:
            same = record.get("seed") == cfg.seed and record.get("algo") == cfg.algo_name
            try:
                if same and not (
                    resume.differing_settings(record, cfg, str(place), purpose)
                    or resume.changed_origins(record, cfg)
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
        else:
            reported[directory] = place
        told = identity.made_otherwise((read_run(place) if place.is_dir() else _recorded_at(place)) or {})
        terminal.say(f"taken     {directory} from {place}" + (f": {told}" if told else ""))
    if reported:
        _adopt(reported, record, out)


def _recorded_at(place: Path) -> Mapping[str, Any]:
    """The run that the results.json of a report holds as FILE/DIRECTORY."""
    from mtmarl.analysis import runs as runs_

    file = next(f for f in place.parents if f.is_file())
    runs = (run for sweep in runs_.read_results(file)["sweeps"] for run in sweep["runs"])
    return next(run for run in runs if file / run["dir"] == place)


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
