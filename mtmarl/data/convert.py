"""Vaults of other libraries in our schema, and what could not be known about them.

Three layouts of Flashbax vaults are read, told apart by their leaves:

    OG-MARL          observations, actions, rewards, terminals, truncations    a flag at a step: it ended the episode
    Oryx Connector   obs.agents_view, obs.action_mask, action, reward, done    an episode ended, or begins
    Mava recordings  observation, legal_action_mask, action, reward, done      an episode ended, or begins

`data.boundaries` decides where episodes begin and end. Ours needs both: `first[t + 1] == terminal[t] | truncated[t]`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mtmarl import terminal
from mtmarl.data import boundaries, foreign_arrays
from mtmarl.data import vault as vaults
from mtmarl.data.boundaries import Known, Meaning, Recorded, Team
from mtmarl.data.flashbax import ARCHIVE, found_vaults, read_flashbax
from mtmarl.data.foreign_arrays import boolean, per_agent, real
from mtmarl.data.vault import Recording
from mtmarl.data.vault.schema import MAX_HORIZON
from mtmarl.envs.api import Family, TeamReward
from mtmarl.envs.registry import families, get_family, make_env
from mtmarl.errors import UserError, each_of
from mtmarl.task_names import check_dataset, task_parts
from mtmarl.types import TaskSpec


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


# -------------------------------------------------------------------------------------------- conversion


def check_names(task: str | None, quality: str | None) -> None:
    """Raises UserError unless the names that are given may name a task (or a family) and a vault."""
    if task is not None:
        task_parts(task if "/" in task else f"{task}/any")
    if quality is not None:
        check_dataset(quality, "quality")


def convert_all(
    source: Path,
    root: Path,
    options: Options,
    *,
    replace: bool = False,
    max_bytes: int,
    say: Callable[[str], object] = terminal.say,
) -> None:
    """Converts the Flashbax vaults in a folder or an archive to vaults below a root, each whole or not at all.

    A vault that cannot be converted does not stop the others. Raises UserError if any was not converted.
    """
    check_names(options.task, options.quality)
    made: dict[Path, Path] = {}

    def one(path: Path) -> None:
        place = vaults.vault_path(root, *names(path, options))
        if place in made:
            raise UserError(
                f"{path}: would become {place}, as {made[place]} has; convert one at a time with --quality"
            )
        done = convert(path, options)
        say(vaults.add_once(place, done.recording, done.metadata, replace))
        made[place] = path
        for remark in done.remarks:
            say(f"  {remark}")

    with found_vaults(source, max_bytes) as found:
        if options.quality and len(found) > 1:
            raise UserError(f"{source}: holds {len(found)} vaults; --quality names one")
        each_of(found, one, source, "vaults", "converted")


def convert(path: Path, options: Options = Options()) -> Converted:  # noqa: B008
    """One Flashbax vault of another library, read whole. UserError where something must be known and is not."""
    task, quality = names(path, options)
    family = get_family(task.partition("/")[0])
    spec = make_env(task).spec if family.make else None
    leaves, metadata = read_flashbax(path)
    layout = layout_of(leaves, path)
    if not any(leaf[:, -1].any() for leaf in leaves.values()):
        raise UserError(
            f"{path}: all arrays are zero at the last step: it was never written; correct vault_index"
        )
    remarks: list[str] = []
    try:
        recording, scale = _converted(leaves, LAYOUTS[layout], family, spec, options, remarks)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    horizon = options.horizon or (spec.horizon if spec else None)
    about = {
        "task": task,
        "horizon": horizon or int(recording.step_count.max()) + 1,
        "obs_scale": scale,
        "provenance": {
            "converted from": f"{layout} layout",
            "original metadata": metadata,
            "remarks": remarks,
        },
    }
    return Converted(recording, about, quality, remarks)


def _converted(
    leaves: Mapping[str, np.ndarray],
    layout: _Layout,
    family: Family,
    spec: TaskSpec | None,
    options: Options,
    remarks: list[str],
) -> tuple[Recording, list[float]]:
    """The recording and the scale of its observations."""
    if len({leaves[leaf].shape[:2] for leaf in layout.needs}) > 1:
        raise UserError("its arrays differ in the number of rows")
    obs = foreign_arrays.features(
        layout.obs, foreign_arrays.float32("observations", leaves[layout.obs], remarks)
    )
    agents = obs.shape[2]
    action = foreign_arrays.discrete(leaves[layout.action], agents)
    own_reward = per_agent(layout.reward, real(layout.reward, leaves[layout.reward]), agents)
    foreign_arrays.float32("rewards", own_reward, remarks)
    reward = foreign_arrays.team_reward(own_reward, options.team_reward or family.team_reward, remarks)
    flags = [
        np.broadcast_to(per_agent(leaf, boolean(leaf, leaves[leaf]), agents), action.shape)
        for leaf in (layout.ended, layout.cut)
        if leaf
    ]
    obs = foreign_arrays.without_padding(obs, remarks)
    obs = foreign_arrays.without_agent_ids(obs, spec, remarks)
    mask = foreign_arrays.action_mask(layout.mask, leaves.get(layout.mask), action, spec, remarks)
    foreign_arrays.check_sizes(spec, obs, mask)
    found = boundaries.decide(
        Recorded(
            flags[0],
            flags[1] if layout.cut else None,
            foreign_arrays.step_counts(leaves, agents, remarks),
            np.where(np.isfinite(reward), reward, np.nan),
            obs,
            layout.usual,
        ),
        Known(
            options.horizon or (spec.horizon if spec else None),
            options.horizon,
            options.rollout_length,
            family.max_return,
            options.flags,
            options.team_flags,
        ),
        remarks,
    )
    longest = int(found.count.max()) + 1
    if longest > MAX_HORIZON:
        raise UserError(
            f"an episode of {longest:,} steps; a vault holds episodes of at most {MAX_HORIZON:,}: mark a truncation at "
            "least that often before converting"
        )
    remarks.append("policy_step is 0: which policy acted is not recorded")
    obs, mask, action, reward = (x.reshape(-1, *x.shape[2:]) for x in (obs, mask, action, reward))
    with np.errstate(over="ignore"):
        reward = reward.astype(np.float32)
    outside = (action < 0) | (action >= mask.shape[2])
    legal = np.take_along_axis(mask, action[..., None].clip(0, mask.shape[2] - 1), axis=2)[..., 0]
    bad = {
        "actions that are not legal": (outside | ~legal).any(1),
        "observations or rewards that are not finite": ~np.isfinite(obs).all((1, 2)) | ~np.isfinite(reward),
    }
    keep = _without(bad, found.first, remarks)
    raw, scale = foreign_arrays.scaled(obs[keep], family, spec, remarks)
    columns = (mask, action, reward, found.first, found.terminal, found.truncated, found.count)
    return Recording._make((raw, *(x[keep] for x in columns), np.zeros(len(raw), np.int32))), scale


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
    if task is None and above.name in families():  # vaults/oryx/connector/con-5x5x3a
        return f"{above.name}/{path.name}", "oryx"
    raise UserError(f"{path}: which task is this? give --task family/scenario")


def _without(bad: Mapping[str, np.ndarray], first: np.ndarray, remarks: list[str]) -> np.ndarray:
    """Steps to keep, without the episodes that hold a bad one."""
    episode = np.cumsum(first) - 1
    dropped = np.zeros(episode[-1] + 1, bool)
    for what, at in bad.items():
        found = np.unique(episode[at])
        if len(found):
            remarks.append(f"dropped {len(found)} of {len(dropped)} episodes for {what}")
            dropped[found] = True
    if dropped.all():
        raise UserError(f"no episode is left: {'; '.join(remarks)}")
    return ~dropped[episode]
