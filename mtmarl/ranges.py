"""Numbers with bounds, as types of settings: `gamma: Share`. `config.parse` holds values to them."""

from dataclasses import dataclass
from math import inf
from typing import Annotated

from mtmarl.errors import UserError


@dataclass(frozen=True)
class Range:
    """low … high, both included unless `above`: then low itself is outside."""

    low: int | float
    high: int | float = inf
    above: bool = False

    def __contains__(self, value: int | float) -> bool:
        return (value > self.low if self.above else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        """What a value within it does: "must … "."""
        least = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        if self.high == inf:
            return f"be {least}"
        return (
            f"lie {least} and at most at {self.high:g}"
            if self.above
            else f"lie in {self.low:g} … {self.high:g}"
        )


Count = Annotated[int, Range(1)]
Several = Annotated[int, Range(2)]
Natural = Annotated[int, Range(0)]
Share = Annotated[float, Range(0, 1)]
SomeShare = Annotated[float, Range(0, 1, above=True)]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]


def check_heads(embed_dim: int, heads: int) -> None:
    """Heads that share a width have equal parts of it. Raises UserError."""
    if embed_dim % heads:
        raise UserError(f"embed_dim={embed_dim} must be a multiple of heads={heads}")
