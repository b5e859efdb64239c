"""What the adapters share: reading names, refusing illegal tasks, telling the two ends of an episode apart."""

import re
from typing import Any

import jax
import jax.numpy as jnp

from mtmarl.errors import UserError


def match(grammar: re.Pattern, scenario: str, name: str, example: str) -> dict[str, Any]:
    """The named parts of a scenario, or a UserError that shows the grammar."""
    found = grammar.fullmatch(scenario)
    if found is None:
        raise UserError(f"{name}: no such task; names of this family look like {example}")
    return found.groupdict()


def check(name: str, holds: bool, rule: str) -> None:
    """Raises a UserError naming the task and the rule it breaks."""
    if not holds:
        raise UserError(f"{name}: {rule}")


def flags(raw: Any) -> tuple[jax.Array, jax.Array]:
    """(terminated, truncated) of a Jumanji timestep: at a time limit its discounts are not zero."""
    terminated = raw.last() & jnp.all(raw.discount == 0)
    return terminated, raw.last() & ~terminated
