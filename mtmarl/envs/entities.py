"""Observations as sets of entities, one adapter per family (`types.Tokens`, `types.TeamTokens`).

Everything is computed from the observation and the legal actions, which are what vaults hold; the state of a team is
what its agents see between them, so nothing else has to be recorded. Padded agents contribute nothing to it.
"""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mtmarl.envs import connector, lbf, rware, smax
from mtmarl.envs.layout import Layout
from mtmarl.types import Entities, Observation, TaskSpec, TeamTokens, Tokens


def of_layout(layout: Layout, trained_on: Iterable[TaskSpec] = ()) -> Entities | None:
    """The entities of tasks in a layout; agent numbers go to the agent's own token, task features to none.
    `trained_on`: the tasks whose batches will be seen; see `types.Entities.most_targets`.

    None for several families at once, whose entities have nothing in common, and for a family that names none:
    networks over entities then see each agent's observation as one entity.
    """
    name, *others = layout.families
    if others or name not in FAMILIES:
        return None
    family = FAMILIES[name]
    most = max((int(spec.task_features["targets"]) for spec in trained_on), default=None)

    def observe(observation: Observation) -> Tokens:
        tokens = family.observe(observation._replace(obs=observation.obs[..., : layout.features]))
        numbers = observation.obs[..., layout.known :]
        return tokens._replace(own=jnp.concatenate([tokens.own, numbers], axis=-1))

    return Entities(
        family.base_actions,
        family.aimed,
        observe,
        lambda observation: family.team(observation._replace(obs=observation.obs[..., : layout.features])),
        most,
    )


def _slots(x: Array, count: int, width: int) -> Array:
    return x.reshape(*x.shape[:-1], count, width)


def _nothing(like: Array) -> Array:
    """No entities, of no width."""
    return jnp.zeros((*like.shape, 0, 0))


def _nowhere(mask: Array) -> Array:
    return jnp.zeros((*mask.shape, 0), bool)


def _present_first(
    x: Float[Array, "*b E F"], mask: Bool[Array, "*b E"], keep: int
) -> tuple[Float[Array, "*b K F"], Bool[Array, "*b K"]]:
    """The present ones of E slots moved to the front, and `keep` slots kept: there are no more of them."""
    order = jnp.argsort(~mask, axis=-1, stable=True)[..., :keep]
    mask = jnp.take_along_axis(mask, order, axis=-1)
    return jnp.take_along_axis(x, order[..., None], axis=-2) * mask[..., None], mask


def _together(
    seen_as: Float[Array, "*b N E F"], seen: Bool[Array, "*b N E"]
) -> tuple[Float[Array, "*b E F"], Bool[Array, "*b E"]]:
    """Each entity as those who see it do on average, and whether anyone does."""
    count = seen.sum(-2)
    mean = (seen_as * seen[..., None]).sum(-3) / jnp.maximum(count, 1)[..., None]
    return mean, count > 0


# ---------------------------------------------------------------------------------------------------- LBF

_FOOD = 3 * lbf.MAX_FOODS
CELL = 0.25  # What a distance of one cell counts; in observations it is a sixteenth or less.


def _lbf_parts(view: Array) -> tuple[Array, Array, Array]:
    return _slots(view[..., :_FOOD], lbf.MAX_FOODS, 3), view[..., _FOOD : _FOOD + 3], view[..., _FOOD + 3 :]


def _observe_lbf(observation: Observation) -> Tokens:
    foods, own, others = _lbf_parts(observation.obs)
    others = _slots(others, lbf.MAX_AGENTS - 1, 3)
    # Slots may be shuffled: an ally may stand in any of them.
    allies, _ = _present_first(others, others[..., 2] > 0, observation.obs.shape[-2] - 1)

    def relative(x):
        distance = (x[..., :2] - own[..., None, :2]) * (CELL / lbf.OBS_SCALE[0])
        mask = x[..., 2] > 0
        return jnp.concatenate([distance, x[..., 2:]], axis=-1) * mask[..., None], mask

    (allies, ally_mask), (foods, target_mask) = relative(allies), relative(foods)
    return Tokens(own, allies, foods, ally_mask, target_mask)


def _team_lbf(observation: Observation) -> TeamTokens:
    """With limited sight the coordinates are those of each agent's own window, and so is their mean."""
    foods, own, _ = _lbf_parts(observation.obs)
    targets, mask = _together(foods, (foods[..., 2] > 0) & observation.agent_mask[..., None])
    return TeamTokens(own, targets, mask)


# ---------------------------------------------------------------------------------------------- Connector

_HEAD = 1.0
_WINDOW = connector.WINDOW**2


def _around(reach: int) -> np.ndarray:
    """The (row, column) distances of the cells around an agent, without its own."""
    span = range(-reach, reach + 1)
    return np.asarray([(r, c) for r in span for c in span if (r, c) != (0, 0)], np.float32)


