"""Numbers that Markdown pages quote from stored facts, in marks: `<!-- results: KEY -->text<!-- end -->`.

A key is the folder of the facts, `/` and the sweep where they hold several, and what is quoted:

* `score SPLIT LEVELS`: a cell's mean [95% interval]; LEVELS has one level per axis, with commas, in the order of the
  axes; SPLIT is train or test, or greedy-train or greedy-test.
* `claim N`: three cells of a table: the gain [interval], the smallest gain that would have been seen, the verdict.
* `compare ONE over OTHER`: the same of a comparison; it ends with ` published SHARE` where a size was published, else
  the third cell says whether there is a difference.
* `gain N` or `gain ONE over OTHER`: the gain [interval] alone.

` above random` after a claim or a comparison takes the gain on the scale where random play is 0 and the reference 1.
"""

import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mtmarl.analysis import facts, formats, measure, plans, verdicts
from mtmarl.analysis.sweeps import Sweep
from mtmarl.errors import UserError

MARK = re.compile(r"<!-- results: (?P<key>.*?) -->(?P<text>.*?)<!-- end -->", re.DOTALL)
ABOVE, PUBLISHED = " above random", " published "
# The checkpoint that is quoted.
WHICH = "best"


def fill(page: str, results: Path) -> str:
    """The page with every mark filled anew from `results`/NAME/facts.jsonl. Raises UserError for an unknown key."""
    return MARK.sub(lambda m: f"<!-- results: {m['key']} -->{quote(m['key'], results)}<!-- end -->", page)


def parsed(key: str) -> tuple[str, str, str, str]:
    """The folder, the sweep, the kind of what is quoted, and the rest of a key. Raises ValueError."""
    place, kind, rest = key.split(" ", 2)
    folder, _, sweep = place.partition("/")
    return folder, sweep or folder, kind, rest


def quote(key: str, results: Path) -> str:
    """What a key stands for."""
    try:
        folder, name, kind, rest = parsed(key)
        of = results / folder / facts.FILE, name
        if kind == "score":
            return _score(_sweeps(of[0])[of[1]], *rest.split(" ", 1))
        above = rest.endswith(ABOVE)
        rest, _, published = rest.removesuffix(ABOVE).partition(PUBLISHED)
        known = _claims if kind == "claim" or rest.isdigit() else _comparisons
        found = known(*of)[rest]
        ours = formats.gain(found, "_above_random" if above else "")
        if kind == "gain":
            return ours
        if kind not in ("claim", "compare"):
            raise ValueError(f"{kind} is nothing to quote")
        smallest = formats.DASH if above else formats.detectable(found)
        return f" {ours} | {smallest} | {_state(found, above, kind, published)} "
    except facts.BROKEN as error:
        raise UserError(
            f"results: {key}: quotes nothing that is there ({error}); correct the mark"
        ) from error


@cache
def _sweeps(file: Path) -> dict[str, Sweep]:
    return {sweep.name: sweep for sweep in plans.load(facts.load([file])).sweeps}


@cache
def _claims(file: Path, sweep: str) -> dict[str, dict[str, Any]]:
    return {f"{i + 1}": claim for i, claim in enumerate(verdicts.claims(_sweeps(file)[sweep], WHICH))}


@cache
def _comparisons(file: Path, sweep: str) -> dict[str, dict[str, Any]]:
    found = measure.comparisons(_sweeps(file)[sweep], WHICH)
    return {f"{c['one']} over {c['other']}": c for c in found}


def _score(sweep: Sweep, split: str, levels: str) -> str:
    runs = sweep.runs(tuple(levels.split(",")))
    if split.startswith("greedy-"):
        runs = [own for own in (run.greedily() for run in runs) if own is not None]
    scored = measure.aggregate([runs], split.removeprefix("greedy-"), WHICH)
    if scored is None:
        raise ValueError("nothing was scored there")
    return formats.with_interval(scored)


def _state(found: Mapping[str, Any], above: bool, kind: str, published: str) -> str:
    if kind == "claim" and not above:
        word, why = found["verdict"], found["why"]
    else:
        suffix = "_above_random" if above else ""
        share, interval = found[f"gain{suffix}"], found[f"interval{suffix}"]
        if math.isnan(share) or math.isnan(interval[0]):
            word, why = verdicts.UNDECIDED, "no interval"
        elif published:
            word, why = verdicts.verdict(share, interval, float(published))
        else:
            low, high = interval
            word, why = ("higher" if low > 0 else "lower" if high < 0 else verdicts.UNDECIDED), None
    return f"*{word}*" + (f": {why}" if why else "")
