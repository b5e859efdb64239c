"""Bounded numbers as types of settings, such as `gamma: Share`. `parsing.parse` checks the bounds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated

from mtmarl.errors import UserError


@dataclass(frozen=True)
class Range:
    """A closed interval low … high. above: low itself is excluded."""

    low: int | float
    high: int | float = inf
    above: bool = False

    def __contains__(self, value: int | float) -> bool:
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        """Completes the message "must …"."""
        if self.low == -inf:
            return f"be at most {self.high:,}"
        low, high = (str(x) if isinstance(x, int) else f"{x:g}" for x in (self.low, self.high))
        least = f"above {low}" if self.above else f"at least {low}"
        if self.high == inf:
            return f"be {least}"
        return f"lie {least} and at most at {high}" if self.above else f"lie in {low} … {high}"


@dataclass(frozen=True)
class Distinct:
    """A list without duplicates and with at least `least` entries."""

    least: int = 0

    def __contains__(self, value: Sequence[object]) -> bool:
        return len(set(value)) == len(value) >= self.least

    def __str__(self) -> str:
        return "hold different entries" + (f", at least {self.least}" if self.least else "")


@dataclass(frozen=True)
class Matching:
    """Text that fully matches a regular expression."""

    pattern: str
    name: str

    def __contains__(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return f"be {self.name}"


def _at_most(high: int) -> Range:
    """A separate upper bound, so that the message names the violated bound."""
    return Range(-inf, high)


# Limits of the integers and floats on a device.
INT32_MAX = 2**31 - 1
FLOAT32_MAX = 3.4e38
# Numbers of updates and steps.
Count = Annotated[int, Range(1), _at_most(INT32_MAX)]
Natural = Annotated[int, Range(0), _at_most(INT32_MAX)]
Seed = Annotated[int, Range(0, INT32_MAX)]
Seeds = Annotated[tuple[Seed, ...], Distinct(1)]
# Batch axes and numbers of episodes: larger than any memory, small enough that products do not overflow.
Size = Annotated[int, Range(1), _at_most(2**20)]
# Axes of weight matrices.
Width = Annotated[int, Range(1), _at_most(2**14)]
Several = Annotated[int, Range(2), _at_most(2**14)]
Share = Annotated[float, Range(0, 1)]
SomeShare = Annotated[float, Range(0, 1, above=True)]
# `parsing.parse` also checks that all floats are finite in float32.
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]


def check_heads(embed_dim: int, heads: int) -> None:
    """Raises UserError unless `heads` divides `embed_dim`."""
    if embed_dim % heads:
        raise UserError(f"embed_dim={embed_dim} must be a multiple of heads={heads}")
