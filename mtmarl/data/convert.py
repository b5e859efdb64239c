"""Vaults of other libraries in our schema, and what could not be known about them.

Three layouts of Flashbax vaults are read, told apart by their leaves. They differ in what a flag at step t says:

    OG-MARL          observations, actions, rewards, terminals, truncations   this step ended the episode
    Oryx Connector   obs.agents_view, obs.action_mask, action, reward, done   an episode begins with this step
    Mava recordings  observation, legal_action_mask, action, reward, done     this step ended the episode

Ours needs both: `first[t + 1] == terminal[t] | truncated[t]`.
"""

import json
import tempfile
from ast import literal_eval
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mtmarl.data import vault as vaults
from mtmarl.data.archives import MAX_BYTES, is_archive, unpack
from mtmarl.data.vault import METADATA, Recording
from mtmarl.envs.registry import FAMILIES, make_env
from mtmarl.errors import UserError
from mtmarl.types import TaskSpec

TeamReward = Literal["mean", "sum"]
# What a team's reward is where agents have their own, as the adapters of the families define it.
TEAM_REWARD: dict[str, TeamReward] = {"connector": "mean", "lbf": "sum"}
LAYOUTS = {
    "OG-MARL": {"observations", "actions", "rewards", "terminals", "truncations"},
    "Oryx": {"obs.agents_view", "obs.action_mask", "action", "reward", "done"},
    "Mava": {"observation", "legal_action_mask", "action", "reward", "done"},
}


# Where an archive is unpacked: not a name of a family.
_ARCHIVE = ".archive"


@dataclass(frozen=True)
class Options:
    """What a vault does not say about itself.

    task: family/scenario, or only the family, or nothing: the rest is taken from where the vault lies,
    `…/<family>/<scenario>.vlt/<uid>`. horizon: time limit in env steps.
    team_reward: how to make one reward of those of the agents, where they differ. rollout_length: of a Mava recording,
    env steps per write, after which a row goes on elsewhere.
    """

    task: str | None = None
    horizon: int | None = None
    team_reward: TeamReward | None = None
    rollout_length: int | None = None


class Converted(NamedTuple):
    """A vault in our schema, not written yet, and lines on what was dropped, assumed or unknown."""

    recording: Recording
    metadata: dict[str, Any]
    quality: str
    remarks: list[str]


@dataclass
class _Steps:
    """Steps one after the other: obs (S, N, O), mask (S, N, A) or None, action (S, N), reward (S, N) or (S,)."""

    obs: np.ndarray
    mask: np.ndarray | None
    action: np.ndarray
    reward: np.ndarray
    first: np.ndarray
    terminal: np.ndarray
    truncated: np.ndarray
    step_count: np.ndarray | None = None
    remarks: list[str] = field(default_factory=list)


# ----------------------------------------------------------------------------------------------- reading


@contextmanager
def found_vaults(source: Path, max_bytes: int = MAX_BYTES) -> Iterator[list[Path]]:
    """The Flashbax vaults in a folder or an archive; an archive is unpacked for the time being."""
    source = source.expanduser().resolve()
    if not source.exists():
        raise UserError(f"{source}: no such file or folder")
    with tempfile.TemporaryDirectory(prefix="mtmarl-") as scratch:
        root = unpack(source, Path(scratch) / _ARCHIVE, max_bytes) if is_archive(source) else source
        if not root.is_dir():
            raise UserError(f"{source}: neither a folder nor a zip or tar archive")
        found = sorted(file.parent for file in root.rglob(METADATA) if not file.is_symlink())
        if not found:
            raise UserError(f"{source}: no Flashbax vault in it (no {METADATA})")
        yield found


