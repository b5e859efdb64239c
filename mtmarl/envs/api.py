"""What the adapters share: reading names, refusing illegal tasks, telling the two ends of an episode apart."""

import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.errors import UserError
from mtmarl.types import Env, TaskSpec, TimeStep


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


@dataclass(frozen=True, eq=False)
class InUnits:
    """A task whose rewards are divided by `unit`."""

    raw: Env
    unit: float

    @property
    def spec(self) -> TaskSpec:
        return self.raw.spec

    @property
    def obs_scale(self) -> np.ndarray:
        return self.raw.obs_scale

    def reset(self, key: jax.Array) -> tuple[Any, TimeStep]:
        return self.raw.reset(key)

    def step(self, state: Any, action: jax.Array, key: jax.Array) -> tuple[Any, TimeStep]:
        state, step = self.raw.step(state, action, key)
        return state, step._replace(reward=step.reward / self.unit)


def check_precision(name: str) -> None:
    """Raises UserError in JAX's 64-bit mode, where another library's code of this family cannot be traced."""
    if jnp.zeros(()).dtype == jnp.float64:
        raise UserError(
            f"{name}: this environment needs 32-bit numbers; unset JAX_ENABLE_X64 (jax_enable_x64)"
        )
