"""Recording steps from a simulator's own loop. Finished episodes survive a kill."""

import io
import os
import re
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mtmarl.data import vault as vaults
from mtmarl.data.imports import check_horizon, make_vault
from mtmarl.data.vault.schema import MAX_ACTIONS
from mtmarl.errors import UserError
from mtmarl.files import locked, remove, write_whole

_PART = re.compile(r"episodes_\d{6}\.npz")
_SHAPED = ("obs", "action_mask")


def _read(part: Path) -> dict[str, np.ndarray]:
    try:
        # From memory: NumPy leaves a damaged file open.
        with np.load(io.BytesIO(part.read_bytes()), allow_pickle=False) as stored:
            return {name: stored[name] for name in (*stored.files, "ends")}
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy raises errors of many types for damaged files.
        raise UserError(
            f"{part}: cannot be read ({' '.join(str(error).split())[:160]}); restore or remove it"
        ) from None


class Recorder:
    """Records one task (family/scenario) step by step, and writes a vault.

        with mtmarl.Recorder("vaults", "sim/n3", horizon=40) as recorder:
            obs = simulator.reset()
            while ...:
                action = ...
                following, reward, terminated, truncated = simulator.step(action)
                recorder.step(obs, action, reward, terminated=terminated, truncated=truncated)
                obs = following if not (terminated or truncated) else simulator.reset()

    Finished episodes are on disk after every `flush_every` of them. If the process is killed, a new recorder with the
    same arguments goes on from there; what was recorded of an unfinished episode is lost. `save()` writes the vault of
    all episodes so far, and the end of the `with` block does so too. Raises UserError where a value is wrong, with step
    and field; the step is then not recorded.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        task: str,
        horizon: int,
        *,
        dataset: str = "replay",
        flush_every: int = 10,
        replace: bool = False,
    ):
        check_horizon(f"Recorder {task}", horizon)
        if flush_every < 1:
            raise UserError(f"Recorder {task}: flush_every {flush_every}; it must be at least 1")
        self._task, self._horizon, self._flush_every = task, horizon, flush_every
        self._path = vaults.vault_path(root, task, dataset)
        self._folder = self._path.with_name(f".{dataset}.recorded")
        if not self._folder.exists():
            vaults.check_free(self._path, replace)
        self._folder.mkdir(parents=True, exist_ok=True)
        self.episodes, self._waiting, self._count = 0, 0, 0
        self._shapes: dict[str, tuple[int, ...]] = {}  # of what every step has
        self._buffer: list[dict[str, Any]] = []
        with ExitStack() as lock:
            lock.enter_context(locked(self._folder / "lock", self._busy))
            self._parts = sorted(p for p in self._folder.iterdir() if _PART.fullmatch(p.name))
            for arrays in map(_read, self._parts):
                self.episodes += int(arrays["ends"].sum())
                self._shapes = {name: arrays[name].shape[1:] for name in _SHAPED if name in arrays}
            self._lock = lock.pop_all()

    def _busy(self) -> None:
        raise UserError(f"{self._path}: another process records it; give another dataset")

    def step(
        self,
        obs: Any,
        action: Any,
        reward: float,
        *,
        action_mask: Any = None,
        terminated: bool = False,
        truncated: bool = False,
    ) -> None:
        """Records one step: what the agents saw [N, O], what they did [N], the team reward that followed.

        action_mask: [N, A] legal actions; None: all. terminated: the step ended the episode by its state; truncated: by
        a time limit. A step is truncated at `horizon` by itself.
        """
        obs, action, at = np.asarray(obs), np.asarray(action), f"{self._task}: step {self._count}"
        if obs.ndim != 2 or action.shape != obs.shape[:1]:
            raise UserError(
                f"{at}: obs has shape {obs.shape} and action {action.shape}; expected (agents, features) and (agents,)"
            )
        if obs.shape != (before := self._shapes.get("obs", obs.shape)):
            raise UserError(f"{at}: obs has shape {obs.shape}, and had {before} before")
        if not (np.isfinite(obs).all() and np.isfinite(reward)):
            raise UserError(f"{at}: {'reward' if np.isfinite(obs).all() else 'obs'} is not finite")
        if action.dtype.kind not in "iu" or (action < 0).any() or (action >= MAX_ACTIONS).any():
            raise UserError(f"{at}: action {action.tolist()}; expected indices in 0 … {MAX_ACTIONS - 1}")
        mask = None if action_mask is None else np.asarray(action_mask, bool)
        if mask is not None and (mask.shape[:1] != action.shape or (action >= mask.shape[-1]).any()):
            raise UserError(f"{at}: action_mask has shape {mask.shape}; expected (agents, actions)")
        if mask is not None and not np.take_along_axis(mask, action[:, None], 1).all():
            raise UserError(f"{at}: action {action.tolist()} is not legal by action_mask")
        shapes = {"obs": obs.shape} | ({} if mask is None else {"action_mask": mask.shape})
        if self._shapes and shapes != self._shapes:
            given, before = (x.get("action_mask", "none") for x in (shapes, self._shapes))
            raise UserError(f"{at}: action_mask has shape {given}, and had {before} before")
        self._shapes, self._count = shapes, self._count + 1
        truncated = (truncated or self._count == self._horizon) and not terminated
        row = {
            "obs": obs,
            "action": action,
            "reward": float(reward),
            "terminated": terminated,
            "truncated": truncated,
        }
        self._buffer.append(row if mask is None else {**row, "action_mask": mask})
        if terminated or truncated:
            self._count, self._waiting, self.episodes = 0, self._waiting + 1, self.episodes + 1
            if self._waiting >= self._flush_every:
                self._flush()

    def _flush(self) -> None:
        """Writes the finished episodes that are in memory only."""
        done = len(self._buffer) - self._count
        if not done:
            return
        rows = self._buffer[:done]
        arrays: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        content = io.BytesIO()
        np.savez_compressed(content, **arrays, ends=arrays["terminated"] | arrays["truncated"])
        number = int(self._parts[-1].stem.removeprefix("episodes_")) + 1 if self._parts else 0
        part = self._folder / f"episodes_{number:06}.npz"
        write_whole(part, content.getvalue())
        self._parts.append(part)
        self._buffer, self._waiting = self._buffer[done:], 0

    def save(self) -> Path:
        """Writes the vault of all finished episodes and returns its path. Recording may go on after it."""
        self._flush()
        if not self._parts:
            raise UserError(f"{self._task}: no finished episode to save; record more steps")
        parts = [_read(part) for part in self._parts]
        arrays = {name: np.concatenate([p[name] for p in parts]) for name in parts[0].keys() - {"ends"}}
        vaults.add_vault(self._path, *make_vault(self._task, arrays, self._horizon, f"Recorder {self._task}"))
        return self._path

    def close(self) -> None:
        """Saves the vault, if there is an episode, and removes the parts."""
        try:
            self._flush()
            if self._parts:
                self.save()
            remove(self._folder)
        finally:
            self._lock.close()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:  # Finished episodes stay on disk for the next recorder.
            self._flush()
            self._lock.close()
