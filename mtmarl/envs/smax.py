"""SMAX over JaxMARL's `HeuristicEnemySMAX`: StarCraft micromanagement against a scripted enemy (extra `smax`).

An observation is [own unit | 16 enemies | 15 other allies], zeros for a unit that is dead, out of sight or not in the
task, so it is equally wide in every task. All numbers are rounded to 1/127, which fits them into int8. What the enemy
does is hidden. The team reward is the share of the enemy's health that was taken, and 1 for winning: an episode that
is won returns 2.
"""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.envs.api import Discrete, Family, check, check_precision, match
from mtmarl.envs.tokens import mean_view, split_slots
from mtmarl.types import Entities, Observation, TaskSpec, TeamTokens, TimeStep, Tokens

MAX_ALLIES = MAX_ENEMIES = 16
MOVES = 5  # stop, north, east, south, west; then attack enemy 0, 1, …
ACTIONS = MOVES + MAX_ENEMIES
MAX_RETURN, WIN_RETURN = 2.0, 1.5  # 2 for a win; at most 1 for a draw, a defeat or a time-out
# By the letter in a scenario's name, in JaxMARL's order. Names are SMAC's, so z is a zealot.
UNITS = {"m": "marine", "M": "marauder", "s": "stalker", "z": "zealot", "zg": "zergling", "h": "hydralisk"}
SIGHT = {"marine": 9, "marauder": 10, "stalker": 10, "zealot": 9, "zergling": 8, "hydralisk": 9}
MAP = 32  # its width and height, in the same unit
# Longest episodes in env steps, as in SMAC and, for the maps that SMAC lacks, in ODIS. Others: DEFAULT_LIMIT.
LIMITS = {
    "3m": 60, "4m": 75, "5m": 90, "6m": 100, "7m": 110, "8m": 120, "9m": 120, "10m": 120, "11m": 150, "12m": 150,
    "4m_vs_5m": 60, "5m_vs_6m": 70, "6m_vs_7m": 80, "7m_vs_8m": 90, "8m_vs_9m": 120, "9m_vs_10m": 140,
    "10m_vs_11m": 150, "10m_vs_12m": 160, "11m_vs_12m": 160, "13m_vs_15m": 160,
    "1s3z": 120, "1s4z": 130, "1s5z": 140, "2s3z": 120, "2s4z": 130, "2s5z": 150, "3s3z": 140, "3s4z": 140,
    "3s5z": 150, "4s3z": 150, "4s4z": 150, "4s5z": 160, "4s6z": 170, "3s5z_vs_3s6z": 170, "3s6z_vs_3s7z": 180,
    "4s5z_vs_4s6z": 180, "4s6z_vs_4s7z": 200, "3s_vs_3z": 150, "3s_vs_4z": 200, "3s_vs_5z": 250, "3s_vs_6z": 300,
    "4s_vs_5z": 200, "4s_vs_6z": 250, "4s_vs_7z": 300, "2m_vs_1z": 150, "6h_vs_8z": 150,
}  # fmt: skip
DEFAULT_LIMIT = 150
_TEAM = r"(?:\d+(?:zg|[mMszh]))+"
GRAMMAR = re.compile(rf"(?P<allies>{_TEAM})(?:_vs_(?P<enemies>{_TEAM}))?(?:-t(?P<limit>\d+))?")
EXAMPLE = (
    "smax/5m_vs_6m[-t50] or smax/2s3z; m marine, M marauder, s stalker, z zealot, zg zergling, h hydralisk"
)

OWN_FIELDS = ("health", "x / map", "y / map", "cooldown", *UNITS.values())
ENEMY_FIELDS = ("health", "dx / sight", "dy / sight", "cooldown", *UNITS.values(), "attacked by allies / 8")
ALLY_FIELDS = (*ENEMY_FIELDS[:-1], "attacked", "moved x", "moved y")
FIELDS = (
    *(f"self: {what}" for what in OWN_FIELDS),
    *(f"enemy {k}: {what}" for k in range(MAX_ENEMIES) for what in ENEMY_FIELDS),
    *(f"other ally {i}: {what}" for i in range(MAX_ALLIES - 1) for what in ALLY_FIELDS),
)
STEP = 1 / 127
OBS_SCALE = np.asarray(
    [
        1 / 8 if "attacked by" in field else 1.0 if "attacked" in field or "moved" in field else STEP
        for field in FIELDS
    ],
    np.float32,
)


class State(NamedTuple):
    """`raw` is JaxMARL's state, the enemy's memory included."""

    raw: Any
    step_count: jax.Array


