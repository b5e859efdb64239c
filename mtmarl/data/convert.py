"""Vaults of other libraries in our schema, and what could not be known about them.

Three layouts of Flashbax vaults are read, told apart by their leaves:

    OG-MARL          observations, actions, rewards, terminals, truncations    a flag at a step: it ended the episode
    Oryx Connector   obs.agents_view, obs.action_mask, action, reward, done    an episode ended, or begins
    Mava recordings  observation, legal_action_mask, action, reward, done      an episode ended, or begins

`data.boundaries` decides where episodes begin and end. Ours needs both: `first[t + 1] == terminal[t] | truncated[t]`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mtmarl.data import boundaries
from mtmarl.data.boundaries import Known, Meaning, Recorded, Team
from mtmarl.data.flashbax import ARCHIVE, found_vaults, read_flashbax
from mtmarl.data.vault import Recording, read_vault
from mtmarl.envs.registry import FAMILIES, make_env
from mtmarl.errors import UserError
from mtmarl.task_names import check_dataset, task_parts
from mtmarl.types import TaskSpec

__all__ = ["Converted", "Options", "convert", "found_vaults", "read_flashbax"]

TeamReward = Literal["mean", "sum"]
# What a team's reward is where agents have their own, as the adapters of the families define it.
TEAM_REWARD: dict[str, TeamReward] = {"connector": "mean", "lbf": "sum"}
# What an episode of a family returns at most: all agents connected, all food eaten.
MOST_RETURN = {"connector": 1.0, "lbf": 1.0}
# The widest that vaults store: int16 step counts, int8 actions.
_MOST_STEPS, _MOST_ACTIONS = 2**15 - 1, 2**7


class _Layout(NamedTuple):
    """Names of leaves. `cut` is None where `ended` stands for both ends of an episode."""

    obs: str
    mask: str
    action: str
    reward: str
    ended: str
    cut: str | None
    usual: Meaning | None

    @property
    def needs(self) -> set[str]:
        """A legal mask may be missing from OG-MARL's."""
        names = {self.obs, self.action, self.reward, self.ended}
        return names | ({self.mask} if self.cut is None else {self.cut})


LAYOUTS = {
    "OG-MARL": _Layout(
        "observations", "infos.legals", "actions", "rewards", "terminals", "truncations", "end"
    ),
    "Oryx": _Layout("obs.agents_view", "obs.action_mask", "action", "reward", "done", None, None),
    "Mava": _Layout("observation", "legal_action_mask", "action", "reward", "done", None, None),
}


@dataclass(frozen=True)
class Options:
    """What a vault does not say about itself.

    task: family/scenario, or only the family, or nothing: the rest is taken from where the vault lies,
    `…/<family>/<scenario>.vlt/<uid>`. horizon: time limit in env steps.
    team_reward: how to make one reward of those of the agents, where they differ. rollout_length: of a Mava recording,
    env steps per write, after which a row goes on elsewhere. flags: whether a flag marks the first or the last step of
    an episode. team_flags: whether an episode ends when all agents have been flagged, or at the first flag. These two
    are asked for where the recording does not prove them. quality: the name of the new dataset.
    """

    task: str | None = None
    horizon: int | None = None
    team_reward: TeamReward | None = None
    rollout_length: int | None = None
    flags: Meaning | None = None
    team_flags: Team | None = None
    quality: str | None = None


class Converted(NamedTuple):
    """A vault in our schema, not written yet, and lines on what was dropped, assumed or unknown."""

    recording: Recording
    metadata: dict[str, Any]
    quality: str
    remarks: list[str]


# ------------------------------------------------------------------------------------------------- leaves


def layout_of(leaves: Mapping[str, np.ndarray], where: Path) -> str:
    for name, layout in LAYOUTS.items():
        if layout.needs <= leaves.keys():
            return name
    if set(Recording._fields) <= leaves.keys():
        raise UserError(f"{where}: is in the schema of this library already")
    raise UserError(
        f"{where}: holds {', '.join(sorted(leaves))}; layouts that can be read: "
        + "; ".join(f"{name} ({', '.join(sorted(layout.needs))})" for name, layout in LAYOUTS.items())
    )


def _features(name: str, x: np.ndarray) -> np.ndarray:
    """[B, T, N, F], no axis empty."""
    if x.ndim != 4 or 0 in x.shape:
        raise UserError(
            f"{name} of shape {x.shape[2:]} per step; expected agents and features, at least one of each"
        )
    return x


