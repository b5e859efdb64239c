"""`python -m mtmarl.report runs/…`: tables, curves and intervals of the runs and sweeps that lie there.

Reads files alone, so runs of several machines can be put side by side: parts of one sweep below different paths are
put together, and a file of facts (facts.jsonl) stands for the runs that it tells of. Writes Markdown with PNG figures,
one HTML page, the statistics as results.json and the facts as facts.jsonl.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mtmarl import config, settings, terminal
from mtmarl.errors import UserError, exit_with, failed

if TYPE_CHECKING:
    from mtmarl.analysis.runs import Run

RUNS = "folders of runs or sweeps, folders that hold some, or files of facts (facts.jsonl, results.json of before)"
OUT = "where the report goes; default: PATH/report, or ./report where several paths or files are given"
CHECKPOINT = "which checkpoint the scores are of; best (the default) is chosen on training tasks"
REFERENCES = "normalise by the reference returns in this vault folder, not by those that the runs recorded"
THRESHOLD = (
    "of the largest return, where a task has one, or of the reference return: how soon runs that learn by acting, or "
    "from an earlier policy, reach it"
)
PICTURES = "draw these figures alone, none where no name is given; default: all"
LATEX = "also write the tables as table.tex and the figures as PDF"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mtmarl.report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help=RUNS)
    parser.add_argument("--out", type=Path, help=OUT)
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help=CHECKPOINT)
    parser.add_argument("--references", type=Path, metavar="VAULTS", help=REFERENCES)
    parser.add_argument("--threshold", type=_share, default=0.9, metavar="SHARE", help=THRESHOLD)
    parser.add_argument("--pictures", nargs="*", metavar="NAME", help=PICTURES)
    parser.add_argument("--latex", action="store_true", help=LATEX)
    args = parser.parse_args(argv)
    from mtmarl.analysis import reports

    # The first of several paths has a report of its own.
    alone = len(args.runs) == 1 and not args.runs[0].is_file()
    out = args.out or (args.runs[0] / "report" if alone else Path("report"))
    # What lies at PATH/report is of the runs beside it; elsewhere it may be all that is known of its runs.
    keep = out != args.runs[0] / "report"
    options = reports.Options(
        args.checkpoint, args.references, args.threshold, args.pictures, args.latex, keep
    )
    try:
        report, notices = reports.write(args.runs, out, options, completed)
    except (UserError, OSError) as error:
        return failed(error)
    for notice in notices:
        terminal.say(notice)
    terminal.say(f"report: {report}")
    return 0


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 10:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; give a number above 0, at most 10")
    return value


def write_report(paths: Sequence[Path], out: Path, which: str = "best") -> Path:
    """Writes the report on all runs and sweeps at or below the paths; returns the path of report.md."""
    from mtmarl.analysis import reports

    return reports.write(paths, out, reports.Options(which), completed)[0]


def completed(run: "Run") -> "Run":
    """The run with what its version did not record: defaults of newer settings, its algorithm's title and acting."""
    record, own = dict(run.record), run.record.get("config") or {}
    if own:
        known = settings.flatten(config.defaults(record["algo"]))
        record["config"] = settings.unflatten(known | settings.flatten(own))
    start = record.get("start") or {}
    if not (record.get("title") and record.get("acting")) or (start.get("algo") and not start.get("title")):
        from mtmarl.algos import ALGOS

        if spec := ALGOS.get(record["algo"]):
            # Collection samples; before `explore` was a setting, evaluation did too.
            evaluator = {} if run.kind == "collect" else record.get("config", {}).get("evaluator") or {}
            explore = evaluator.get("explore", 1.0)
            words = spec.acting(record.get("config", {}).get("algo") or {}, explore)
            record = {"title": spec.title, "acting": words, **record}
        if earlier := ALGOS.get(start.get("algo", "")):
            record["start"] = {"title": earlier.title, **start}
    return replace(run, record=record)


if __name__ == "__main__":
    exit_with(main)
