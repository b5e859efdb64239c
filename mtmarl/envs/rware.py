"""Robot Warehouse over Jumanji's `RobotWarehouse-v0`.

Robots carry requested shelves to the goals: +1 for the team per delivery. A collision ends the episode. Each robot
senses the cells next to it, so observations are 66 wide in every warehouse.
"""

import re
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jumanji.environments.routing.robot_warehouse.env import RobotWarehouse
from jumanji.environments.routing.robot_warehouse.generator import RandomGenerator
from jumanji.environments.routing.robot_warehouse.utils import is_collision

from mtmarl.envs.api import Discrete, Family, check, check_precision, match
from mtmarl.envs.tokens import cells_around, present_first, split_slots
from mtmarl.types import Entities, Observation, TaskSpec, TeamTokens, TimeStep, Tokens, no_entities

ACTIONS = 5  # noop, forward, left, right, toggle load
TIME_LIMIT = 500
SENSOR = 1
# Shelf rows, shelf columns, height of a column of shelves.
LAYOUTS = {
    "tiny": (1, 3, 8), "small": (2, 3, 8), "medium": (2, 5, 8), "large": (3, 5, 8), "xlarge": (4, 5, 8),
    "h5": (1, 3, 5), "h6": (1, 3, 6), "wide": (1, 5, 8), "s4": (2, 3, 4), "m4": (2, 5, 4), "r3h5": (3, 3, 5),
}  # fmt: skip
GRAMMAR = re.compile(
    r"(?:(?P<layout>[a-z]\w*)|(?P<rows>\d+)x(?P<columns>\d+)h(?P<height>\d+))-(?P<agents>\d+)ag"
    r"(?P<demand>-easy|-hard)?(?:-t(?P<limit>\d+))?"
)
EXAMPLE = f"rware/{{{','.join(LAYOUTS)}}}-4ag[-easy|-hard][-t50] or rware/2x5h4-6ag"
# Coordinates reach 37: unscaled they would drown the binary features, most of all in large warehouses.
OBS_SCALE = np.concatenate([np.full(2, 1 / 40), np.ones(64)]).astype(np.float32)
_NEIGHBOURS = tuple((r, c) for r in (-1, 0, 1) for c in (-1, 0, 1))
FIELDS = (
    *("row / 40", "column / 40", "carries a shelf"),
    *(f"faces {way}" for way in ("up", "right", "down", "left")),
    "on a highway",
    *(
        f"agent at {cell}: {what}"
        for cell in _NEIGHBOURS
        if cell != (0, 0)
        for what in ("present", "faces up", "faces right", "faces down", "faces left")
    ),
    *(f"shelf at {cell}: {what}" for cell in _NEIGHBOURS for what in ("present", "requested")),
)


@dataclass(frozen=True, eq=False)
class Rware:
    """One task. `raw` is Jumanji's environment."""

    name: str
    raw: RobotWarehouse

    @property
    def spec(self) -> TaskSpec:
        raw = self.raw
        height, width = raw._generator._grid_size
        features = {
            "height": height,
            "width": width,
            "objects": raw.request_queue_size,
            "sight": SENSOR,
            # Added up as a number, not inside a program that is being traced.
            "shelves": raw.request_queue_size + int(raw.not_in_queue_size),
        }
        sizes = (raw.num_agents, len(OBS_SCALE), ACTIONS, raw.time_limit)
        return TaskSpec(self.name, "rware", *sizes, task_features=features)

    @property
    def obs_scale(self) -> np.ndarray:
        return OBS_SCALE

    def reset(self, key: jax.Array) -> tuple[Any, TimeStep]:
        state, raw = self.raw.reset(key)
        return state, self._timestep(state, raw)

    def step(self, state: Any, action: jax.Array, key: jax.Array) -> tuple[Any, TimeStep]:
        """New requests are drawn from the key that the state carries since its reset; `key` is not used."""
        state, raw = self.raw.step(state, action)
        return state, self._timestep(state, raw)

    def _timestep(self, state: Any, raw: Any) -> TimeStep:
        # Jumanji ends a collision and a time-out alike, with discount 0: look for the collision itself. So one
        # in the very last step counts as what it is, a termination.
        collided: Any = partial(is_collision, state.grid)
        collision = jax.vmap(collided)(state.agents, jnp.arange(self.raw.num_agents)).any()
        return TimeStep(
            obs=raw.observation.agents_view.astype(jnp.float32) * OBS_SCALE,
            action_mask=raw.observation.action_mask,
            reward=jnp.asarray(raw.reward, jnp.float32),
            terminated=raw.last() & collision,
            truncated=raw.last() & ~collision,
        )