def _per_agent(name: str, x: np.ndarray, agents: int) -> np.ndarray:
    """[B, T, N], or [B, T, 1] of what all agents have in common; axes of one behind it are dropped."""
    shape = x.shape
    while x.ndim > 3 and x.shape[-1] == 1:
        x = x[..., 0]
    x = x[..., None] if x.ndim == 2 else x
    if x.ndim != 3 or x.shape[2] not in (1, agents):
        raise UserError(
            f"{name} of shape {shape[2:]} per step; expected one number, or one of {agents} agents each"
        )
    return x


def _real(name: str, x: np.ndarray) -> np.ndarray:
    if x.dtype.kind in "biuf":
        return x
    if x.dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        return x.astype(np.float32)
    raise UserError(f"{name} is {x.dtype}; expected real numbers")


def _yes_or_no(name: str, x: np.ndarray) -> np.ndarray:
    x = _real(name, x)
    odd = x[(x != 0) & (x != 1)]
    if len(odd):
        raise UserError(f"{name} holds {odd[0]:g}; expected 0 or 1")
    return x.astype(bool)


def _float32(name: str, x: np.ndarray, remarks: list[str]) -> np.ndarray:
    x = _real(name, x)
    with np.errstate(over="ignore"):  # What overflows is dropped with all that is not finite.
        narrow = x.astype(np.float32)
    if x.dtype.kind in "iuf" and x.dtype.itemsize > 2 and x.dtype != np.float32:
        lost = x[np.asarray(np.isfinite(narrow) & (narrow.astype(np.float64) != x))]
        if len(lost) and x.dtype.kind != "f":
            raise UserError(f"{name} hold {lost[0]}, which float32 cannot; divide them before converting")
        if len(lost):
            remarks.append(f"{name} are {x.dtype}: rounded to float32")
    return narrow


def _step_counts(leaves: Mapping[str, np.ndarray], agents: int, remarks: list[str]) -> np.ndarray | None:
    """[B, T] env steps taken in the episode before each; None where nothing counts them."""
    counts = []
    for name in sorted(leaves):
        if name.rpartition(".")[2] != "step_count":
            continue
        x = _real(name, _per_agent(name, leaves[name], agents))
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
        return count - 1
    return count


# -------------------------------------------------------------------------------------------- conversion


def check_names(task: str | None, quality: str | None) -> None:
    """Raises UserError unless the names that are given may name a task (or a family) and a vault."""
    if task is not None:
        task_parts(task if "/" in task else f"{task}/any")
    if quality is not None:
        check_dataset(quality, "quality")


def holds(path: Path, made: Converted) -> bool:
    """Whether the vault there holds what was converted. Raises UserError if it is damaged."""
    there = read_vault(path)
    return (
        there.metadata["task"] == made.metadata["task"]
        and there.metadata["dims"]["horizon"] == made.metadata["horizon"]
        and there.metadata["obs_scale"] == made.metadata["obs_scale"]
        and all(np.array_equal(a, b) for a, b in zip(there.recording, made.recording, strict=True))
    )