def _own_connector(view: Array) -> Array:
    """The whole view, and the way to the target."""
    way = (view[..., 2:4] - view[..., :2]) * (CELL / connector.OBS_SCALE[0])
    return jnp.concatenate([view, way], axis=-1)


def _observe_connector(observation: Observation) -> Tokens:
    """Allies are the heads in the window; where to go is one place per agent, and part of `own`."""
    blockers = observation.obs[..., 4 : 4 + _WINDOW]
    heads = jnp.delete(blockers, _WINDOW // 2, axis=-1) == _HEAD
    where = jnp.broadcast_to(CELL * _around(connector.REACH), (*heads.shape, 2))
    allies, mask = _present_first(where, heads, observation.obs.shape[-2] - 1)
    own = _own_connector(observation.obs)
    return Tokens(own, allies, _nothing(own[..., 0]), mask, _nowhere(own[..., 0]))


def _team_connector(observation: Observation) -> TeamTokens:
    own = _own_connector(observation.obs)
    return TeamTokens(own, _nothing(own[..., 0, 0]), _nowhere(own[..., 0, 0]))


# -------------------------------------------------------------------------------------------------- RWARE

_OWN = 8


def _observe_rware(observation: Observation) -> Tokens:
    """Allies are the robots next to the agent; the shelves around it are part of `own`."""
    sides = _around(rware.SENSOR)
    cells = _slots(observation.obs[..., _OWN : _OWN + 5 * len(sides)], len(sides), 5)
    where = jnp.broadcast_to(sides, (*cells.shape[:-1], 2))
    robots = jnp.concatenate([cells[..., 1:], where], axis=-1)
    allies, mask = _present_first(robots, cells[..., 0] > 0, observation.obs.shape[-2] - 1)
    return Tokens(
        observation.obs, allies, _nothing(observation.obs[..., 0]), mask, _nowhere(observation.obs[..., 0])
    )


def _team_rware(observation: Observation) -> TeamTokens:
    return TeamTokens(
        observation.obs, _nothing(observation.obs[..., 0, 0]), _nowhere(observation.obs[..., 0, 0])
    )


# --------------------------------------------------------------------------------------------------- SMAX

_UNIT = len(smax.OWN_FIELDS)
_ENEMY, _ALLY = len(smax.ENEMY_FIELDS), len(smax.ALLY_FIELDS)
_ENEMIES = slice(_UNIT, _UNIT + smax.MAX_ENEMIES * _ENEMY)
_TYPE = slice(4, 4 + len(smax.UNITS))


def _enemies(observation: Observation) -> tuple[Array, Array]:
    """The blocks of the enemies that there are actions for, and which of them are in sight: health may round to 0, the
    type does not.
    """
    enemies = _slots(observation.obs[..., _ENEMIES], smax.MAX_ENEMIES, _ENEMY)
    enemies = enemies[..., : observation.action_mask.shape[-1] - smax.MOVES, :]
    return enemies, enemies[..., _TYPE].sum(-1) > 0


def _observe_smax(observation: Observation) -> Tokens:
    """An enemy also carries whether it can be attacked."""
    enemies, target_mask = _enemies(observation)
    in_reach = observation.action_mask[..., smax.MOVES :, None]
    allies = _slots(observation.obs[..., _ENEMIES.stop :], smax.MAX_ALLIES - 1, _ALLY)
    allies = allies[..., : observation.obs.shape[-2] - 1, :]
    return Tokens(
        own=observation.obs[..., :_UNIT],
        allies=allies,
        targets=jnp.concatenate([enemies, in_reach.astype(observation.obs.dtype)], axis=-1),
        ally_mask=allies[..., _TYPE].sum(-1) > 0,
        target_mask=target_mask,
    )


def _team_smax(observation: Observation) -> TeamTokens:
    """Enemies at their place on the map: that of an ally who sees them, and how far from it they are."""
    own = observation.obs[..., :_UNIT]
    enemies, seen = _enemies(observation)
    sight = own[..., _TYPE] @ jnp.asarray([*smax.SIGHT.values()], jnp.float32) / smax.MAP
    place = own[..., None, 1:3] + sight[..., None, None] * enemies[..., 1:3]
    seen_as = jnp.concatenate([enemies[..., :1], place, enemies[..., 3:_UNIT]], axis=-1)
    targets, mask = _together(seen_as, seen & observation.agent_mask[..., None])
    return TeamTokens(own, targets, mask)


FAMILIES = {
    "lbf": Entities(lbf.ACTIONS, False, _observe_lbf, _team_lbf),
    "connector": Entities(connector.ACTIONS, False, _observe_connector, _team_connector),
    "rware": Entities(rware.ACTIONS, False, _observe_rware, _team_rware),
    "smax": Entities(smax.MOVES, True, _observe_smax, _team_smax),
}
