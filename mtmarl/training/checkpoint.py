"""Saves and loads training states and policies. The only module that imports Orbax.

<run>/checkpoints/<update>/     complete training states; the newest two are kept
<run>/policy_best/  policy_last/   parameters only
<run>/run.json                  the task set and settings of the parameters

Each saved directory has checksums.json with the SHA-256 of its files (missing if an earlier version wrote it).
"""

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint._src.serialization import tensorstore_utils

from mtmarl.errors import UserError
from mtmarl.files import files_below, store_errors, write_json

CHECKSUMS = "checksums.json"
REMEDY = "use another run_dir, or remove all checkpoints to start again"

# Orbax logs every save and every error that it also raises.
logging.getLogger("absl").setLevel(logging.CRITICAL)


def _abstract(tree: Any) -> Any:
    return jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)


@contextmanager
def _uncounted() -> Iterator[None]:
    """Disables the byte counts that Orbax logs: TensorStore 0.1.86 leaks 20 kB per count, several times per save."""
    count = getattr(tensorstore_utils, "get_tensorstore_raw_bytes", None)
    if count is None:
        yield
        return
    tensorstore_utils.get_tensorstore_raw_bytes = lambda *args, **kwargs: 0
    try:
        yield
    finally:
        tensorstore_utils.get_tensorstore_raw_bytes = count


@contextmanager
def _saving(place: Path) -> Iterator[None]:
    """Raises one OSError if Orbax cannot write to `place`.

    Orbax's unfinished tasks would print the same error again, with tracebacks, when they end or are collected.
    """
    uncaught, unraisable = sys.excepthook, sys.unraisablehook
    of_task = lambda error: isinstance(error, RuntimeError | ImportError)
    sys.excepthook = lambda kind, error, trace: None if of_task(error) else uncaught(kind, error, trace)
    sys.unraisablehook = lambda args: None if of_task(args.exc_value) else unraisable(args)
    try:
        with _uncounted(), store_errors(place):
            yield
    except OSError:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
        raise
    sys.excepthook, sys.unraisablehook = uncaught, unraisable


class Damaged(UserError):
    """A checkpoint that cannot be read; an older one may be intact."""


def _digests(directory: Path) -> dict[str, str]:
    files = [f for f in files_below(directory) if f.name != CHECKSUMS]
    digest = lambda f: hashlib.sha256(f.read_bytes()).hexdigest()
    return {f.relative_to(directory).as_posix(): digest(f) for f in files}


def _seal(directory: Path) -> None:
    write_json(directory / CHECKSUMS, _digests(directory))


def _damage(directory: Path) -> str | None:
    """Returns the first file whose checksum differs. Returns None if all match or no checksums were saved."""
    file = directory / CHECKSUMS
    if not file.exists():
        return None
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        now = _digests(directory)
        return next((name for name in sorted({*saved, *now}) if saved.get(name) != now.get(name)), None)
    except (UserError, OSError, ValueError, TypeError, AttributeError, RecursionError):
        return CHECKSUMS


class Checkpoints:
    """The checkpoints of one run. Saves are atomic: after a crash the previous checkpoint is intact."""

    def __init__(self, run_dir: Path):
        self.directory = Path(run_dir).resolve() / "checkpoints"
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, update: int, state: Any) -> None:
        with _saving(self.directory / str(update)):
            self._manager.save(update, args=ocp.args.StandardSave(state), force=True)
        if jax.process_index() == 0:
            _seal(self.directory / str(update))

    def updates(self) -> list[int]:
        """Returns the updates of the complete checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """Returns the update of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def rewind(self, update: int) -> None:
        """Removes the checkpoints after this update."""
        for later in (u for u in self.updates() if u > update):
            self._manager.delete(later)

    def restore(self, like: Any, update: int) -> Any:
        """Returns the state after `update` updates with the shapes and sharding of `like`. Raises Damaged."""
        place = self.directory / str(update)
        if (file := _damage(place)) is not None:
            raise Damaged(f"{place}: this checkpoint is damaged ({file} is not as it was saved); {REMEDY}")
        try:
            return self._manager.restore(update, args=ocp.args.StandardRestore(_abstract(like)))
        except Exception as e:  # Orbax raises many types of errors for damaged files.
            raise Damaged(
                f"{place}: this checkpoint is damaged, or does not fit this algorithm and task set "
                f"({_first_line(e)}); {REMEDY}"
            ) from e

    def close(self) -> None:
        self._manager.close()


def newest_whole(
    runs: Sequence[tuple[Checkpoints, Any]], choose: Callable[[Sequence[Sequence[int]]], int | None]
) -> tuple[int | None, list[Any], list[str]]:
    """Returns (update, states, damage messages) of the newest checkpoint that all runs can read.

    runs: pairs (checkpoints, like). choose: selects the update from the updates of each run; None starts anew. Later
    checkpoints are removed when all states are read. Raises Damaged if no checkpoint is intact.
    """
    updates, damaged = [c.updates() for c, _ in runs], []
    while (update := choose(updates)) is not None:
        try:
            states = [c.restore(like, update) for c, like in runs]
        except Damaged as error:
            damaged.append(str(error).rpartition("; ")[0])
            updates = [[u for u in own if u < update] for own in updates]
            if not all(updates):
                raise
            continue
        for checkpoints, _ in runs:
            checkpoints.rewind(update)
        return update, states, damaged
    return None, [], damaged


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:160] if str(error).strip() else type(error).__name__


