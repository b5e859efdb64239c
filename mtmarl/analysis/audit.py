"""What a hostile reviewer would refuse in stored results: one line per refusal, with file and cell.

* Cells of one panel of a sweep that differ in updates, in how they act, in episodes or in how the checkpoint was
  chosen. A sweep may vary such a setting along an axis of its own; cells at different levels of it are not compared.
* A verdict (a claim, or a comparison that a page quotes) that sets a cell trained on one task against cells trained on
  more, where all runs of that cell were trained on the same task: it says which task that was.
* A number that the README quotes, of a cell with fewer than five seeds.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtmarl import settings
from mtmarl.analysis import experiments, facts, plans, quotes, sweeps
from mtmarl.analysis.runs import SPLITS, Run
from mtmarl.analysis.sweeps import Cell, Sweep

SEEDS = 5
# The checkpoint that tables and verdicts are of.
WHICH = "best"


def _way(run: Run) -> str:
    """Sampled or greedy, whatever is sampled from."""
    words = str(run.record.get("acting") or "unknown")
    return "sampled" if words.startswith("sampled") and "else" not in words else words


def _episodes(run: Run) -> str:
    known = sorted({run.episodes(t, WHICH) for split in SPLITS for t in run.tasks(split)})
    return "/".join(map(str, known))


# What cells of a table must share: {name: (of a run, the settings that decide it)}.
TERMS: Mapping[str, tuple[Callable[[Run], Any], frozenset[str]]] = {
    "updates": (lambda run: run.record.get("updates"), frozenset({"trainer.updates"})),
    "acting": (_way, frozenset({"evaluator.explore", "algo.acting_temperature", "algo.final_epsilon"})),
    "episodes": (_episodes, frozenset({"evaluator.episodes", "evaluator.test_episodes"})),
    "checkpoint rule": (lambda run: run.record.get("select_on"), frozenset({"evaluator.select_on"})),
}


def refusals(results: Path, pages: Mapping[Path, bool]) -> list[str]:
    """All refusals of the facts below `results`; `pages`: whether the numbers that a page quotes are headlines."""
    out: list[str] = []
    known: dict[tuple[str, str], Sweep] = {}
    for file in sorted(results.glob(f"*/{facts.FILE}")):
        place = f"{results.name}/{file.parent.name}/{file.name}"
        found = plans.load(facts.load([file]))
        out += [f"{place}: {reason} ({where})" for where, reason in found.refused]
        for sweep in found.sweeps:
            known[file.parent.name, sweep.name] = sweep
            out += [f"{place}: {line}" for line in (*_terms(sweep), *_claims(sweep))]
    for page, headline in pages.items():
        for key in dict.fromkeys(m["key"] for m in quotes.MARK.finditer(page.read_text(encoding="utf-8"))):
            name, own, kind, rest = quotes.parsed(key)
            if (name, own) not in known:
                out.append(f"{page.name}: {key}: no facts of it")
                continue
            sweep = known[name, own]
            pairs, cells = _quoted(sweep, kind, rest)
            if pairs and not (kind == "claim" or rest.split(" ")[0].isdigit()):
                out += [f"{page.name}: {key}: {line}" for line in _first_task(sweep, pairs)]
            out += [f"{page.name}: {key}: {line}" for line in _seeds(sweep, cells)] if headline else []
    return list(dict.fromkeys(out))


def _named(sweep: Sweep, cell: Cell) -> str:
    return ", ".join(f"{a}={v}" for a, v in zip(sweep.axes, cell, strict=True))


def _terms(sweep: Sweep) -> Iterator[str]:
    for name, (of, deciding) in TERMS.items():
        own = _varying(sweep, deciding)
        groups: dict[tuple[str, ...], dict[Cell, str]] = {}
        for cell in sweep.cells():
            values = sorted({str(of(run)) for run in sweep.runs(cell)})
            key = tuple(sweep.level(cell, a) for a in sweep.axes if a in (*own, sweep.panel))
            if values:
                groups.setdefault(key, {})[cell] = " and ".join(values)
        for cells in groups.values():
            usual = Counter(cells.values()).most_common(1)[0][0]
            for cell, value in cells.items():
                if value != usual or " and " in value:
                    yield f"{_named(sweep, cell)}: {name} {value}; other cells have {usual}"


def _varying(sweep: Sweep, deciding: frozenset[str]) -> list[str]:
    """The axes along which runs differ in these settings and in no others."""
    known = {cell: experiments.deciding(runs)[0] for cell in sweep.cells() if (runs := sweep.runs(cell))}
    out = []
    for axis in sweep.axes:
        rest = lambda cell, axis=axis: tuple(sweep.level(cell, a) for a in sweep.axes if a != axis)
        keys = {
            key
            for one in known
            for other in known
            if rest(one) == rest(other)
            for key in settings.differing([known[one], known[other]])
        }
        if keys and keys <= deciding:
            out.append(axis)
    return out


def _claims(sweep: Sweep) -> Iterator[str]:
    for i, claim in enumerate(sweep.claims):
        for line in _first_task(sweep, sweeps.sides(sweep, claim.of, claim.over)):
            yield f"claim {i + 1} ({claim.text}): {line}"


def _first_task(sweep: Sweep, pairs: Iterable[tuple[Cell, Cell]]) -> Iterator[str]:
    """The cells of a verdict on the number of training tasks that were trained on one task alone, always the same."""
    trained = lambda cell: {frozenset(run.tasks("train")) for run in sweep.runs(cell)}
    for pair in pairs:
        sets = [trained(cell) for cell in pair]
        most = max((len(tasks) for tasks in set().union(*sets)), default=0)
        for cell, tasks in zip(pair, sets, strict=True):
            if len(tasks) == 1 and len(next(iter(tasks))) == 1 < most:
                (only,) = next(iter(tasks))
                yield f"{_named(sweep, cell)}: one first task only, {only}"


def _seeds(sweep: Sweep, cells: Sequence[Cell]) -> Iterator[str]:
    for cell in dict.fromkeys(cells):
        seeds = len(sweep.runs(cell))
        if seeds < SEEDS:
            yield f"{_named(sweep, cell)}: a headline with {seeds} seed{'s' * (seeds != 1)}, fewer than {SEEDS}"


def _quoted(sweep: Sweep, kind: str, rest: str) -> tuple[list[tuple[Cell, Cell]], list[Cell]]:
    """The pairs of cells that a quoted verdict compares, and all cells of what is quoted."""
    if kind == "score":
        return [], [tuple(rest.split(" ", 1)[1].split(","))]
    rest = rest.removesuffix(quotes.ABOVE).partition(quotes.PUBLISHED)[0]
    if rest.isdigit():
        claim = sweep.claims[int(rest) - 1]
        pairs = sweeps.sides(sweep, claim.of, claim.over)
    else:
        pairs = {f"{one} over {other}": both for one, other, both in sweeps.pairs(sweep)}.get(rest, [])
    return pairs, [cell for pair in pairs for cell in pair]