def make(scenario: str) -> Rware:
    """The task of a name such as `tiny-4ag-hard` or `2x5h4-6ag`.

    As many shelves are requested at a time as there are agents; twice as many with -easy, half with -hard.
    """
    name = f"rware/{scenario}"
    check_precision(name)
    g = match(GRAMMAR, scenario, name, EXAMPLE)
    if g["layout"]:
        check(name, g["layout"] in LAYOUTS, f"unknown layout {g['layout']}; known are {', '.join(LAYOUTS)}")
        rows, columns, height = LAYOUTS[g["layout"]]
    else:
        rows, columns, height = int(g["rows"]), int(g["columns"]), int(g["height"])
    agents, limit = int(g["agents"]), int(g["limit"] or TIME_LIMIT)
    requests = {None: agents, "-easy": 2 * agents, "-hard": agents // 2}[g["demand"]]
    check(name, rows >= 1 and height >= 1, "at least one row of shelves, at least one high")
    check(name, columns % 2 == 1, "the number of shelf columns must be odd")
    check(name, (rows, columns) != (1, 1), "one row with one column has no shelves")
    floor = ((height + 1) * rows + 2) * (3 * columns + 1)
    check(name, max((height + 1) * rows + 2, 3 * columns + 1) <= 127, "no side may be longer than 127 cells")
    # Two columns of shelves a block, less the middle block of the last row, where the goals are.
    shelves = 2 * height * (rows * columns - 1)
    check(name, 1 <= agents <= floor // 4, f"1 to {floor // 4} agents fit this warehouse")
    # Less than all: a delivered request is replaced by a shelf that is not requested yet.
    check(
        name, 1 <= requests < shelves, f"{requests} requests at a time; 1 to {shelves - 1} are possible here"
    )
    check(name, 1 <= limit <= 10_000, "the time limit must lie between 1 and 10000 steps")
    generator = RandomGenerator(rows, columns, height, agents, SENSOR, requests)
    return Rware(name, RobotWarehouse(generator=generator, time_limit=limit))


def observe(observation: Observation) -> Tokens:
    """Allies are the robots next to the agent; the shelves around it are part of `own`."""
    own, around = observation.obs, cells_around(SENSOR)
    cells = split_slots(own[..., 8 : 8 + 5 * len(around)], len(around), 5)
    robots = jnp.concatenate([cells[..., 1:], jnp.broadcast_to(around, (*cells.shape[:-1], 2))], axis=-1)
    allies, ally_mask = present_first(robots, cells[..., 0] > 0, own.shape[-2] - 1)
    objects, object_mask = no_entities(*own.shape[:-1])
    return Tokens(own, allies, objects, ally_mask, object_mask)


def team(observation: Observation) -> TeamTokens:
    return TeamTokens(observation.obs, *no_entities(*observation.obs.shape[:-2]))


FAMILY = Family(
    "rware",
    make,
    fields=FIELDS,
    obs_scale=OBS_SCALE,
    entities=Entities(ACTIONS, False, observe, team),
    task_features=("height", "width", "objects", "sight", "shelves"),
    actions=Discrete(ACTIONS),
    package="jumanji",
)
