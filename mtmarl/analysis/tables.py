"""Tables as rows of text, rendered to Markdown and LaTeX from the same rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mtmarl.analysis import stats
from mtmarl.analysis.runs import Run


@dataclass(frozen=True)
class Table:
    """A title, a header and rows of the same length; the first column names things, the others hold numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        line = lambda cells: "| " + " | ".join(cells) + " |"
        rule = "|---|" + "---:|" * (len(self.header) - 1)
        return "\n".join([f"### {self.title}", "", line(self.header), rule, *map(line, self.rows)])

    def latex(self) -> str:
        escape = lambda s: (
            s.replace("%", r"\%").replace("_", r"\_").replace("±", r"$\pm$").replace("·", r"$\cdot$")
        )
        line = lambda cells: " & ".join(map(escape, cells)) + r" \\"
        columns = "l" + "r" * (len(self.header) - 1)
        body = "\n".join([line(self.header), r"\midrule", *map(line, self.rows)])
        return f"% {self.title}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{body}\n\\bottomrule\n\\end{{tabular}}"


def grouped(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Finished training runs by label, seeds in order."""
    groups: dict[str, list[Run]] = {}
    for run in sorted(
        (r for r in runs if r.record["kind"] == "train" and r.final), key=lambda r: (r.label, r.seed)
    ):
        groups.setdefault(run.label, []).append(run)
    return groups


def scores(runs: Sequence[Run], split: str, which: str) -> np.ndarray:
    """Normalised returns [seeds, tasks] on the tasks of a split that have a reference."""
    table = np.asarray([[run.normalised(t, which) for t in run.tasks(split)] for run in runs], float)
    return table[:, ~np.isnan(table).any(0)]


def _number(x: float | None) -> str:
    return "–" if x is None or np.isnan(x) else f"{x:.3f}"


def with_interval(table: np.ndarray, statistic=stats.mean) -> str:
    """ "0.803 [0.77, 0.83]", or a dash where nothing was scored."""
    if not table.size:
        return "–"
    low, high = stats.interval(table, statistic)
    return f"{statistic(table):.3f} [{low:.3f}, {high:.3f}]"


def per_task(label: str, runs: Sequence[Run]) -> Table:
    """Random, reference and achieved returns, task by task."""
    rows = []
    for split in ("train", "test"):
        for task in runs[0].tasks(split):
            known = runs[0].reference(task)
            last = np.asarray([run.returns(task, "last").mean() for run in runs])
            error = last.std(ddof=1) / np.sqrt(len(runs)) if len(runs) > 1 else _episode_error(runs[0], task)
            best = float(np.mean([run.returns(task, "best").mean() for run in runs]))
            random, reference = known.get("random"), known.get("reference")
            normalised = last.mean() / reference if reference else None
            above = (
                (last.mean() - random) / (reference - random) if reference and random is not None else None
            )
            achieved = f"{last.mean():.3f} ± {error:.3f}"
            numbers = map(_number, (random, reference))
            rows.append((task, split, *numbers, achieved, _number(best), _number(normalised), _number(above)))
    header = (
        "task",
        "split",
        "random",
        "online Sable",
        "return",
        "best checkpoint",
        "normalised",
        "above random",
    )
    return Table(f"{label}: {_count(runs)}", header, tuple(rows))


def _episode_error(run: Run, task: str) -> float:
    returns = run.returns(task, "last")
    return float(returns.std(ddof=1) / np.sqrt(returns.size)) if returns.size > 1 else 0.0


def _count(runs: Sequence[Run]) -> str:
    seeds = ", ".join(str(r.seed) for r in runs)
    return f"{len(runs)} seeds ({seeds})" if len(runs) > 1 else f"seed {seeds}"


def summary(groups: dict[str, list[Run]]) -> Table:
    """Normalised returns with 95% intervals, one row per experiment."""
    rows = []
    for label, runs in groups.items():
        for which in ("last", "best"):
            train, test = (scores(runs, split, which) for split in ("train", "test"))
            iqm = with_interval(test, stats.iqm)
            rows.append((label, which, str(len(runs)), with_interval(train), with_interval(test), iqm))
    header = ("experiment", "checkpoint", "seeds", "train tasks", "test tasks", "test tasks, IQM")
    return Table("Normalised return, mean [95% interval]", header, tuple(rows))


def comparisons(groups: dict[str, list[Run]]) -> Table | None:
    """Every experiment against every other one on the same test tasks."""
    rows = []
    for label, runs in groups.items():
        for other, others in groups.items():
            if label == other or runs[0].tasks("test") != others[0].tasks("test"):
                continue
            a, b = scores(runs, "test", "last"), scores(others, "test", "last")
            if not a.size or a.shape[1] != b.shape[1] or b.mean() <= 0:
                continue
            ratio, (low, high) = stats.gain(a, b)
            improvement = stats.probability_of_improvement(a, b)
            rows.append((label, other, f"{ratio:+.1%} [{low:+.1%}, {high:+.1%}]", f"{improvement:.2f}"))
    header = ("experiment", "against", "gain on test tasks", "probability of improvement")
    return Table("Comparisons on the same test tasks, last checkpoint", header, tuple(rows)) if rows else None