def convert(path: Path, options: Options = Options()) -> Converted:  # noqa: B008
    """One Flashbax vault of another library, read whole. UserError where something must be known and is not."""
    task, quality = names(path, options)
    env = make_env(task) if task.partition("/")[0] in FAMILIES else None
    spec = env.spec if env else None
    leaves, metadata = read_flashbax(path)
    name = layout_of(leaves, path)
    if not any(leaf[:, -1].any() for leaf in leaves.values()):
        raise UserError(
            f"{path}: all arrays are zero at the last step: it was never written; correct vault_index"
        )
    horizon = options.horizon or (spec.horizon if spec else None)
    remarks: list[str] = []
    try:
        layout = LAYOUTS[name]
        if len({leaves[leaf].shape[:2] for leaf in layout.needs}) > 1:
            raise UserError("its arrays differ in the number of rows")
        obs = _features(layout.obs, _float32("observations", leaves[layout.obs], remarks))
        agents = obs.shape[2]
        action = _action(leaves[layout.action], agents)
        own_reward = _per_agent(layout.reward, _real(layout.reward, leaves[layout.reward]), agents)
        team_reward = options.team_reward or TEAM_REWARD.get(task.partition("/")[0])
        reward = _team_reward(own_reward, team_reward, remarks)
        flags = [
            np.broadcast_to(_per_agent(leaf, _yes_or_no(leaf, leaves[leaf]), agents), action.shape)
            for leaf in (layout.ended, layout.cut)
            if leaf
        ]
        obs = _without_infinities(obs, remarks)
        obs = _without_ids(obs, spec, remarks)
        mask = _mask(layout.mask, leaves.get(layout.mask), action, spec, remarks)
        _check_sizes(spec, obs, mask)
        found = boundaries.decide(
            Recorded(
                flags[0],
                flags[1] if layout.cut else None,
                _step_counts(leaves, agents, remarks),
                np.where(np.isfinite(reward), reward, np.nan),
                obs,
                layout.usual,
            ),
            Known(
                horizon,
                options.horizon,
                options.rollout_length,
                spec.max_return or MOST_RETURN.get(spec.family) if spec else None,
                options.flags,
                options.team_flags,
            ),
            remarks,
        )
        _check_lengths(found.count)
        remarks.append("policy_step is 0: which policy acted is not recorded")
        obs, mask, action, reward = (x.reshape(-1, *x.shape[2:]) for x in (obs, mask, action, reward))
        with np.errstate(over="ignore"):
            reward = reward.astype(np.float32)
        legal = np.take_along_axis(mask, action[..., None].clip(0, mask.shape[2] - 1), axis=2)[..., 0]
        bad = {
            "actions that are not legal": ~legal.all(1)
            | (action < 0).any(1)
            | (action >= mask.shape[2]).any(1),
            "observations or rewards that are not finite": ~np.isfinite(obs).all((1, 2))
            | ~np.isfinite(reward),
        }
        keep = _without(bad, found.first, remarks)
        columns = (obs, mask, action, reward, found.first, found.terminal, found.truncated, found.count)
        obs, mask, action, reward, first, terminal, truncated, count = (x[keep] for x in columns)
        raw, scale = _scaled(obs, spec, None if env is None else env.obs_scale, remarks)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    recording = Recording(
        raw,
        mask,
        action,
        reward,
        first,
        terminal,
        truncated,
        count,
        np.zeros(len(first), np.int32),
    )
    about = {
        "task": task,
        "horizon": horizon or int(count.max()) + 1,
        "obs_scale": scale,
        "provenance": {
            "converted from": f"{name} layout",
            "original metadata": metadata,
            "remarks": remarks,
        },
    }
    return Converted(recording, about, quality, remarks)


def names(path: Path, options: Options) -> tuple[str, str]:
    """(family/scenario, quality) of what is made of a vault; nothing is read. Raises UserError for an illegal name."""
    task, quality = _place(path, options.task)
    quality = options.quality or quality
    try:
        task_parts(task)
    except UserError as error:
        raise UserError(f"{path}: {error}; give --task family/scenario") from None
    try:
        return task, check_dataset(quality, "quality")
    except UserError as error:
        raise UserError(f"{path}: {error}; convert it by itself with --quality NAME") from None


def _place(path: Path, task: str | None) -> tuple[str, str]:
    """(family/scenario, quality) from the option and from where a vault lies."""
    above = path.parent
    if task is not None and "/" in task:
        return task, path.name
    family = task or above.parent.name
    if above.suffix == ".vlt" and family not in ("", ARCHIVE):
        return f"{family}/{above.stem}", path.name
    if task is None and above.name in FAMILIES:  # vaults/oryx/connector/con-5x5x3a
        return f"{above.name}/{path.name}", "oryx"
    raise UserError(f"{path}: which task is this? give --task family/scenario")


def _action(action: np.ndarray, agents: int) -> np.ndarray:
    """[B, T, N] int64; -1, which is never legal, where there is no number."""
    if action.ndim > 3 and action.shape[3:] != (1,):
        raise UserError("its actions are continuous; this library's are discrete")
    action = _real("actions", _per_agent("actions", action, agents))
    if action.shape[2] != agents:
        raise UserError(f"one action per step for {agents} agents; expected one of each")
    if action.dtype.kind == "f":
        action = np.where(np.isfinite(action), action, -1)
        if np.any(action != np.rint(action)):
            raise UserError("its actions are continuous; this library's are discrete")
    return np.clip(action.astype(np.float64), -1, 2**31).astype(np.int64)


def _team_reward(reward: np.ndarray, how: TeamReward | None, remarks: list[str]) -> np.ndarray:
    """[B, T] of [B, T, N or 1], not finite where one agent's is not."""
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


