"""`python -m mtmarl.report runs/…`: tables, curves and intervals from whatever runs lie there.

Reads files alone, so runs of several machines can be put side by side.
"""

import argparse
import base64
import html
import sys
from collections.abc import Sequence
from pathlib import Path

from mtmarl.errors import UserError

PROTOCOL = (
    "Normalised return = return / return of online Sable on the task; above random = (return - random) / "
    "(online Sable - random). Actions are sampled; 320 episodes a task unless a run says otherwise. Intervals: 95%, "
    'bootstrap over seeds stratified by task. "best" is the checkpoint with the highest score on the {select} '
    'tasks, "last" the one after the final update.'
)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mtmarl.report", description=__doc__)
    parser.add_argument(
        "runs", nargs="+", type=Path, help="directories of runs, or directories that hold some"
    )
    parser.add_argument(
        "--out", type=Path, help="where the report goes; default: RUN/report, or report/ for several"
    )
    args = parser.parse_args(argv)
    try:
        alone = len(args.runs) == 1 and (args.runs[0] / "run.json").exists()
        print(write_report(args.runs, args.out or (args.runs[0] / "report" if alone else Path("report"))))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write_report(paths: Sequence[Path], out: Path) -> Path:
    """Writes report.md, report.html, table.tex and the figures (PNG, SVG); returns the path of report.md."""
    from mtmarl.analysis import plots, runs, tables

    found, refused = runs.load(paths)
    groups = tables.grouped(found)
    collected = [r for r in found if r.record["kind"] == "collect" and r.metrics]
    if not groups and not collected:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in refused)
        raise UserError(f"{', '.join(map(str, paths))}: no finished run to report on. {reasons}".strip())

    texts, figures = [], {}
    if groups:
        select = {r.record.get("select_on", "train") for g in groups.values() for r in g}
        texts.append(PROTOCOL.format(select="training" if select == {"train"} else "/".join(sorted(select))))
        if "test" in select:
            texts.append("**Some of these runs chose their best checkpoint on the test tasks.**")
        texts.append(tables.summary(groups).markdown())
        figures["learning_curves"] = plots.learning_curves(groups)
        figures["tasks"] = plots.task_bars(groups)
        figures["profile"] = plots.profile(groups)
        for i, (label, group) in enumerate(groups.items()):
            texts.append(tables.per_task(label, group).markdown())
            figure = plots.training_curves(group)
            if figure is not None:
                figures[f"training_{i}"] = figure
        comparison = tables.comparisons(groups)
        if comparison:
            texts.append(comparison.markdown())
    if collected:
        figures["collection"] = plots.collection_curves(collected)
    if refused:
        texts.append("### Left out\n\n" + "\n".join(f"- {path}: {reason}" for path, reason in refused))

    out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(out / f"{name}.png", dpi=150)
        figure.savefig(out / f"{name}.svg")
    title = ", ".join(groups) or "Collection"
    pictures = "\n\n".join(f"![{name}]({name}.png)" for name in figures)
    (out / "report.md").write_text(
        f"# {title}\n\n" + "\n\n".join([*texts, pictures]) + "\n", encoding="utf-8"
    )
    (out / "report.html").write_text(_page(title, texts, out, list(figures)), encoding="utf-8")
    if groups:
        latex = [tables.summary(groups).latex(), *(tables.per_task(k, g).latex() for k, g in groups.items())]
        (out / "table.tex").write_text("\n\n".join(latex) + "\n", encoding="utf-8")
    return out / "report.md"


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .7rem;border-bottom:1px solid #ddd}"
    "td:not(:first-child),th:not(:first-child){text-align:right}img{max-width:100%}"
)


def _page(title: str, texts: Sequence[str], out: Path, figures: Sequence[str]) -> str:
    """One file with everything in it, pictures included."""
    body = "\n".join(_html(text) for text in texts)
    for name in figures:
        data = base64.b64encode((out / f"{name}.png").read_bytes()).decode()
        body += f'\n<img alt="{name}" src="data:image/png;base64,{data}">'
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    body = f"<h1>{html.escape(title)}</h1>\n{body}"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>\n"


def _html(text: str) -> str:
    """The little Markdown that the tables and notes above use."""
    lines, out = text.splitlines(), []
    table = [line for line in lines if line.startswith("|")]
    for line in lines:
        if line.startswith("### "):
            out.append(f"<h3>{html.escape(line[4:])}</h3>")
        elif line and not line.startswith("|"):
            out.append(f"<p>{html.escape(line.removeprefix('- ').replace('**', ''))}</p>")
    if table:
        cells = [[html.escape(c.strip()) for c in line.strip("|").split("|")] for line in table]
        row = lambda tag, values: "<tr>" + "".join(f"<{tag}>{v}</{tag}>" for v in values) + "</tr>"
        out.append("<table>" + row("th", cells[0]) + "".join(row("td", c) for c in cells[2:]) + "</table>")
    return "\n".join(out)


if __name__ == "__main__":
    sys.exit(main())
