"""Level-Based Foraging over Jumanji's `LevelBasedForaging-v0`.

Agents collect food whose level their own levels must add up to. An observation lists entities as (row, column,
level): all foods, the agent itself, the other agents. It is padded to 6 foods and 6 agents with (-1, -1, 0), which
is how the environment itself shows an entity that is out of view. The team reward is the sum over agents, 1 for an
episode in which everything is eaten.
"""

import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jumanji.environments.routing.lbf.env import LevelBasedForaging
from jumanji.environments.routing.lbf.generator import RandomGenerator

from mtmarl.envs.api import Discrete, Family, check, flags, match
from mtmarl.envs.tokens import CELL, mean_view, present_first, split_slots
from mtmarl.types import Entities, Observation, Slots, TaskSpec, TeamTokens, TimeStep, Tokens

MAX_FOODS = MAX_AGENTS = 6
ACTIONS = 6  # noop, up, down, left, right, load
TIME_LIMIT = 100
GRAMMAR = re.compile(
    r"(?:(?P<fov>\d+)s-)?(?P<grid>\d+)x(?P<grid2>\d+)-(?P<agents>\d+)p-(?P<foods>\d+)f(?P<coop>-coop)?"
    r"(?:-l(?P<level>\d+))?(?:-t(?P<limit>\d+))?"
)
EXAMPLE = "lbf/[2s-]10x10-3p-3f[-coop][-l3][-t50]"
OBS_SCALE = np.tile(np.asarray([1 / 16, 1 / 16, 1 / 8], np.float32), MAX_FOODS + MAX_AGENTS)
# Foods, and other agents, are listed in no meaningful order.
SLOTS = (Slots(0, MAX_FOODS, 3), Slots(3 * MAX_FOODS + 3, MAX_AGENTS - 1, 3))
FIELDS = tuple(
    f"{entity}: {what}"
    for entity in (
        *(f"food {i}" for i in range(MAX_FOODS)),
        *("self" if i == 0 else f"other agent {i - 1}" for i in range(MAX_AGENTS)),
    )
    for what in ("row / 16", "column / 16", "level / 8")
)


@dataclass(frozen=True, eq=False)
class Lbf:
    """One task. `raw` is Jumanji's environment."""

    name: str
    raw: LevelBasedForaging

    @property
    def spec(self) -> TaskSpec:
        raw, generator = self.raw, self.raw._generator
        features = {
            "height": raw.grid_size,
            "width": raw.grid_size,
            "objects": raw.num_food,
            "sight": raw.fov,
            "level": generator.max_agent_level,
            "cooperation": generator.force_coop,
        }
        sizes = (raw.num_agents, len(OBS_SCALE), ACTIONS, raw.time_limit)
        return TaskSpec(self.name, "lbf", *sizes, task_features=features)

    @property
    def obs_scale(self) -> np.ndarray:
        return OBS_SCALE

    def reset(self, key: jax.Array) -> tuple[Any, TimeStep]:
        state, raw = self.raw.reset(key)
        return state, self._timestep(raw)

    def step(self, state: Any, action: jax.Array, key: jax.Array) -> tuple[Any, TimeStep]:
        """The environment draws nothing after its reset: the key is not used."""
        state, raw = self.raw.step(state, action)
        return state, self._timestep(raw)

    def _timestep(self, raw: Any) -> TimeStep:
        view = raw.observation.agents_view
        agents, foods = view.shape[0], view.shape[1] // 3 - view.shape[0]
        absent = lambda n: jnp.tile(jnp.asarray([-1, -1, 0], view.dtype), (agents, n))
        view = jnp.concatenate(
            [
                view[:, : 3 * foods],
                absent(MAX_FOODS - foods),
                view[:, 3 * foods :],
                absent(MAX_AGENTS - agents),
            ],
            axis=1,
        )
        terminated, truncated = flags(raw)
        return TimeStep(
            obs=view.astype(jnp.float32) * OBS_SCALE,
            action_mask=raw.observation.action_mask,
            reward=raw.reward.sum().astype(jnp.float32),
            terminated=terminated,
            truncated=truncated,
        )


def make(scenario: str) -> Lbf:
    """The task of a name such as `10x10-3p-3f`, `2s-8x8-2p-2f-coop` or `12x12-4p-4f-coop-l3`."""
    name = f"lbf/{scenario}"
    g = match(GRAMMAR, scenario, name, EXAMPLE)
    grid, agents, foods = int(g["grid"]), int(g["agents"]), int(g["foods"])
    fov, level, limit = int(g["fov"] or grid), int(g["level"] or 2), int(g["limit"] or TIME_LIMIT)
    check(name, grid == int(g["grid2"]), "the grid must be square")
    # Coordinates are stored as int8.
    check(name, 5 <= grid <= 128, "the grid must lie between 5x5 and 128x128")
    check(name, 1 <= agents <= MAX_AGENTS, f"1 to {MAX_AGENTS} agents fit the observation")
    check(name, 1 <= foods <= MAX_FOODS, f"1 to {MAX_FOODS} foods fit the observation")
    check(name, 1 <= fov <= grid, "the sight must lie between 1 and the size of the grid")
    check(name, 2 <= level <= 8, "the highest agent level must lie between 2 and 8")
    check(name, 1 <= limit <= 1000, "the time limit must lie between 1 and 1000 steps")
    check(name, (grid - 2) ** 2 - agents > 5 * foods, "so many foods and agents do not fit the grid")
    generator = RandomGenerator(grid, agents, foods, fov, level, bool(g["coop"]))
    return Lbf(name, LevelBasedForaging(generator=generator, time_limit=limit))


def _parts(obs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Foods [*b, MAX_FOODS, 3], the agent itself, the other agents [*b, MAX_AGENTS - 1, 3]."""
    foods, own, others = jnp.split(obs, (3 * MAX_FOODS, 3 * MAX_FOODS + 3), axis=-1)
    return split_slots(foods, MAX_FOODS, 3), own, split_slots(others, MAX_AGENTS - 1, 3)


def observe(observation: Observation) -> Tokens:
    foods, own, others = _parts(observation.obs)
    # Slots may be shuffled: an ally may stand in any of them.
    allies, _ = present_first(others, others[..., 2] > 0, observation.obs.shape[-2] - 1)

    def relative(x):
        distance = (x[..., :2] - own[..., None, :2]) * (CELL / OBS_SCALE[0])
        mask = x[..., 2] > 0
        return jnp.concatenate([distance, x[..., 2:]], axis=-1) * mask[..., None], mask

    (allies, ally_mask), (foods, object_mask) = relative(allies), relative(foods)
    return Tokens(own, allies, foods, ally_mask, object_mask)


def team(observation: Observation) -> TeamTokens:
    """With limited sight the coordinates are those of each agent's own window, and so is their mean."""
    foods, own, _ = _parts(observation.obs)
    return TeamTokens(own, *mean_view(foods, (foods[..., 2] > 0) & observation.agent_mask[..., None]))


FAMILY = Family(
    "lbf",
    make,
    fields=FIELDS,
    obs_scale=OBS_SCALE,
    slots=SLOTS,
    entities=Entities(ACTIONS, False, observe, team),
    task_features=("height", "width", "objects", "sight", "level", "cooperation"),
    actions=Discrete(ACTIONS),
    team_reward="sum",
    max_return=1.0,
    package="jumanji",
)
