"""Connector over Jumanji's `Connector-v3`.

Agents draw paths on a grid from their starts to their targets; paths block. An observation is one agent's own view,
of the same width on every grid: own and target cell, and 5x5 windows around the agent. The team reward is the mean
over agents of +1 on connecting and -0.03 a step until then, as in the published Oryx data sets.

The wrapper that these were recorded with codes cells outside the grid, and targets of connected agents, in another way;
that code is not offered.
"""

import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jumanji.environments.routing.connector.constants import EMPTY, PATH, POSITION, TARGET
from jumanji.environments.routing.connector.env import Connector as RawConnector
from jumanji.environments.routing.connector.generator import RandomWalkGenerator

from mtmarl.envs.api import Discrete, Family, PublishedScale, check, check_precision, flags, match
from mtmarl.envs.tokens import CELL, cells_around, present_first
from mtmarl.types import Entities, Observation, TaskSpec, TeamTokens, TimeStep, Tokens, no_entities

ACTIONS = 5  # noop, up, right, down, left
REACH = 2  # cells seen in each direction
WINDOW = 2 * REACH + 1
GRAMMAR = re.compile(r"con-(?P<grid>\d+)x(?P<grid2>\d+)x(?P<agents>\d+)a")
EXAMPLE = "connector/con-9x9x6a"
# The released wrapper divides by the squared grid size, which gives the same distance another code on every grid.
OBS_SCALE = np.concatenate([np.full(4, 1 / 20), np.ones(2 * WINDOW**2)]).astype(np.float32)
FIELDS = (
    *(f"{whose} {what} / 20" for whose in ("own", "target") for what in ("row", "column")),
    *(f"blocker at ({r}, {c})" for r in range(-REACH, REACH + 1) for c in range(-REACH, REACH + 1)),
    *(f"target at ({r}, {c})" for r in range(-REACH, REACH + 1) for c in range(-REACH, REACH + 1)),
)


@dataclass(frozen=True, eq=False)
class Connector:
    """One task. `raw` is Jumanji's environment."""

    name: str
    raw: RawConnector

    @property
    def spec(self) -> TaskSpec:
        raw = self.raw
        features = {
            "height": raw.grid_size,
            "width": raw.grid_size,
            "objects": raw.num_agents,
            "sight": REACH,
        }
        sizes = (raw.num_agents, len(OBS_SCALE), ACTIONS, raw.time_limit)
        return TaskSpec(self.name, "connector", *sizes, task_features=features)

    @property
    def obs_scale(self) -> np.ndarray:
        return OBS_SCALE

    def reset(self, key: jax.Array) -> tuple[Any, TimeStep]:
        state, raw = self.raw.reset(key)
        return state, self._timestep(state, raw)

    def step(self, state: Any, action: jax.Array, key: jax.Array) -> tuple[Any, TimeStep]:
        """The environment draws nothing after its reset: the key is not used."""
        state, raw = self.raw.step(state, action)
        return state, self._timestep(state, raw)

    def _timestep(self, state: Any, raw: Any) -> TimeStep:
        terminated, truncated = flags(raw)
        return TimeStep(
            obs=views(state.grid, state.agents.position, state.agents.target).astype(jnp.float32) * OBS_SCALE,
            action_mask=raw.observation.action_mask,
            reward=raw.reward.mean().astype(jnp.float32),
            terminated=terminated,
            truncated=truncated,
        )


def views(grid: jax.Array, position: jax.Array, target: jax.Array) -> jax.Array:
    """[N, 54] integers: own cell, target cell, blockers (head +1, path or wall -1), targets (own +1, others -1).

    A connected agent's target is the cell that it stands on.
    """
    agents = position.shape[0]
    kind = jnp.where(grid == EMPTY, -1, (grid - 1) % 3)
    heads, paths, targets = (kind == (code - 1) % 3 for code in (POSITION, PATH, TARGET))
    owner = (grid - 1) // 3
    around = lambda x, outside: jnp.pad(x, REACH, constant_values=outside)
    blockers = around(heads.astype(jnp.int32) - paths.astype(jnp.int32), -1)
    goals, owner = around(targets.astype(jnp.int32), 0), around(owner, -1)

    def view(agent, cell, goal):
        cut = lambda x: jax.lax.dynamic_slice(x, (cell[0], cell[1]), (WINDOW, WINDOW))
        seen = cut(goals) * jnp.where(cut(owner) == agent, 1, -1)
        return jnp.concatenate([cell, goal, cut(blockers).ravel(), seen.ravel()])

    return jax.vmap(view)(jnp.arange(agents), position, target)


def make(scenario: str) -> Connector:
    """The task of a name such as `con-9x9x6a`: grid and agents. The time limit is the number of cells."""
    name = f"connector/{scenario}"
    check_precision(name)
    g = match(GRAMMAR, scenario, name, EXAMPLE)
    grid, agents = int(g["grid"]), int(g["agents"])
    check(name, grid == int(g["grid2"]), "the grid must be square")
    check(name, 3 <= grid <= 50, "the grid must lie between 3x3 and 50x50")
    check(name, agents >= 1, "at least one agent")
    check(name, 4 * agents <= grid**2, "every agent needs at least four cells")
    generator = RandomWalkGenerator(grid_size=grid, num_agents=agents)
    return Connector(name, RawConnector(generator=generator, time_limit=grid**2))


def _own(obs: jax.Array) -> jax.Array:
    """The whole observation, and the way to the target."""
    way = (obs[..., 2:4] - obs[..., :2]) * (CELL / OBS_SCALE[0])
    return jnp.concatenate([obs, way], axis=-1)


def observe(observation: Observation) -> Tokens:
    """Allies are the heads in the window. Each agent has one target, which is part of `own`."""
    blockers = observation.obs[..., 4 : 4 + WINDOW**2]
    heads = jnp.delete(blockers, WINDOW**2 // 2, axis=-1) == 1.0
    cells = jnp.broadcast_to(CELL * cells_around(REACH), (*heads.shape, 2))
    allies, ally_mask = present_first(cells, heads, observation.obs.shape[-2] - 1)
    own = _own(observation.obs)
    objects, object_mask = no_entities(*own.shape[:-1])
    return Tokens(own, allies, objects, ally_mask, object_mask)


def team(observation: Observation) -> TeamTokens:
    own = _own(observation.obs)
    return TeamTokens(own, *no_entities(*own.shape[:-2]))


FAMILY = Family(
    "connector",
    make,
    fields=FIELDS,
    obs_scale=OBS_SCALE,
    published_scale=PublishedScale(
        "cells by the squared grid size",  # which is the time limit
        lambda spec: np.where(OBS_SCALE == 1, OBS_SCALE, np.float32(1 / spec.horizon)),
        "cells outside the grid, and targets of connected agents, stay coded as they were: in play agents see another "
        "code there",
    ),
    entities=Entities(ACTIONS, False, observe, team),
    task_features=("height", "width", "objects", "sight"),
    actions=Discrete(ACTIONS),
    team_reward="mean",
    max_return=1.0,
    package="jumanji",
)