@dataclass(frozen=True, eq=False)
class Smax:
    """One task. `raw` is JaxMARL's environment; `units`: how many there are of each kind, by `unit_counts`."""

    name: str
    raw: Any
    horizon: int
    units: dict[str, int]

    @property
    def spec(self) -> TaskSpec:
        features = {"height": MAP, "width": MAP, "objects": self.raw.num_enemies, **self.units}
        sizes = (self.raw.num_allies, len(OBS_SCALE), ACTIONS, self.horizon)
        return TaskSpec(self.name, "smax", *sizes, WIN_RETURN, MAX_RETURN, features)

    @property
    def obs_scale(self) -> np.ndarray:
        return OBS_SCALE

    def reset(self, key: jax.Array) -> tuple[State, TimeStep]:
        _, raw = self.raw.reset(key)
        zero = jnp.zeros((), jnp.int32)
        return State(raw, zero), self._timestep(raw.state, zero, jnp.zeros(()))

    def step(self, state: State, action: jax.Array, key: jax.Array) -> tuple[State, TimeStep]:
        """The key decides where the enemy goes, and how long weapons take to reload."""
        # JaxMARL puts stopping after the moves. Here doing nothing is action 0, as everywhere.
        theirs = jnp.where(action == 0, MOVES - 1, jnp.where(action < MOVES, action - 1, action))
        actions = dict(zip(self.raw.agents, theirs, strict=True))
        # Not `step`, which resets on its own and loses the final observation.
        _, raw, reward, _, _ = self.raw.step_env(key, state.raw, actions)
        count = state.step_count + 1
        return State(raw, count), self._timestep(raw.state, count, reward[self.raw.agents[0]])

    def _timestep(self, units: Any, count: jax.Array, reward: jax.Array) -> TimeStep:
        allies = self.raw.num_allies
        alive = units.unit_alive
        terminated = ~alive[:allies].any() | ~alive[allies:].any()
        return TimeStep(
            obs=self._views(units),
            action_mask=self._legal(units),
            reward=jnp.asarray(reward, jnp.float32),
            terminated=terminated,
            truncated=(count >= self.horizon) & ~terminated,
        )

    def _distances(self, units: Any) -> tuple[jax.Array, jax.Array]:
        """From each ally to every unit: the vectors [N, U, 2] and their lengths [N, U]."""
        delta = units.unit_positions[None] - units.unit_positions[: self.raw.num_allies, None]
        return delta, jnp.linalg.norm(delta, axis=-1)

    def _legal(self, units: Any) -> jax.Array:
        """[N, ACTIONS]: the dead stop; the living also move, and attack the living in their weapon's range."""
        allies, alive = self.raw.num_allies, units.unit_alive
        reach = self.raw.unit_type_attack_ranges[units.unit_types[:allies]]
        _, distance = self._distances(units)
        hit = (distance < reach[:, None])[:, allies:] & alive[None, allies:] & alive[:allies, None]
        moves = jnp.concatenate(
            [jnp.ones((allies, 1), bool), jnp.repeat(alive[:allies, None], MOVES - 1, axis=1)], axis=1
        )
        return jnp.concatenate([moves, _pad(hit, MAX_ENEMIES, 1)], axis=1)

    def _views(self, units: Any) -> jax.Array:
        """[N, O]: what each ally sees."""
        env, allies = self.raw, self.raw.num_allies
        types, alive = units.unit_types, units.unit_alive
        health = units.unit_health / env.unit_type_health[types]
        cooldown = jnp.clip(units.unit_weapon_cooldowns / env.unit_type_weapon_cooldowns[types], 0.0, 1.0)
        kind = jax.nn.one_hot(types, len(UNITS))
        place = units.unit_positions / jnp.asarray([env.map_width, env.map_height])
        own = jnp.concatenate([health[:, None], place, cooldown[:, None], kind], axis=1)[:allies]

        sight = env.unit_type_sight_ranges[types[:allies]][:, None]
        delta, distance = self._distances(units)
        seen = (distance < sight) & alive[None] & alive[:allies, None]
        seen = seen & ~jnp.eye(allies, len(types), dtype=bool)
        each = lambda x: jnp.broadcast_to(x[None], (allies, *x.shape))
        block = jnp.concatenate(
            [each(health[:, None]), delta / sight[..., None], each(cooldown[:, None]), each(kind)], axis=-1
        )
        # JaxMARL shows whom an ally attacked as its action over the number of actions, a scale that changes with
        # the task. Here the enemy carries by how many allies in view it was attacked.
        target = units.prev_attack_actions[:allies] - MOVES
        aimed = jax.nn.one_hot(target, len(types) - allies)
        attackers = seen[:, :allies].astype(jnp.float32) @ aimed / 8
        moved = jnp.concatenate([target[:, None] >= 0, units.prev_movement_actions[:allies]], axis=-1)

        enemies = jnp.concatenate([block[:, allies:], attackers[..., None]], axis=-1) * seen[:, allies:, None]
        others = jnp.concatenate([block[:, :allies], each(moved)], axis=-1) * seen[:, :allies, None]
        # Each ally leaves itself out of the list of the others.
        index = jnp.arange(allies - 1)[None] + (jnp.arange(allies - 1)[None] >= jnp.arange(allies)[:, None])
        others = jnp.take_along_axis(others, index[..., None], axis=1)
        flat = lambda x, slots: _pad(x, slots, 1).reshape(allies, -1)
        view = jnp.concatenate(
            [own * alive[:allies, None], flat(enemies, MAX_ENEMIES), flat(others, MAX_ALLIES - 1)], axis=1
        )
        return jnp.round(view / OBS_SCALE) * OBS_SCALE


