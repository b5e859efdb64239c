"""Numbers that Markdown pages quote from results.json, in marks: `<!-- results: KEY -->text<!-- end -->`.

A key is the folder of a results.json, `/` and the sweep where it holds several, and what is quoted:

* `score SPLIT LEVELS`: a cell's mean [95% interval]; LEVELS has one level per axis, with commas, in the order of the
  axes; SPLIT is train or test, or greedy-train or greedy-test.
* `claim N`: three cells of a table: the gain [interval], the smallest gain that would have been seen, the verdict.
* `compare ONE over OTHER`: the same of a comparison; it ends with ` published SHARE` where a size was published, else
  the third cell says whether there is a difference.
* `gain N` or `gain ONE over OTHER`: the gain [interval] alone.

` above random` after a claim or a comparison takes the gain on the scale where random play is 0 and the reference 1.
"""

import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mtmarl.analysis import measure, tables
from mtmarl.errors import UserError

MARK = re.compile(r"<!-- results: (?P<key>.*?) -->(?P<text>.*?)<!-- end -->", re.DOTALL)
ABOVE, PUBLISHED = " above random", " published "


def fill(page: str, results: Path) -> str:
    """The page with every mark filled anew from `results`/NAME/results.json. Raises UserError for an unknown key."""
    return MARK.sub(lambda m: f"<!-- results: {m['key']} -->{quote(m['key'], results)}<!-- end -->", page)


def quote(key: str, results: Path) -> str:
    """What a key stands for."""
    try:
        place, kind, rest = key.split(" ", 2)
        sweep = _sweep(results, *place.split("/"))
        if kind == "score":
            return _score(sweep, *rest.split(" ", 1))
        above = rest.endswith(ABOVE)
        rest, _, published = rest.removesuffix(ABOVE).partition(PUBLISHED)
        if kind == "claim" or rest.isdigit():
            found = sweep["claims"][int(rest) - 1]
        else:
            one, other = rest.split(" over ")
            (found,) = [c for c in sweep["comparisons"] if (c["one"], c["other"]) == (one, other)]
        ours = _gain(found, "_above_random" if above else "")
        if kind == "gain":
            return ours
        if kind not in ("claim", "compare"):
            raise ValueError(f"{kind} is nothing to quote")
        smallest = tables.DASH if above or found["detectable"] is None else f"±{found['detectable']:.0%}"
        return f" {ours} | {smallest} | {_state(found, above, kind, published)} "
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(
            f"results: {key}: quotes nothing that is there ({error}); correct the mark"
        ) from error


@cache
def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _sweep(results: Path, name: str, sweep: str | None = None) -> dict[str, Any]:
    found = _read(results / name / "results.json")["sweeps"]
    (own,) = [s for s in found if s["name"] == (sweep or name)]
    return own


def _score(sweep: Mapping[str, Any], split: str, levels: str) -> str:
    wanted = levels.split(",")
    (cell,) = [c for c in sweep["cells"] if list(c["cell"].values()) == wanted]
    greedy = split.startswith("greedy-")
    scored = (cell["greedy"] if greedy else cell)[split.removeprefix("greedy-")]
    interval = [math.nan if end is None else end for end in scored["mean_interval"]]
    return tables.with_interval({**scored, "mean_interval": interval})


def _interval(found: Mapping[str, Any], above: str) -> tuple[float, float]:
    """results.json has no infinite numbers: where one end is known the other is infinite."""
    low, high = found[f"interval{above}"]
    if low is None and high is None:
        return math.nan, math.nan
    return -math.inf if low is None else low, math.inf if high is None else high


def _gain(found: Mapping[str, Any], above: str) -> str:
    return tables.gain(
        {f"gain{above}": found[f"gain{above}"], f"interval{above}": _interval(found, above)}, above
    )


def _state(found: Mapping[str, Any], above: bool, kind: str, published: str) -> str:
    if kind == "claim" and not above:
        word, why = found["verdict"], found["why"]
    else:
        suffix = "_above_random" if above else ""
        share, interval = found[f"gain{suffix}"], _interval(found, suffix)
        if share is None or math.isnan(interval[0]):
            word, why = measure.UNDECIDED, "no interval"
        elif published:
            word, why = measure.verdict(share, interval, float(published))
        else:
            low, high = interval
            word, why = ("higher" if low > 0 else "lower" if high < 0 else measure.UNDECIDED), None
    return f"*{word}*" + (f": {why}" if why else "")