def read_flashbax(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All leaves of a Flashbax vault by dotted name, [B, T, …], and its metadata; NumPy only, no device."""
    try:
        metadata = json.loads((path / METADATA).read_text())
        shapes = dict(_flat(metadata["structure_shape"]))
        if int(metadata["version"]) != 1:
            raise UserError(f"{path}: vault layout {metadata['version']}; layout 1 can be read")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}/{METADATA}: not that of a Flashbax vault ({error!r})") from None
    try:
        steps = int(vaults.open_leaf(path, "vault_index").read().result()[0])
        rows = {name: literal_eval(shape)[0] for name, shape in shapes.items()}
        pending = {n: vaults.open_leaf(path, f"{n}.")[0:b, 0:steps].read() for n, b in rows.items()}
        leaves = {name: np.asarray(future.result()) for name, future in pending.items()}
    except (ValueError, OSError, IndexError, SyntaxError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0][:200]})") from None
    if steps < 1:
        raise UserError(f"{path}: is empty")
    return leaves, vaults.own_metadata(metadata)


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


# ------------------------------------------------------------------------------------------------ layouts


def _rows(x: np.ndarray) -> np.ndarray:
    """[B, T, …] as [B * T, …], one row after the other."""
    return x.reshape(-1, *x.shape[2:])


def _per_step(flag: np.ndarray) -> np.ndarray:
    """[B, T] or [B, T, N] as [S, N or 1] bool."""
    return _rows(flag).reshape(flag.shape[0] * flag.shape[1], -1).astype(bool)


def _any(flag: np.ndarray) -> np.ndarray:
    return np.asarray(flag.any(1))


def _all(flag: np.ndarray) -> np.ndarray:
    return np.asarray(flag.all(1))


def _ends(rows: int, steps: int, every: int | None = None) -> np.ndarray:
    """[B * T]: the last step of each row, and each `every` steps within it."""
    at = np.arange(1, steps + 1)
    last = (at == steps) if every is None else (at == steps) | (at % every == 0)
    return np.tile(last, rows)


def _begins(end: np.ndarray) -> np.ndarray:
    return np.append(True, end[:-1])


def _count(first: np.ndarray) -> np.ndarray:
    at = np.arange(len(first))
    return at - np.maximum.accumulate(np.where(first, at, 0))


def _og_marl(leaves: Mapping[str, np.ndarray], horizon: int | None, options: Options) -> _Steps:
    ended, cut = _per_step(leaves["terminals"]), _per_step(leaves["truncations"])
    terminal, end = _all(ended), _all(ended | cut)
    remarks = []
    uneven = int((_any(ended | cut) & ~end).sum())
    if uneven:
        remarks.append(f"at {uneven} steps only some agents have ended; an episode ends when all have")
    rows, steps = leaves["terminals"].shape[:2]
    every = None
    if not end.any():
        if horizon is None:
            raise UserError(
                "no step is marked as the end of an episode; give --horizon to cut it into episodes"
            )
        every = horizon
        remarks.append(f"no step is marked as the end of an episode: cut every {horizon} steps")
    end |= _ends(rows, steps, every)
    return _Steps(
        _rows(leaves["observations"]),
        _rows(leaves["infos.legals"]) if "infos.legals" in leaves else None,
        _rows(leaves["actions"]),
        _rows(leaves["rewards"]),
        _begins(end),
        terminal,
        end & ~terminal,
        remarks=remarks,
    )


def _oryx(leaves: Mapping[str, np.ndarray], horizon: int | None, options: Options) -> _Steps:
    """`done[t]`: reset before t. As in Oryx itself, the step before it is one after which nothing follows."""
    done = _any(_per_step(leaves["done"]))
    cut = _ends(*leaves["done"].shape[:2])
    ended = np.append(done[1:], False) & ~cut
    count, remarks = None, []
    if "obs.step_count" in leaves:
        count = _rows(leaves["obs.step_count"]).reshape(len(done), -1)[:, 0].astype(np.int64)
        if count[done].any():
            count = None
            remarks.append("obs.step_count is not 0 at the start of episodes: counted anew")
        else:
            jumps = np.append(np.diff(count) != 1, False) & ~ended & ~cut
            cut |= jumps
            if jumps.any():
                remarks.append(f"{int(jumps.sum())} times the recording jumps within an episode: cut there")
    return _by_horizon(leaves, "obs.agents_view", "obs.action_mask", ended, cut, count, horizon, remarks)


def _mava(leaves: Mapping[str, np.ndarray], horizon: int | None, options: Options) -> _Steps:
    """`done[t]`: step t ended the episode. A row holds rollouts of different moments, one after the other."""
    rows, steps = leaves["done"].shape[:2]
    if rows > 1 and options.rollout_length is None:
        raise UserError(
            f"{rows} rows hold rollouts of different moments one after the other; give their length, "
            "--rollout-length (Mava's system.rollout_length)"
        )
    end = _any(_per_step(leaves["done"]))
    cut = _ends(rows, steps, options.rollout_length)
    first, remarks = _begins(end | cut), []
    count, late_steps = _count(first), np.zeros(len(first), bool)
    if cut.sum() > 1:
        # A rollout may begin anywhere in an episode; counting from 1 keeps that one out of the whole episodes.
        length = np.diff(np.append(np.flatnonzero(first), len(first)))
        late = _begins(cut)[first] & (length < (horizon or length.max() + 1))
        late_steps = np.repeat(late, length)
        count = count + late_steps
        remarks.append(
            f"{int(late.sum())} rollouts may begin inside an episode: these are not whole episodes, and what ended "
            "them is not known"
        )
    return _by_horizon(
        leaves, "observation", "legal_action_mask", end, cut, count, horizon, remarks, late_steps
    )


def _by_horizon(
    leaves: Mapping[str, np.ndarray],
    obs: str,
    mask: str,
    ended: np.ndarray,
    cut: np.ndarray,
    count: np.ndarray | None,
    horizon: int | None,
    remarks: list[str],
    late: np.ndarray | None = None,
) -> _Steps:
    """One flag for both ends of an episode: at the horizon it was the time limit, before it the state.

    Of the `late` steps it is not known how long their episode had lasted; no value may rest on how that ended.
    """
    first = _begins(ended | cut)
    at = _count(first) if count is None else count
    limit = horizon or int(at.max()) + 1
    terminal = ended & (at + 1 < limit)
    if late is not None:
        terminal &= ~late
    if horizon is None:
        remarks.append(
            f"no horizon known: episodes of {limit} steps, the longest, are taken to end by the time limit"
        )
    return _Steps(
        _rows(leaves[obs]), _rows(leaves[mask]), _rows(leaves["action"]), _rows(leaves["reward"]),
        first, terminal, (ended | cut) & ~terminal, count, remarks,
    )  # fmt: skip


_READERS = {"OG-MARL": _og_marl, "Oryx": _oryx, "Mava": _mava}


def layout_of(leaves: Mapping[str, np.ndarray], where: Path) -> str:
    for layout, needs in LAYOUTS.items():
        if needs <= leaves.keys():
            return layout
    if set(Recording._fields) <= leaves.keys():
        raise UserError(f"{where}: is in the schema of this library already")
    raise UserError(
        f"{where}: holds {', '.join(sorted(leaves))}; layouts that can be read: "
        + "; ".join(f"{name} ({', '.join(sorted(needs))})" for name, needs in LAYOUTS.items())
    )


# -------------------------------------------------------------------------------------------- conversion


def convert(path: Path, options: Options = Options()) -> Converted:  # noqa: B008
    """One Flashbax vault of another library, read whole. UserError where something must be known and is not."""
    task, quality = _names(path, options.task)
    env = make_env(task) if task.partition("/")[0] in FAMILIES else None
    spec = env.spec if env else None
    leaves, metadata = read_flashbax(path)
    layout = layout_of(leaves, path)
    horizon = options.horizon or (spec.horizon if spec else None)
    try:
        steps = _READERS[layout](leaves, horizon, options)
        remarks = [*steps.remarks, "policy_step is 0: which policy acted is not recorded"]
        obs, action = np.asarray(steps.obs, np.float32), _action(steps.action)
        if obs.ndim != 3:
            raise UserError(f"observations of shape {obs.shape[1:]} per step; expected agents and features")
        reward = _team_reward(
            steps.reward, options.team_reward or TEAM_REWARD.get(task.partition("/")[0]), remarks
        )
        obs = _without_infinities(obs, remarks)
        obs = _without_ids(obs, spec, remarks)
        mask = _mask(steps.mask, action, spec, remarks)
        _check_sizes(spec, obs, mask)
        legal = np.take_along_axis(mask, action[..., None].clip(0, mask.shape[2] - 1), axis=2)[..., 0]
        bad = {
            "actions that are not legal": ~legal.all(1)
            | (action < 0).any(1)
            | (action >= mask.shape[2]).any(1),
            "observations or rewards that are not finite": ~np.isfinite(obs).all((1, 2))
            | ~np.isfinite(reward),
        }
        keep = _without(bad, steps.first, remarks)
        count = _count(steps.first) if steps.step_count is None else steps.step_count
        columns = (obs, mask, action, reward, steps.first, steps.terminal, steps.truncated, count)
        obs, mask, action, reward, first, terminal, truncated, count = (x[keep] for x in columns)
        raw, scale = _scaled(obs, spec, None if env is None else env.obs_scale, remarks)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    recording = Recording(
        raw,
        mask,
        action,
        reward.astype(np.float32),
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
            "converted from": f"{layout} layout",
            "original metadata": metadata,
            "remarks": remarks,
        },
    }
    return Converted(recording, about, quality, remarks)


def _names(path: Path, task: str | None) -> tuple[str, str]:
    """(family/scenario, quality) from the option and from where a vault lies."""
    above = path.parent
    if task is not None and "/" in task:
        return task, path.name
    family = task or above.parent.name
    if above.suffix == ".vlt" and family not in ("", _ARCHIVE):
        return f"{family}/{above.stem}", path.name
    if task is None and above.name in FAMILIES:  # vaults/oryx/connector/con-5x5x3a
        return f"{above.name}/{path.name}", "oryx"
    raise UserError(f"{path}: which task is this? give --task family/scenario")


def _action(action: np.ndarray) -> np.ndarray:
    """[S, N] int64."""
    if action.ndim == 3 and action.shape[2] == 1:
        action = action[..., 0]
    if action.ndim != 2 or (action.dtype.kind == "f" and (action != np.rint(action)).any()):
        raise UserError("its actions are continuous; this library's are discrete")
    return action.astype(np.int64)


def _team_reward(reward: np.ndarray, how: TeamReward | None, remarks: list[str]) -> np.ndarray:
    """[S] of [S] or [S, N]."""
    reward = np.asarray(reward, np.float32)
    if reward.ndim == 1:
        return reward
    if (reward == reward[:, :1]).all():
        return reward[:, 0]
    if how is None:
        raise UserError(
            "agents have rewards of their own; say what the team gets with --team-reward mean or sum"
        )
    remarks.append(f"agents have rewards of their own: the team gets their {how}")
    return reward.mean(1) if how == "mean" else reward.sum(1)


def _without_infinities(obs: np.ndarray, remarks: list[str]) -> np.ndarray:
    """-inf is how some sets pad observations of agents of different kinds; here padding is 0."""
    padding = np.isneginf(obs)
    if not padding.any():
        return obs
    remarks.append(f"{padding.mean():.1%} of all features are -inf, taken for padding: set to 0")
    return np.where(padding, np.float32(0), obs)


def _without_ids(obs: np.ndarray, spec: TaskSpec | None, remarks: list[str]) -> np.ndarray:
    """Without the one-hot agent numbers that some wrappers put before or after the features."""
    agents, width = obs.shape[1:]
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
    mask: np.ndarray | None, action: np.ndarray, spec: TaskSpec | None, remarks: list[str]
) -> np.ndarray:
    if mask is not None:
        return np.asarray(mask).astype(bool)
    actions = spec.actions if spec else int(action.max()) + 1
    remarks.append(f"legal actions are not recorded: all {actions} are taken to be legal")
    return np.ones((*action.shape, actions), bool)


def _check_sizes(spec: TaskSpec | None, obs: np.ndarray, mask: np.ndarray) -> None:
    if spec is None:
        return
    found, expected = (*obs.shape[1:], mask.shape[2]), (spec.agents, spec.obs, spec.actions)
    if found != expected:
        raise UserError(
            f"holds (agents, observation, actions) {found}, {spec.name} has {expected} here; if it is another task, "
            "name it with --task"
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
        if (np.abs(obs / scale - raw) < 1e-3).all() and (np.abs(raw) <= 127).all():
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
