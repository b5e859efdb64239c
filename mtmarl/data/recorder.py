"""Recording steps from a simulator's own loop. Finished episodes survive a kill."""

import io
import os
import re
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mtmarl.data import vault as vaults
from mtmarl.data.imports import make_vault
from mtmarl.data.vault.schema import MAX_ACTIONS, MAX_HORIZON
from mtmarl.errors import UserError
from mtmarl.files import locked, remove, write_whole

_PART = re.compile(r"episodes_(\d{6})\.npz")


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
        if not 1 <= horizon <= MAX_HORIZON:
            raise UserError(f"Recorder {task}: horizon {horizon}; it must lie in 1 … {MAX_HORIZON:,}")
        if flush_every < 1:
            raise UserError(f"Recorder {task}: flush_every {flush_every}; it must be at least 1")
        self._task, self._horizon, self._flush_every, self._replace = task, horizon, flush_every, replace
        self._path = vaults.vault_path(root, task, dataset)
        self._folder = self._path.with_name(f".{dataset}.recorded")
        if not self._folder.exists():
            vaults.check_free(self._path, replace)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self._folder / "lock", self._busy)
        self._lock.__enter__()
        self._parts = sorted(p for p in self._folder.iterdir() if _PART.fullmatch(p.name))
        self.episodes = sum(int(np.load(p)["ends"].sum()) for p in self._parts)
        self._sizes: tuple[int, int] | None = None
        self._buffer: list[dict[str, Any]] = []
        self._waiting, self._count = 0, 0

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
        if self._sizes is not None and obs.shape != self._sizes:
            raise UserError(f"{at}: obs has shape {obs.shape}, and had {self._sizes} before")
        if not (np.isfinite(obs).all() and np.isfinite(reward)):
            raise UserError(f"{at}: {'reward' if np.isfinite(obs).all() else 'obs'} is not finite")
        if action.dtype.kind not in "iu" or (action < 0).any() or (action >= MAX_ACTIONS).any():
            raise UserError(f"{at}: action {action.tolist()}; expected indices in 0 … {MAX_ACTIONS - 1}")
        mask = None if action_mask is None else np.asarray(action_mask, bool)
        if mask is not None and (mask.shape[:1] != action.shape or (action >= mask.shape[-1]).any()):
            raise UserError(f"{at}: action_mask has shape {mask.shape}; expected (agents, actions)")
        if mask is not None and not np.take_along_axis(mask, action[:, None], 1).all():
            raise UserError(f"{at}: action {action.tolist()} is not legal by action_mask")
        self._sizes, self._count = obs.shape, self._count + 1
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
        rows, self._buffer = self._buffer[:done], self._buffer[done:]
        masks = [("action_mask" in row) for row in rows]
        if any(masks) != all(masks):
            raise UserError(
                f"{self._task}: some steps have an action_mask and some have none; give all or none"
            )
        arrays: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        content = io.BytesIO()
        np.savez_compressed(content, **arrays, ends=arrays["terminated"] | arrays["truncated"])
        part = self._folder / f"episodes_{len(self._parts):06}.npz"
        write_whole(part, content.getvalue())
        self._parts.append(part)
        self._waiting = 0

    def save(self) -> Path:
        """Writes the vault of all finished episodes and returns its path. Recording may go on after it."""
        self._flush()
        if not self._parts:
            raise UserError(f"{self._task}: no finished episode to save; record more steps")
        parts = [dict(np.load(p)) for p in self._parts]
        names = parts[0].keys() - {"ends"}
        if any(p.keys() - {"ends"} != names for p in parts):
            raise UserError(
                f"{self._task}: some parts have an action_mask and some have none; remove {self._folder}"
            )
        arrays = {name: np.concatenate([p[name] for p in parts]) for name in names}
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
            self._lock.__exit__(None, None, None)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:  # Finished episodes stay on disk for the next recorder.
            self._flush()
            self._lock.__exit__(None, None, None)
