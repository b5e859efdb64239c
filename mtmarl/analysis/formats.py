"""Numbers as reports write them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

DASH = "–"


def missing(x: float | int | None) -> bool:
    return x is None or math.isnan(x)


def number(x: float | int | None, digits: int = 3) -> str:
    return DASH if x is None or math.isnan(x) else f"{x:.{digits}f}".replace("-", "−")


def count(x: float | int | None) -> str:
    return DASH if x is None else f"{x:,.0f}"


def tasks(number: int) -> str:
    return f"{number:,} task" + "s" * (number != 1)


def percent(x: float | int | None) -> str:
    if x is None or math.isnan(x):
        return DASH
    return ("+" if x > 0 else "−") + "∞" if math.isinf(x) else f"{x:+.1%}".replace("-", "−")


def late(numbers: Mapping[str, Any]) -> str:
    """The change of the score over the last fifth of training; of several seeds their range as well."""
    mean, seeds = numbers["late_change"], [c for c in numbers["late_change_per_seed"] if not missing(c)]
    apart = f" ({percent(min(seeds))} … {percent(max(seeds))})" if len(seeds) > 1 else ""
    return percent(mean) + apart


def span(interval: Sequence[float], form) -> str:
    low, high = interval
    return "" if missing(low) else f" [{form(low)}, {form(high)}]"


def with_interval(scored: Mapping[str, Any] | None, key: str = "mean") -> str:
    """ "0.803 [0.770, 0.833]", without an interval where there is none, or a dash where nothing was scored."""
    if scored is None:
        return DASH
    return number(scored[key]) + span(scored[f"{key}_interval"], number)


def with_error(scored: Mapping[str, Any] | None) -> str:
    """ "0.803 ± 0.026": mean and standard error over seeds."""
    return DASH if scored is None else apart(scored["mean"], scored["standard_error"])


def signed(x: float | None) -> str:
    return ("+" if x is not None and x > 0 else "") + number(x)


def apart(mean: float | None, error: float | None) -> str:
    return number(mean) + ("" if missing(error) else f" ± {number(error)}")


def gain(c: Mapping[str, Any], above: str = "") -> str:
    """ "+2.6% [−5.3%, +11.2%]"; `above`: "_above_random" for that of what is scored above random play."""
    return percent(c[f"gain{above}"]) + span(c[f"interval{above}"], percent)


def detectable(c: Mapping[str, Any]) -> str:
    """The smallest gain that would have been seen; up and down are alike."""
    return DASH if missing(c["detectable"]) else f"±{c['detectable']:.0%}"
