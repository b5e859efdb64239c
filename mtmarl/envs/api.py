"""What a family of tasks is, and what the families share."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.envs.simulators import TeamReward
from mtmarl.errors import UserError
from mtmarl.types import Entities, Env, Slots, TaskSpec, TimeStep


class Discrete(NamedTuple):
    """An action space: each agent takes one of `count` actions (None: differs between tasks). Action 0 is NOOP."""

    count: int | None = None


class PublishedScale(NamedTuple):
    """Another scale that published data sets of a family use: its name in words, the scale [O] of a task, and a remark
    on what else differs in these data.
    """

    name: str
    of: Callable[[TaskSpec], np.ndarray]
    remark: str


@dataclass(frozen=True, eq=False)
class Family:
    """Everything the library knows of a family of tasks. All but the name may be unknown.

    make: from a scenario to its environment; None for a family with vaults and no environment.
    fields: what each number of one agent's observation means, in order. obs_scale: [O] float32; observations are
    integers that fit int8 times this; None where they are any floats. published_scale: see `PublishedScale`.
    slots: groups of interchangeable objects in an observation.
    entities: how an observation splits into entities; None: networks over entities see it as one entity.
    task_features: the names in `TaskSpec.task_features`.
    team_reward: how the rewards of the agents become that of the team, where a recording has one for each.
    win_return: an episode that returns more is won. max_return: no episode returns more.
    package: the distribution that its environments need; extra: the extra of this library that installs it.
    """

    name: str
    make: Callable[[str], Env] | None = None
    fields: tuple[str, ...] = ()
    obs_scale: np.ndarray | None = None
    published_scale: PublishedScale | None = None
    slots: tuple[Slots, ...] = ()
    entities: Entities | None = None
    task_features: tuple[str, ...] = ()
    actions: Discrete = Discrete()
    team_reward: TeamReward | None = None
    win_return: float | None = None
    max_return: float | None = None
    package: str | None = None
    extra: str | None = None

    def check(self, name: str, env: Any) -> Env:
        """The environment itself. Raises UserError where it is not what the family and the task's name say."""
        if not isinstance(env, Env):
            raise UserError(f"{name}: make returned {type(env).__name__}, which is no mtmarl.types.Env")
        spec, scale = env.spec, np.asarray(env.obs_scale)
        finite = lambda x: isinstance(x, Real) and bool(np.isfinite(float(x)))
        for wrong, holds, expected in (
            (f"is named {spec.name}", spec.name == name, name),
            (f"is of the family {spec.family}", spec.family == self.name, self.name),
            (f"has obs_scale of shape {scale.shape}", scale.shape == (spec.obs,), f"({spec.obs},)"),
            ("has obs_scale that is not positive", bool((scale > 0).all()), "finite numbers above 0"),
            (
                "has another obs_scale",
                self.obs_scale is None or np.array_equal(scale, self.obs_scale),
                "the family's",
            ),
            (f"has {spec.actions} actions", self.actions.count in (None, spec.actions), self.actions.count),
            (f"has observations {spec.obs} wide", len(self.fields) in (0, spec.obs), len(self.fields)),
            ("has slots outside its observation", all(s.stop <= spec.obs for s in self.slots), spec.obs),
            ("has other task features", all(map(finite, spec.task_features.values())), "finite numbers"),
        ):
            if not holds:
                raise UserError(
                    f"{name}: its environment {wrong}; expected {expected}: fix the family {self.name}"
                )
        return env


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