def _without_infinities(obs: np.ndarray, remarks: list[str]) -> np.ndarray:
    """A feature that is always -inf is how some sets pad observations of agents of different kinds; here it is 0."""
    padding = np.isneginf(obs).all((0, 1))
    if not padding.any():
        return obs
    remarks.append(f"{padding.mean():.1%} of all features are always -inf, taken for padding: set to 0")
    return np.where(padding, np.float32(0), obs)


def _without_ids(obs: np.ndarray, spec: TaskSpec | None, remarks: list[str]) -> np.ndarray:
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


def _mask(
    name: str, mask: np.ndarray | None, action: np.ndarray, spec: TaskSpec | None, remarks: list[str]
) -> np.ndarray:
    """[B, T, N, A]"""
    actions = spec.actions if spec else int(action.max()) + 1
    if mask is not None:
        mask = _features(name, _yes_or_no(name, mask))
        if mask.shape[:3] != action.shape:
            raise UserError(f"{name} of shape {mask.shape}; expected {action.shape} and actions")
        actions = mask.shape[3]
    if not 0 < actions <= _MOST_ACTIONS:
        raise UserError(f"actions 0 … {actions - 1}; a vault holds 0 … {_MOST_ACTIONS - 1}")
    if mask is not None:
        return mask
    remarks.append(f"legal actions are not recorded: all {actions} are taken to be legal")
    return np.ones((*action.shape, actions), bool)


def _check_sizes(spec: TaskSpec | None, obs: np.ndarray, mask: np.ndarray) -> None:
    if spec is None:
        return
    found, expected = (*obs.shape[2:], mask.shape[3]), (spec.agents, spec.obs, spec.actions)
    if found != expected:
        raise UserError(
            f"holds (agents, observation, actions) {found}, {spec.name} has {expected} here; if it is another task, "
            "name it with --task"
        )


def _check_lengths(count: np.ndarray) -> None:
    longest = int(count.max()) + 1
    if longest > _MOST_STEPS:
        raise UserError(
            f"an episode of {longest:,} steps; a vault holds episodes of at most {_MOST_STEPS:,}: mark a truncation at "
            "least that often before converting"
        )


def _without(bad: Mapping[str, np.ndarray], first: np.ndarray, remarks: list[str]) -> np.ndarray:
    """Which steps to keep: whole episodes go."""
    episode = np.cumsum(first) - 1
    dropped = np.zeros(episode[-1] + 1, bool)
    for what, at in bad.items():
        mine = np.unique(episode[at])
        if len(mine):
            remarks.append(f"dropped {len(mine)} of {len(dropped)} episodes for {what}")
            dropped[mine] = True
    if dropped.all():
        raise UserError(f"no episode is left: {'; '.join(remarks)}")
    return ~dropped[episode]


def _scaled(
    obs: np.ndarray, spec: TaskSpec | None, own: np.ndarray | None, remarks: list[str]
) -> tuple[np.ndarray, list[float]]:
    """Features as int8 and the scale that goes with them, or as float32 with 1 where that would lose something."""
    ones = np.ones(obs.shape[2], np.float32)
    known = {"": own, "raw integers": ones} if own is not None else {"": ones}
    if spec is not None and own is not None and spec.family == "connector":
        # The published sets divide cells by the squared grid size, which is the time limit.
        known["cells by the squared grid size"] = np.where(own == 1, ones, np.float32(1 / spec.horizon))
    # Integers first: small ones would also pass for multiples of a scale.
    for what, scale in sorted(known.items(), key=lambda item: item[0] != "raw integers"):
        raw = np.rint(obs / scale)
        # Within a rounding of float32: what is not the same number is stored as it is.
        if (np.abs(raw * scale - obs) <= 2**-22 * np.abs(obs)).all() and (np.abs(raw) <= 127).all():
            if what:
                remarks.append(
                    f"observations hold {what}: stored with the scale of {spec.name if spec else ''}"
                )
            if what.startswith("cells"):
                remarks.append(
                    "cells outside the grid, and targets of connected agents, stay coded as they were: in play agents "
                    "see another code there"
                )
            return raw.astype(np.int8), (ones if own is None else own).tolist()
    if spec is not None:
        remarks.append(f"observations are not those of {spec.name} here: stored as they are, float32")
    return obs, ones.tolist()
