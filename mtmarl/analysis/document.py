"""A report as sections of text, tables and figures, rendered to Markdown, HTML and LaTeX from the same parts."""

import base64
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Table:
    """A title, a header and rows of the same length. `align`: l or r per column; default: names left, numbers right.

    Cells may hold **bold** text. `note` is a line below the table.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str = ""
    note: str = ""

    @classmethod
    def of(
        cls, title: str, rows: Sequence[Any], columns: Mapping[str, Callable], note: str = "", names: int = 1
    ) -> "Table | None":
        """A table with a row for each of `rows`; None without any. `columns`: {header: the cell of a row}.

        The first `names` columns stand left.
        """
        cells = tuple(tuple(cell(row) for cell in columns.values()) for row in rows)
        align = "l" * names + "r" * (len(columns) - names)
        return cls(title, tuple(columns), cells, align, note) if cells else None

    @property
    def columns(self) -> str:
        return self.align or "l" + "r" * (len(self.header) - 1)

    def markdown(self) -> str:
        line = lambda cells: "| " + " | ".join(c.replace("|", r"\|") for c in cells) + " |"
        rule = "|" + "|".join({"l": "---", "r": "---:"}[a] for a in self.columns) + "|"
        parts = [f"### {self.title}", "", line(self.header), rule, *map(line, self.rows)]
        return "\n".join([*parts, *(["", self.note] if self.note else [])])

    def html(self) -> str:
        cell = lambda tag, text, align: f'<{tag} class="{align}">{_inline(text)}</{tag}>'
        row = lambda tag, cells: (
            "<tr>" + "".join(cell(tag, c, a) for c, a in zip(cells, self.columns, strict=True)) + "</tr>"
        )
        body = "".join(row("td", r) for r in self.rows)
        note = f'<p class="note">{_inline(self.note)}</p>' if self.note else ""
        head = f"<thead>{row('th', self.header)}</thead>"
        title = f"<h3>{_inline(self.title)}</h3>"
        return f'{title}<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>{note}'

    def latex(self) -> str:
        line = lambda cells: " & ".join(map(_latex, cells)) + r" \\"
        rows = [line(self.header), r"\midrule", *map(line, self.rows)]
        caption = f"{self.title}. {self.note}" if self.note else self.title
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{_latex(caption)}}}",
                rf"\label{{tab:{slug(self.title)}}}",
                rf"\begin{{tabular}}{{{self.columns}}}",
                r"\toprule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
            ]
        )


@dataclass(frozen=True)
class Picture:
    """A figure, the name of its files and what it shows."""

    name: str
    figure: Figure
    caption: str

    @cached_property
    def png(self) -> bytes:
        return self._render("png", {"Software": None})

    @property
    def pdf(self) -> bytes:
        return self._render("pdf", {"CreationDate": None})

    def _render(self, form: str, metadata: dict[str, None]) -> bytes:
        """The same figure gives the same bytes: without dates."""
        out = io.BytesIO()
        self.figure.savefig(out, format=form, dpi=200, metadata=metadata)
        return out.getvalue()


@dataclass(frozen=True)
class Code:
    text: str


Part = str | Table | Picture | Code


@dataclass(frozen=True)
class Section:
    title: str
    parts: tuple[Part, ...]

    def pictures(self) -> list[Picture]:
        return [p for p in self.parts if isinstance(p, Picture)]

    def with_pictures(self, names: Sequence[str]) -> "Section":
        """Without the figures that are not named."""
        return Section(
            self.title, tuple(p for p in self.parts if not isinstance(p, Picture) or p.name in names)
        )


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


# ------------------------------------------------------------------------------------------------ markdown


def markdown(title: str, sections: Sequence[Section]) -> str:
    out = [f"# {title}"]
    for section in sections:
        if len(sections) > 1:
            out.append(f"## {section.title}")
        for part in section.parts:
            if isinstance(part, Table):
                out.append(part.markdown())
            elif isinstance(part, Picture):
                out.append(f"![{part.caption}]({part.name}.png)\n\n*{part.caption}*")
            elif isinstance(part, Code):
                out.append(f"```sh\n{part.text}\n```")
            else:
                out.append(part)
    return "\n\n".join(out) + "\n"


# --------------------------------------------------------------------------------------------------- latex

_TEX = {
    "\\": r"\textbackslash{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "×": r"$\times$",
    "τ": r"$\tau$",
    "–": "--",
    "−": "$-$",
    "…": r"\dots{}",
    "∞": r"$\infty$",
}


def _latex(text: str) -> str:
    escaped = "".join(_TEX.get(c, c) for c in text.replace("`", ""))
    return re.sub(r"\*\*(.+?)\*\*", r"\\textbf{\1}", escaped)


def latex(sections: Sequence[Section]) -> str:
    """All tables, for \\usepackage{booktabs}."""
    tables = [part.latex() for section in sections for part in section.parts if isinstance(part, Table)]
    return "% Needs \\usepackage{booktabs}\n\n" + "\n\n".join(tables) + "\n"


# ---------------------------------------------------------------------------------------------------- html

STYLE = """
body{font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;max-width:68rem;margin:2.5rem auto;padding:0 1.2rem;
color:#1f2328;background:#fff}
h1{font-size:1.7rem;margin-bottom:.3rem}
h2{font-size:1.3rem;margin-top:3rem;border-bottom:1px solid #d0d7de;padding-bottom:.2rem}
h3{font-size:1.02rem;margin:2rem 0 .5rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.87rem;font-variant-numeric:tabular-nums}
thead tr{border-top:1.5px solid #1f2328;border-bottom:1px solid #1f2328}
tbody tr:last-child{border-bottom:1.5px solid #1f2328}
tbody tr:nth-child(even){background:#f6f8fa}td,th{padding:.25rem .65rem;vertical-align:top}th{font-weight:600}
.l{text-align:left}.r{text-align:right;white-space:nowrap}
.note,figcaption{color:#57606a;font-size:.85rem;max-width:56rem}
figure{margin:1.5rem 0}img{max-width:100%;height:auto}
pre{background:#f6f8fa;padding:.8rem;overflow-x:auto;font-size:.78rem;line-height:1.45}
code{background:#f6f8fa;padding:0 .2rem}
nav{margin:1rem 0;padding:.6rem 1rem;background:#f6f8fa}nav ul{margin:0;padding-left:1.2rem}
@media print{body{max-width:none;margin:0;font-size:10pt}.wide{overflow:visible}table{font-size:7.5pt}nav{display:none}
h2{break-before:page}h2.first{break-before:auto}h2,h3{break-after:avoid}figure,tr{break-inside:avoid}pre{white-space:pre-wrap}}
""".replace("\n", "")


def _inline(text: str) -> str:
    out = html.escape(text)
    out = re.sub(r"`([^`]+)`", r"<code>\1</code>", out)
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", out)


def page(title: str, sections: Sequence[Section]) -> str:
    """One file with everything in it, pictures included."""
    out = [f"<h1>{html.escape(title)}</h1>"]
    several = len(sections) > 1
    anchors = [f"s{i + 1}-{slug(s.title)}" for i, s in enumerate(sections)]
    if several:
        entries = "".join(
            f'<li><a href="#{a}">{html.escape(s.title)}</a></li>'
            for a, s in zip(anchors, sections, strict=True)
        )
        out.append(f"<nav><ul>{entries}</ul></nav>")
    for i, (anchor, section) in enumerate(zip(anchors, sections, strict=True)):
        if several:
            first = ' class="first"' if i == 0 else ""
            out.append(f'<h2 id="{anchor}"{first}>{html.escape(section.title)}</h2>')
        for part in section.parts:
            if isinstance(part, Table):
                out.append(part.html())
            elif isinstance(part, Picture):
                data = base64.b64encode(part.png).decode()
                image = f'<img alt="{html.escape(part.caption)}" src="data:image/png;base64,{data}">'
                out.append(f"<figure>{image}<figcaption>{_inline(part.caption)}</figcaption></figure>")
            elif isinstance(part, Code):
                out.append(f"<pre>{html.escape(part.text)}</pre>")
            else:
                out.append(_paragraph(part))
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n'
        + "\n".join(out)
        + "\n</body></html>\n"
    )


def _paragraph(text: str) -> str:
    """A paragraph, or a list where every line starts with a dash."""
    lines = text.splitlines()
    if lines and all(line.startswith("- ") for line in lines):
        return "<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in lines) + "</ul>"
    return f"<p>{_inline(text)}</p>"
