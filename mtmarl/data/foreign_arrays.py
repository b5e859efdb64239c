"""Arrays of foreign recordings as ours: B rows, T steps, N agents. Raises UserError for what cannot be stored.

`remarks` collects a line on each thing that was assumed, dropped or rounded.
"""

from collections.abc import Mapping

import numpy as np

from mtmarl.data.vault.schema import MAX_ACTIONS
from mtmarl.envs.api import Family, TeamReward
from mtmarl.errors import UserError
from mtmarl.types import TaskSpec


def features(name: str, x: np.ndarray) -> np.ndarray:
    """[B, T, N, F], no axis empty."""
    if x.ndim != 4 or 0 in x.shape:
        raise UserError(
            f"{name} of shape {x.shape[2:]} per step; expected agents and features, at least one of each"
        )
    return x


def per_agent(name: str, x: np.ndarray, agents: int) -> np.ndarray:
    """[B, T, N], or [B, T, 1] of what all agents share; trailing axes of one are dropped."""
    shape = x.shape
    while x.ndim > 3 and x.shape[-1] == 1:
        x = x[..., 0]
    x = x[..., None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[2] not in (1, agents):
        raise UserError(
            f"{name} of shape {shape[2:]} per step; expected one number, or one of {agents} agents each"
        )
    return x


def real(name: str, x: np.ndarray) -> np.ndarray:
    if x.dtype.kind in "biuf":
        return x
    if x.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return x.astype(np.float32)
    raise UserError(f"{name} is {x.dtype}; expected real numbers")


def boolean(name: str, x: np.ndarray) -> np.ndarray:
    x = real(name, x)
    odd = x[(x != 0) & (x != 1)]
    if len(odd):
        raise UserError(f"{name} holds {odd[0]:g}; expected 0 or 1")
    return x.astype(bool)


def float32(name: str, x: np.ndarray, remarks: list[str]) -> np.ndarray:
    """Rounded to float32, with infinity for what overflows; integers must be exact."""
    x = real(name, x)
    with np.errstate(over="ignore"):
        narrow = x.astype(np.float32)
    if x.dtype.kind in "iuf" and x.dtype.itemsize > 2 and x.dtype != np.float32:
        lost = x[np.asarray(np.isfinite(narrow) & (narrow.astype(np.float64) != x))]
        if len(lost) and x.dtype.kind != "f":
            raise UserError(f"{name} hold {lost[0]}, which float32 cannot; divide them before converting")
        if len(lost):
            remarks.append(f"{name} are {x.dtype}: rounded to float32")
    return narrow


def step_counts(leaves: Mapping[str, np.ndarray], agents: int, remarks: list[str]) -> np.ndarray | None:
    """[B, T] env steps taken in the episode before each; None where no array counts them."""
    counts = []
    for name in sorted(leaves):
        if name.rpartition(".")[2] != "step_count":
            continue
        x = real(name, per_agent(name, leaves[name], agents))
        if not (np.isfinite(x) & (x == np.rint(x)) & (x >= 0) & (x < 2**31)).all():
            raise UserError(f"{name} does not hold counts of steps")
        x = x.astype(np.int64)
        if (x != x[..., :1]).any():
            raise UserError(
                f"{name} differs between the agents of a team; their steps are not those of one episode"
            )
        counts.append((name, x[..., 0]))
    if not counts:
        return None
    name, count = counts[0]
    if any((other != count).any() for _, other in counts):
        raise UserError(f"{' and '.join(name for name, _ in counts)} differ")
    if count.shape[1] > 1 and (count == count[0, 0]).all():
        remarks.append(f"{name} is always {count[0, 0]}: not used")
        return None
    if count.min() == 1:
        remarks.append(f"{name} counts from 1")
        count = count - 1
    rises = np.diff(count, axis=1)[count[:, 1:] > 0]
    if len(rises) and np.mean(rises == 1) < 0.75:
        raise UserError(
            f"{name} rises by 1 at {np.mean(rises == 1):.0%} of the steps within episodes; expected env steps of the "
            "episode: correct it, or leave it out of the vault"
        )
    return count


def discrete(action: np.ndarray, agents: int) -> np.ndarray:
    """Actions [B, T, N] int64; -1, which is never legal, where they are not finite."""
    if action.ndim > 3 and action.shape[3:] != (1,):
        raise UserError("its actions are continuous; this library's are discrete")
    action = real("actions", per_agent("actions", action, agents))
    if action.shape[2] != agents:
        raise UserError(f"one action per step for {agents} agents; expected one of each")
    if action.dtype.kind == "f":
        action = np.where(np.isfinite(action), action, -1)
        if np.any(action != np.rint(action)):
            raise UserError("its actions are continuous; this library's are discrete")
    return np.clip(action.astype(np.float64), -1, 2**31).astype(np.int64)


def team_reward(reward: np.ndarray, how: TeamReward | None, remarks: list[str]) -> np.ndarray:
    """[B, T] of [B, T, N or 1]; NaN where the reward of an agent is not finite."""
    reward = np.asarray(reward, np.float64)
    finite = np.asarray(np.isfinite(reward).all(axis=2))
    if np.all((reward == reward[..., :1]) | ~finite[..., None]):
        return np.where(finite, reward[..., 0], np.nan)
    if how is None:
        raise UserError(
            "agents have rewards of their own; say what the team gets with --team-reward mean or sum"
        )
    remarks.append(f"agents have rewards of their own: the team gets their {how}")
    reward = np.where(finite[..., None], reward, np.nan)
    return reward.mean(2) if how == "mean" else reward.sum(2)


def without_padding(obs: np.ndarray, remarks: list[str]) -> np.ndarray:
    """Features that are always -inf, set to 0: some data sets pad the observations of unlike agents so."""
    padding = np.isneginf(obs).all((0, 1))
    if not padding.any():
        return obs
    remarks.append(f"{padding.mean():.1%} of all features are always -inf, taken for padding: set to 0")
    return np.where(padding, np.float32(0), obs)


def without_agent_ids(obs: np.ndarray, spec: TaskSpec | None, remarks: list[str]) -> np.ndarray:
    """Without the one-hot agent numbers that some wrappers put before or after the features."""
    agents, width = obs.shape[2:]
    if agents < 2 or width <= agents or (spec is not None and width - agents != spec.obs):
        return obs
    for where, ids, rest in (
        ("before", obs[..., :agents], obs[..., agents:]),
        ("after", obs[..., -agents:], obs[..., :-agents]),
    ):
        if (ids == np.eye(agents, dtype=np.float32)).all():
            remarks.append(
                f"dropped the one-hot agent numbers {where} the features; they are added when sampling"
            )
            return rest
    return obs


def action_mask(
    name: str, mask: np.ndarray | None, action: np.ndarray, spec: TaskSpec | None, remarks: list[str]
) -> np.ndarray:
    """[B, T, N, A]; where it is not recorded, all actions are legal: those of the task, or as many as were taken."""
    actions = spec.actions if spec else int(action.max()) + 1
    if mask is not None:
        mask = features(name, boolean(name, mask))
        if mask.shape[:3] != action.shape:
            raise UserError(f"{name} of shape {mask.shape}; expected {action.shape} and actions")
        actions = mask.shape[3]
    if not 0 < actions <= MAX_ACTIONS:
        raise UserError(f"actions 0 … {actions - 1}; a vault holds 0 … {MAX_ACTIONS - 1}")
    if mask is not None:
        return mask
    remarks.append(f"legal actions are not recorded: all {actions} are taken to be legal")
    return np.ones((*action.shape, actions), bool)


def check_sizes(spec: TaskSpec | None, obs: np.ndarray, mask: np.ndarray) -> None:
    """Raises UserError unless agents, features and actions are those of the task, where that is known."""
    if spec is None:
        return
    found, expected = (*obs.shape[-2:], mask.shape[-1]), (spec.agents, spec.obs, spec.actions)
    if found != expected:
        raise UserError(
            f"holds (agents, observation, actions) {found}, {spec.name} has {expected} here; if it is another task, "
            "name it with --task"
        )


def scaled(
    obs: np.ndarray, family: Family, spec: TaskSpec | None, remarks: list[str]
) -> tuple[np.ndarray, list[float]]:
    """Features as int8 with their scale, or as float32 with a scale of 1 where that would lose something."""
    ones = np.ones(obs.shape[2], np.float32)
    own, published = family.obs_scale, family.published_scale
    if own is not None and len(own) != len(ones):
        own = None
    known = {"": ones} if own is None else {"": own, "raw integers": ones}
    if spec is not None and published is not None:
        known[published.name] = published.of(spec)
    where = spec.name if spec else family.name
    # Raw integers first: small ones are also multiples of a scale.
    for what, scale in sorted(known.items(), key=lambda item: item[0] != "raw integers"):
        raw = np.rint(obs / scale)
        # Equal up to a rounding of float32; else the features are stored as they are.
        if (np.abs(raw * scale - obs) <= 2**-22 * np.abs(obs)).all() and (np.abs(raw) <= 127).all():
            if what:
                remarks.append(f"observations hold {what}: stored with the scale of {where}")
            if published is not None and what == published.name:
                remarks.append(published.remark)
            return raw.astype(np.int8), (ones if own is None else own).tolist()
    if own is not None:
        remarks.append(f"observations are not those of {where} here: stored as they are, float32")
    return obs, ones.tolist()
