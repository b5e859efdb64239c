"""Runs that need not be made again: those that other sweeps have finished, or that the files of results= hold."""

import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtmarl import config, settings, terminal
from mtmarl.errors import UserError
from mtmarl.runs import identity
from mtmarl.runs.record import read_run


def _kept(file: Path, taken: bool = False) -> list[dict[str, Any]]:
    """The runs of sweeps in a file of facts, or those that were taken from others. Raises one of `facts.BROKEN`."""
    from mtmarl.analysis import facts

    runs = [line for line in facts.read_lines(file)[0] if "cell" in line]
    return [run for run in runs if "taken" in run] if taken and file.name == facts.FILE else runs


def in_results(record: Mapping[str, Any], files: Sequence[Path], taken: bool = False) -> set[str]:
    """The directories of those planned runs that files of facts hold. Raises UserError.

    `taken`: only those that were taken from others; a sweep makes its own run again where the folder was removed.
    """
    return {own["dir"] for file in files for own, _ in _held(record, file, taken)}


def _held(
    record: Mapping[str, Any], file: Path, taken: bool
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Planned runs beside what a file of facts has in their place. Raises UserError."""
    from mtmarl.analysis import facts

    key = lambda run: (*sorted(run["cell"].items()), run["seed"])
    planned = {key(r): r for r in record["runs"]}
    ours = record["name"], record["profile"]
    try:
        there = [r for r in _kept(file, taken) if (r["sweep"], r["profile"]) == ours and key(r) in planned]
        # What the command lines say is that of the plan, or it is another experiment.
        same = lambda own, run: config.deciding_words(own["argv"]) == config.deciding_words(_argv(run))
        return [(planned[key(run)], run) for run in there if same(planned[key(run)], run)]
    except facts.BROKEN as error:
        raise UserError(f"results={file}: {facts.reason(error)}") from None


def check_held(record: Mapping[str, Any], files: Sequence[Path], taken: bool = False) -> None:
    """Raises a UserError where a run that a report holds was made with settings that are others by now."""
    from mtmarl.runs import resume

    for file in files:
        recorded = _recorded(file)
        for own, run in _held(record, file, taken):
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

    They lie beside this sweep, or in one of the files of facts: there as FILE/DIRECTORY. They have the same
    settings and, as far as they say, the same vaults and the same policy to start from.
    """
    from mtmarl.analysis import facts
    from mtmarl.runs import resume

    found: dict[str, Path] = {}
    sweeps = [f.parent for f in sorted(out.parent.glob("*/sweep.json")) if f.parent != out]
    others = [final.parent for final in facts.files(sweeps, "final.json")]
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
    """The runs of sweeps in a file of facts, each with its configuration: as recorded, and as its command means where
    no setting was kept (early reports kept none).
    """
    from mtmarl.analysis import facts

    out = {}
    for run in _kept(file):
        try:
            whole = settings.flatten(config.to_dict(config.compose(_argv(run), "train")))
            known = settings.unflatten(whole | (run.get("settings") or {}))
            out[file / run["dir"]] = {**run, "config": known}
        except facts.BROKEN:
            continue  # Its options have gone since, or it is of another make.
    return out


def take(found: Mapping[str, Path], record: Mapping[str, Any], out: Path) -> None:
    """Runs of other sweeps as runs of this one: copied into their places, without the checkpoints that only a
    continuation needs, or added to the facts of this sweep.
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
        told = identity.made_otherwise((read_run(place) if place.is_dir() else _kept_at(place)) or {})
        terminal.say(f"taken     {directory} from {place}" + (f": {told}" if told else ""))
    if reported:
        _adopt(reported, record, out)


def _kept_at(place: Path) -> Mapping[str, Any]:
    """The run that a file of facts holds as FILE/DIRECTORY."""
    file = next(f for f in place.parents if f.is_file())
    return next(run for run in _kept(file) if file / run["dir"] == place)


def _adopt(found: Mapping[str, Path], record: Mapping[str, Any], out: Path) -> None:
    """Adds runs that facts of other sweeps hold to the facts of this one."""
    from mtmarl.analysis import facts
    from mtmarl.analysis.sweeps import recipe

    files = {f for place in found.values() for f in place.parents if f.is_file()}
    there = {file / run["dir"]: {**run, "taken": file.name} for file in sorted(files) for run in _kept(file)}
    planned = {r["dir"]: r for r in record["runs"]}
    about = {"sweep": record["name"], "profile": record["profile"]}
    lines = [
        {
            **there[place], **about, "dir": f"{out.name}/{directory}", "cell": planned[directory]["cell"],
            "command": recipe(planned[directory]["argv"]),
        }
        for directory, place in found.items()
    ]  # fmt: skip
    facts.append(out / facts.FILE, lines)
