"""A report: the runs below some paths sorted into sections, and the files that are written of them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtmarl.analysis import document, earlier_results, facts, measure, plans, sections
from mtmarl.analysis.document import Section
from mtmarl.analysis.runs import Run
from mtmarl.command_lines import line
from mtmarl.errors import UserError
from mtmarl.files import write_together

RESULTS = "results.json"


@dataclass(frozen=True)
class Options:
    """`which`: the checkpoint that is scored; `references`: a folder of vaults whose reference returns are used.

    `threshold`: share of the largest or of the reference return that few-shot times are measured to. `pictures`: the
    only figures that are drawn. `latex`: tables for LaTeX and figures as PDF are written too. `keep`: an earlier report
    is not replaced by one that lacks some of its runs.
    """

    which: str = "best"
    references: Path | None = None
    threshold: float = 0.9
    pictures: Sequence[str] | None = None
    latex: bool = False
    keep: bool = False


def write(
    paths: Sequence[Path], out: Path, options: Options, complete: Callable[[Run], Run]
) -> tuple[Path, list[str]]:
    """Writes the report on all runs and sweeps at or below the paths; returns the path of report.md and notices.

    `complete` adds to a run what its version did not record. Raises UserError where there is nothing to report on.
    """
    found = facts.load(paths, options.references)
    completed, refused = [], []
    for run in found.runs:
        try:
            completed.append(complete(run))
        except ValueError as error:
            refused.append((facts.place(run, paths), f"damaged: {facts.reason(error)}"))
    known = plans.load(replace(found, runs=tuple(completed)))
    refused += known.refused
    rest = [r for r in completed if r.path.resolve() not in known.directories]
    trained = [r for r in rest if r.kind == "train" and r.final]
    collected = [r for r in rest if r.kind == "collect" and measure.collection(r) is not None]
    going = [r for r in rest if r.kind == "train" and not r.final and not r.diverged and measure.progress(r)]
    shown = {id(r) for r in (*trained, *collected, *going)}
    refused += [(facts.place(r, paths), _why_not(r)) for r in rest if id(r) not in shown]
    refused = sorted(dict.fromkeys(refused))
    if not (known.sweeps or trained or collected or going or any(r.diverged for r in rest)):
        reasons = [f"{place}: {reason}" for place, reason in refused] or ["no runs or sweeps there"]
        raise UserError(f"{', '.join(map(str, paths))}: nothing to report on ({'; '.join(reasons)})")

    shows: list[Section] = []
    results: dict[str, Any] = {"format": earlier_results.FORMAT, "method": sections.method(options.which)}
    results |= {"sweeps": [], "experiments": []}
    lines: list[dict[str, Any]] = []
    notices = []
    for sweep in known.sweeps:
        section, numbers = sections.of_sweep(sweep, options.which, options.threshold)
        shows.append(section)
        results["sweeps"].append(numbers)
        lines += plans.lines(sweep, paths)
        missing, lost = len(numbers["to_do"]), len(numbers["diverged"])
        notices.append(
            f"{sweep.name} ({sweep.profile}): {len(sweep.finished())} of {len(sweep.entries)} runs finished, "
            + (f"{lost} diverged, " if lost else "")
            + f"{missing} missing or unfinished"
            + (f"; their commands: {out / 'report.md'}" if missing else "")
        )
    if trained:
        section, results["experiments"] = sections.of_experiments(
            trained, paths, options.which, options.threshold
        )
        shows.append(section)
    if going:
        section, results["unfinished"] = sections.of_unfinished(going, paths)
        shows.append(section)
    if collected:
        section, results["collection"] = sections.of_collection(collected)
        shows.append(section)
    lines += [facts.of_run(run, paths) for run in rest if id(run) in shown or run.diverged]
    title = shows[0].title if len(shows) == 1 else "Report"
    if found.remarks or refused:
        results["left_out"] = [{"path": place, "reason": reason} for place, reason in refused]
        results["remarks"] = list(found.remarks)
        shows.append(sections.of_remarks(found.remarks, refused))
    if options.keep:
        _check_holds(lines, out)
    write_together(_contents(title, shows, results, lines, paths, out, options))
    return out / "report.md", notices


def _contents(
    title: str,
    shows: Sequence[Section],
    results: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
    paths: Sequence[Path],
    out: Path,
    options: Options,
) -> dict[Path, str | bytes]:
    if options.pictures is not None:
        drawn = [picture.name for section in shows for picture in section.pictures()]
        if unknown := sorted(set(options.pictures).difference(drawn)):
            raise UserError(f"--pictures: no figure {unknown[0]!r}; there are {', '.join(drawn) or 'none'}")
        shows = [section.with_pictures(options.pictures) for section in shows]
    pictures = [picture for section in shows for picture in section.pictures()]
    contents: dict[Path, str | bytes] = {out / f"{picture.name}.png": picture.png for picture in pictures}
    contents[out / "report.md"] = document.markdown(title, shows)
    contents[out / "report.html"] = document.page(title, shows)
    if options.latex:
        contents[out / "table.tex"] = document.latex(shows)
        contents |= {out / f"{picture.name}.pdf": picture.pdf for picture in pictures}
    contents[out / RESULTS] = json.dumps(facts.finite(results), ensure_ascii=False, indent=1) + "\n"
    # A file of facts that the report is made of stays as it is.
    if not any(path.exists() and path.resolve() == (out / facts.FILE).resolve() for path in paths):
        contents[out / facts.FILE] = facts.to_text(lines)
    return contents


def _check_holds(lines: Sequence[Mapping[str, Any]], out: Path) -> None:
    """Raises a UserError if the report at `out` holds runs that these lines lack."""
    file = next((out / name for name in (facts.FILE, RESULTS) if (out / name).exists()), None)
    if file is None:
        return
    try:
        lost = _held(facts.read_lines(file)[0]) - _held(lines)
    except facts.BROKEN as error:
        raise UserError(f"{file}: {facts.reason(error)}; give another --out") from error
    if lost:
        raise UserError(
            f"{out}: holds a report on {len(lost)} runs that this one lacks, such as {min(lost)[0]}; give another "
            f"--out, or {line(file)} beside the paths"
        )


def _held(lines: Sequence[Mapping[str, Any]]) -> set[tuple[str, str]]:
    """The runs among lines of facts, wherever they lay: (name, settings)."""
    out = set()
    for run in lines:
        if run["kind"] != "sweep":
            levels = [run["sweep"], run["profile"], *run["cell"].values()] if "sweep" in run else []
            name = " ".join(
                [*levels, *(() if levels else (run["algo"], run["tasks"])), f"seed {run['seed']}"]
            )
            out.add((name, "" if levels else json.dumps(run.get("settings"), sort_keys=True)))
    return out


def _why_not(run: Run) -> str:
    if run.diverged:
        return f"seed {run.seed} of {run.label} {run.diverged}"
    if run.kind in ("train", "collect"):
        return "unfinished: no evaluation yet"
    return f"a {run.kind} run: nothing is reported on those"