def _pad(x: jax.Array, size: int, axis: int) -> jax.Array:
    """x with zeros behind it along one axis."""
    return jnp.pad(x, [(0, size - n if i == axis else 0) for i, n in enumerate(x.shape)])


def _team(text: str) -> list[int]:
    """The unit types of a team such as `2s3z`."""
    order = list(UNITS)
    groups = re.findall(r"(\d+)(zg|[mMszh])", text)
    return [order.index(letter) for count, letter in groups for _ in range(int(count))]


def unit_counts(side: str, types: Sequence[int]) -> dict[str, int]:
    """How many units of every kind a team has, by names such as `allies: marine`."""
    return {f"{side}: {kind}": types.count(i) for i, kind in enumerate(UNITS.values())}


@contextmanager
def _quietly() -> Iterator[None]:
    """For importing JaxMARL, which prints two lines and leaves `sys.__stdout__` and `sys.__stderr__` as the streams."""
    found = sys.__stdout__
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(sys.stderr):
        sys.__stdout__ = nothing
        try:
            yield
        finally:
            sys.__stdout__ = found


def make(scenario: str) -> Smax:
    """The task of a name such as `5m_vs_6m` or `2s3z` (both teams alike); the limit is SMAC's, or that of `-t50`."""
    name = f"smax/{scenario}"
    check_precision(name)
    g = match(GRAMMAR, scenario, name, EXAMPLE)
    allies = _team(g["allies"])
    enemies = _team(g["enemies"]) if g["enemies"] else allies
    limit = int(g["limit"] or LIMITS.get(scenario, DEFAULT_LIMIT))
    check(name, 1 <= len(allies) <= MAX_ALLIES, f"1 to {MAX_ALLIES} allies fit the observation")
    check(name, 1 <= len(enemies) <= MAX_ENEMIES, f"1 to {MAX_ENEMIES} enemies fit the observation")
    check(name, 1 <= limit <= 1000, "the time limit must lie between 1 and 1000 steps")
    with _quietly():
        from jaxmarl.environments.smax import HeuristicEnemySMAX, Scenario
    units = jnp.asarray([*allies, *enemies], jnp.uint8)
    raw = HeuristicEnemySMAX(
        scenario=Scenario(units, len(allies), len(enemies), False, False),
        max_steps=limit,
        see_enemy_actions=False,
    )
    return Smax(name, raw, limit, {**unit_counts("allies", allies), **unit_counts("enemies", enemies)})


_UNIT = len(OWN_FIELDS)
_ENEMIES_END = _UNIT + MAX_ENEMIES * len(ENEMY_FIELDS)
_TYPE = slice(4, 4 + len(UNITS))


def _enemies(observation: Observation) -> tuple[jax.Array, jax.Array]:
    """The blocks of the enemies that there are actions for, and which of them are in sight: health may round to 0, the
    type does not.
    """
    enemies = split_slots(observation.obs[..., _UNIT:_ENEMIES_END], MAX_ENEMIES, len(ENEMY_FIELDS))
    enemies = enemies[..., : observation.action_mask.shape[-1] - MOVES, :]
    return enemies, enemies[..., _TYPE].sum(-1) > 0


def observe(observation: Observation) -> Tokens:
    """An enemy also carries whether it can be attacked."""
    enemies, object_mask = _enemies(observation)
    in_reach = observation.action_mask[..., MOVES:, None]
    allies = split_slots(observation.obs[..., _ENEMIES_END:], MAX_ALLIES - 1, len(ALLY_FIELDS))
    allies = allies[..., : observation.obs.shape[-2] - 1, :]
    return Tokens(
        own=observation.obs[..., :_UNIT],
        allies=allies,
        objects=jnp.concatenate([enemies, in_reach.astype(observation.obs.dtype)], axis=-1),
        ally_mask=allies[..., _TYPE].sum(-1) > 0,
        object_mask=object_mask,
    )


def team(observation: Observation) -> TeamTokens:
    """Enemies at their place on the map: that of an ally who sees them, and how far from it they are."""
    own = observation.obs[..., :_UNIT]
    enemies, seen = _enemies(observation)
    sight = own[..., _TYPE] @ jnp.asarray([*SIGHT.values()], jnp.float32) / MAP
    place = own[..., None, 1:3] + sight[..., None, None] * enemies[..., 1:3]
    seen_as = jnp.concatenate([enemies[..., :1], place, enemies[..., 3:_UNIT]], axis=-1)
    return TeamTokens(own, *mean_view(seen_as, seen & observation.agent_mask[..., None]))


FAMILY = Family(
    "smax",
    make,
    fields=FIELDS,
    obs_scale=OBS_SCALE,
    entities=Entities(MOVES, True, observe, team),
    task_features=("height", "width", "objects", *unit_counts("allies", ()), *unit_counts("enemies", ())),
    actions=Discrete(ACTIONS),
    win_return=WIN_RETURN,
    max_return=MAX_RETURN,
    package="jaxmarl",
    extra="smax",
)
