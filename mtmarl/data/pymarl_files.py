"""Episodes as PyMARL's buffer holds them, in HDF5 files: the data of ODIS and its successors (`part_*.h5`).

obs [E, T, N, O], actions [E, T, N, 1], avail_actions [E, T, N, A], reward, terminated and filled [E, T, 1]. `state` is
not used. Some files hold one step more per episode, the observation after the last action; whether they do is read off
the flags: an episode that is filled beyond its termination, or longer than the time limit, does.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mtmarl.errors import UserError

NEEDED = ("obs", "actions", "reward", "terminated", "filled")


def read(place: Path, horizon: int | None) -> dict[str, np.ndarray]:
    """The arrays of `make_vault` from a file, or from all `part_*.h5` of a folder in the order of their numbers."""
    try:
        import h5py
    except ImportError:
        raise UserError(f"{place}: HDF5 needs h5py: pip install 'mtmarl[hdf5]'") from None
    number = lambda file: (len(file.stem), file.stem)
    files = sorted(place.glob("part_*.h5"), key=number) if place.is_dir() else [place]
    if not files:
        raise UserError(f"{place}: no part_*.h5 here; give a file or a folder that has some")
    parts = []
    for file in files:
        try:
            with h5py.File(file, "r") as stored:
                if missing := [name for name in NEEDED if name not in stored]:
                    raise UserError(
                        f"{file}: no {missing[0]}; it has {', '.join(sorted(stored)) or 'nothing'}"
                    )
                arrays = {name: stored[name] for name in (*NEEDED, "avail_actions") if name in stored}
                parts.append({name: np.asarray(array) for name, array in arrays.items()})
        except OSError as error:
            raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())[:160]})") from None
        _check(file, parts[-1])
    extra = _extra_step(place, parts, horizon)
    flat = [_steps(part, extra) for part in parts]
    if any(p.keys() != flat[0].keys() for p in flat):
        raise UserError(f"{place}: some parts have avail_actions and some have none; import them apart")
    return {name: np.concatenate([p[name] for p in flat]) for name in flat[0]}


def _check(file: Path, part: dict[str, np.ndarray]) -> None:
    if part["obs"].ndim != 4:
        raise UserError(
            f"{file}: obs has shape {part['obs'].shape}; expected (episodes, steps, agents, features)"
        )
    episodes, steps, agents, _ = part["obs"].shape
    expected: dict[str, tuple[Any, ...]] = {
        "actions": (episodes, steps, agents, 1), "avail_actions": (episodes, steps, agents, None),
        "reward": (episodes, steps, 1), "terminated": (episodes, steps, 1), "filled": (episodes, steps, 1),
    }  # fmt: skip
    for name, want in expected.items():
        shape = part[name].shape if name in part else want
        if len(shape) != len(want) or any(w not in (None, n) for n, w in zip(shape, want, strict=True)):
            raise UserError(f"{file}: {name} has shape {shape}; obs of {part['obs'].shape} needs {want}")
    filled = part["filled"][..., 0] > 0
    gap = filled[:, 1:] & ~filled[:, :-1]
    if gap.any():
        e, t = np.argwhere(gap)[0]
        raise UserError(f"{file}: filled[{e}, {t + 1}] follows a step that is not filled; drop the episode")


def _extra_step(place: Path, parts: list[dict[str, np.ndarray]], horizon: int | None) -> bool:
    """Whether the last filled step of each episode is an observation without an action."""
    beyond, longest = [], 0
    for part in parts:
        filled, over = part["filled"][..., 0] > 0, part["terminated"][..., 0] > 0
        longest = max(longest, int(filled.sum(1).max(initial=0)))
        after = np.cumsum(over, axis=1)[:, :-1] > 0
        beyond += (filled[:, 1:] & after).sum(1)[over.any(1)].tolist()
    if any(n > 1 for n in beyond):
        raise UserError(
            f"{place}: an episode goes on for more than one step after it terminated; correct the flags"
        )
    if beyond and any(beyond) and not all(beyond):
        raise UserError(
            f"{place}: some episodes have a step after termination and some have none; import them apart"
        )
    if beyond:
        return bool(beyond[0])
    if horizon is None:
        raise UserError(f"{place}: no episode terminates; give --horizon, which tells how long an episode is")
    if longest > horizon + 1:
        raise UserError(f"{place}: an episode has {longest} steps; horizon {horizon} is too small")
    return longest == horizon + 1


def _steps(part: dict[str, np.ndarray], extra: bool) -> dict[str, np.ndarray]:
    """The recorded steps one after the other, with flags at the end of each episode."""
    filled = part["filled"][..., 0] > 0
    count = filled.sum(1) - extra
    keep = np.arange(filled.shape[1]) < count[:, None]
    last = np.arange(filled.shape[1]) == count[:, None] - 1
    terminated = part["terminated"][..., 0] > 0
    arrays = {
        "obs": part["obs"], "action": part["actions"][..., 0], "reward": part["reward"][..., 0],
        "terminated": terminated, "truncated": last & ~terminated,
    }  # fmt: skip
    if "avail_actions" in part:
        arrays["action_mask"] = part["avail_actions"]
    return {name: array[keep] for name, array in arrays.items()}
