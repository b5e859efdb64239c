"""What runs say about published statements: whether a gain holds, and published scores beside ours."""

import math
from typing import Any

from mtmarl.analysis import stats, sweeps
from mtmarl.analysis.measure import aggregate, compare
from mtmarl.analysis.stats import Interval
from mtmarl.analysis.sweeps import Claim, Sweep

# What runs say about a published claim.
HOLDS, REFUTED, UNDECIDED = "holds", "refuted", "not decided at this n"
NOT_RUN, NOT_COMPARABLE = "not yet run", "not comparable"
# Gains within it, either way, are taken for none.
NO_DIFFERENCE = 0.1


def claims(sweep: Sweep, which: str) -> list[dict[str, Any]]:
    """The published statements beside what these runs say."""
    return [_claim(sweep, claim, which) for claim in sweep.claims]


def _claim(sweep: Sweep, claim: Claim, which: str) -> dict[str, Any]:
    pairs = sweeps.sides(sweep, claim.of, claim.over)
    out = {
        "claim": claim.text,
        "of": dict(claim.of),
        "over": dict(claim.over),
        "split": claim.split,
        "published": claim.gain,
    }
    out |= compare(sweep, pairs, claim.split, which)
    if any(a == b for a, b in pairs):
        out["verdict"], out["why"] = NOT_COMPARABLE, "both sides are the same cells"
    elif not pairs:
        out["verdict"], out["why"] = NOT_RUN, "this profile plans no such cells"
    elif out["runs_diverged"]:
        out["verdict"] = NOT_COMPARABLE
        out["why"] = f"{out['runs_diverged']} of {out['runs_planned']} runs diverged and have no score"
    elif out["runs_finished"] < out["runs_planned"]:
        out["verdict"] = NOT_RUN
        out["why"] = f"{out['runs_finished']} of {out['runs_planned']} runs"
    elif not out["tasks"]:
        out["verdict"], out["why"] = NOT_COMPARABLE, "no task with a reference is common to both sides"
    elif math.isnan(out["gain"]):
        out["verdict"], out["why"] = NOT_COMPARABLE, "the baseline's mean is not above 0"
    elif math.isnan(out["interval"][0]):
        out["verdict"], out["why"] = UNDECIDED, "one seed has no interval"
    else:
        out["verdict"], out["why"] = verdict(out["gain"], out["interval"], claim.gain)
    return out


def published(sweep: Sweep, which: str) -> list[dict[str, Any]]:
    """The published scores beside those of the cells that they name, pooled over what they do not name."""
    out = []
    for own in sweep.published:
        cells = [c for c in sweep.cells() if all(sweep.level(c, a) == v for a, v in own.of.items())]
        groups = [sweep.runs(c) for c in cells]
        # Of several cells a part alone is another mean.
        scored = aggregate(groups, own.split, which) if groups and all(groups) else None
        known = scored or {"mean": None, "mean_interval": stats.UNKNOWN, "standard_error": None}
        out.append(
            {
                "of": dict(own.of),
                "split": own.split,
                "published": own.mean,
                "published_standard_error": own.standard_error,
                **{key: known[key] for key in ("mean", "mean_interval", "standard_error")},
                "difference": None if scored is None else scored["mean"] - own.mean,
            }
        )
    return out


def verdict(gain: float, interval: Interval, published: float | None) -> tuple[str, str | None]:
    """What an interval of a gain says about a published gain, and why; None: about a gain above 0 of any size.

    A published gain below 0 claims a loss. A published 0 claims no difference, which a wide interval does not show.
    """
    low, high = interval
    if published == 0:
        if not low <= 0 <= high:
            return REFUTED, "there is a difference"
        small = max(-low, high) <= NO_DIFFERENCE
        return (HOLDS, None) if small else (UNDECIDED, f"the interval holds more than ±{NO_DIFFERENCE:.0%}")
    if published is not None and published < 0:
        gain, low, high, published = -gain, -high, -low, -published
    inside = published is None or low <= published <= high
    if low > 0:
        size = (
            None
            if inside
            else "larger than published"
            if gain > (published or 0)
            else "smaller than published"
        )
        return HOLDS, size
    if high <= 0:
        return REFUTED, "the difference is the other way round"
    return (UNDECIDED, None) if inside else (REFUTED, "the published size is excluded, none is not")