@contextmanager
def _alone() -> Iterator[ocp.StandardCheckpointer]:
    """Yields a checkpointer that does not synchronise with other processes of the run."""
    options = {}
    if jax.process_count() > 1:
        own = jax.process_index()
        options["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
            primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"params-{own}"
        )
    with ocp.StandardCheckpointer(**options) as checkpointer:
        yield checkpointer


def save_params(path: Path, params: Any) -> None:
    """Saves parameters. It replaces existing ones only after the new ones are complete."""
    path = Path(path).resolve()
    fresh, old = _aside(path)
    if _newest(path) == fresh:
        fresh.rename(path)
    _remove(old)
    _remove(fresh)
    try:
        with _saving(path), _alone() as checkpointer:
            checkpointer.save(fresh, params)
        _seal(fresh)
    except OSError:
        _remove(fresh)
        raise
    if path.exists():
        path.rename(old)
    fresh.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _remove(path: Path) -> None:
    """Removes saved parameters and their incomplete temporary copies."""
    for place in (path, *path.parent.glob(f"{escape(path.name)}.orbax-checkpoint-tmp*")):
        shutil.rmtree(place, ignore_errors=True)


def _aside(path: Path) -> tuple[Path, Path]:
    """Returns the temporary paths of the new and the replaced parameters."""
    return path.with_name(path.name + ".new"), path.with_name(path.name + ".old")


def _newest(path: Path) -> Path:
    """Returns the path of the parameters: a process killed between the two renames leaves them at the new path."""
    fresh, old = _aside(path)
    return fresh if not path.exists() and old.exists() and fresh.exists() else path


def names(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a pytree by name, such as encoder_0/norm1/scale."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _saved(checkpointer: ocp.StandardCheckpointer, path: Path) -> Any:
    if not path.is_dir():
        raise UserError(f"{path}: no saved policy here; give the directory of a run that has one")
    if (file := _damage(path)) is not None:
        raise _damaged(path, f" ({file} is not as it was saved)")
    try:
        return checkpointer.metadata(path).item_metadata.tree  # pyright: ignore[reportOptionalMemberAccess]
    except Exception as error:  # Orbax raises many types of errors for damaged files.
        raise _damaged(path) from error


def _read(checkpointer: ocp.StandardCheckpointer, path: Path, shapes: Any) -> Any:
    """Raises UserError if the parameters cannot be read or are not finite."""
    try:
        params = checkpointer.restore(path, shapes)
    except Exception as error:
        raise _damaged(path) from error
    for name, value in names(params).items():
        if not np.isfinite(np.asarray(value, np.float64)).all():
            raise UserError(f"{path}: parameter {name} is not finite; its run diverged: use another policy")
    return params


def _damaged(path: Path, how: str = "") -> UserError:
    return UserError(f"{path}: this policy is not whole{how}; copy it again")


def load_params(path: Path, like: Any) -> Any:
    """Returns saved parameters with the shapes of `like`. Raises UserError, which names the first leaf that differs."""
    path = _newest(Path(path).resolve())
    with _alone() as checkpointer:
        want = {name: v.shape for name, v in names(like).items()}
        have = {name: tuple(v.shape) for name, v in names(_saved(checkpointer, path)).items()}
        for name in sorted(want.keys() | have.keys()):
            if want.get(name) != have.get(name):
                raise UserError(
                    f"{path}: parameter {name} has shape {have.get(name)}, this task needs {want.get(name)}"
                )
        return _read(checkpointer, path, _abstract(like))


class Matching(NamedTuple):
    """params: saved parameters that match by name and shape. fresh: names without a match. unused: saved names left."""

    params: Mapping[str, np.ndarray]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]


def load_matching(path: Path, like: Any, anew: Sequence[str] = ()) -> Matching:
    """Returns the saved parameters that match `like` by name and shape, except those of the modules `anew`."""
    path = _newest(Path(path).resolve())
    with _alone() as checkpointer:
        saved = _saved(checkpointer, path)
        shapes = jax.tree.map(lambda v: jax.ShapeDtypeStruct(tuple(v.shape), v.dtype), saved)
        have = names(_read(checkpointer, path, shapes))
    want = names(like)
    same = lambda name, v: name in want and v.shape == want[name].shape
    kept = {name: v for name, v in have.items() if name.partition("/")[0] not in anew}
    fits = {name: np.asarray(v) for name, v in kept.items() if same(name, v)}
    rest = lambda tree: tuple(name for name in tree if name not in fits)
    return Matching(fits, rest(want), rest(have))
