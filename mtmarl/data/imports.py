"""Own data: arrays of a simulator, or files with such arrays, as vaults. The family need not have an environment.

Values are checked, never repaired: the first bad one is named by array and index, and nothing is written.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict
from zipfile import is_zipfile

import numpy as np

from mtmarl import records, terminal
from mtmarl.data import pymarl_files
from mtmarl.data import vault as vaults
from mtmarl.data.boundaries import counted
from mtmarl.data.features import encode
from mtmarl.data.foreign_arrays import check_sizes
from mtmarl.data.vault import Recording, checks
from mtmarl.data.vault.checks import check_none
from mtmarl.data.vault.schema import MAX_ACTIONS, MAX_HORIZON, Dims
from mtmarl.envs.registry import get_family, make_env
from mtmarl.errors import UserError, each_of
from mtmarl.parsing import convert
from mtmarl.task_names import check_dataset, task_parts
from mtmarl.types import TaskSpec

FIELDS = ("obs", "action", "reward", "episode", "terminated", "truncated", "action_mask")
_NEEDED = FIELDS[:3]


class _Exported(TypedDict):
    """Metadata that an export must have."""

    obs_scale: list[float]
    dims: Dims


def write_vault(
    root: str | os.PathLike,
    task: str,
    *,
    obs: Any,
    action: Any,
    reward: Any,
    episode: Any = None,
    terminated: Any = None,
    truncated: Any = None,
    action_mask: Any = None,
    horizon: int | None = None,
    dataset: str = "replay",
    replace: bool = False,
) -> Path:
    """Writes recorded steps of one task (family/scenario) as a vault below `root`, and lists it; returns its path.

    Shapes: obs [S, N, O], action [S, N] (indices), reward [S] of the team, action_mask [S, N, A] (default: all legal),
    terminated and truncated [S], the last step of an episode by its state or by a cut; episode [S], a number that
    changes with every episode. Give `episode`, flags, or both. An episode of `horizon` steps ends by the time limit.
    One that `episode` ends earlier is terminated, unless flags are given. Observations are stored as int8 if no value
    changes, else as float32. Raises a UserError that names array and index; then nothing is written.
    """
    path = vaults.vault_path(root, task, dataset)
    columns = {
        "episode": episode, "terminated": terminated, "truncated": truncated, "action_mask": action_mask,
    }  # fmt: skip
    given = {name: value for name, value in columns.items() if value is not None}
    recording, metadata = make_vault(task, {"obs": obs, "action": action, "reward": reward, **given}, horizon)
    vaults.add_vault(vaults.check_free(path, replace), recording, metadata)
    return path


def make_vault(
    task: str, arrays: Mapping[str, Any], horizon: int | None = None, where: Any = None
) -> tuple[Recording, dict[str, Any]]:
    """A recording and its metadata from arrays named as in `write_vault`, not written yet. Raises UserError."""
    where = where or f"write_vault {task}"
    if horizon is not None:
        check_horizon(where, horizon)
    if missing := [name for name in _NEEDED if name not in arrays]:
        raise UserError(f"{where}: no {missing[0]}; it has {', '.join(arrays) or 'nothing'}")
    read = {name: _numbers(where, name, value) for name, value in arrays.items()}
    if read["obs"].ndim != 3 or 0 in read["obs"].shape:
        raise UserError(f"{where}: obs has shape {read['obs'].shape}; expected (steps, agents, features)")
    steps, agents, _ = read["obs"].shape
    shapes = {"action": (steps, agents), "action_mask": (steps, agents, None)}
    for name in read.keys() - {"obs"}:
        shape, expected = read[name].shape, shapes.get(name, (steps,))
        wrong = len(shape) != len(expected) or any(
            e not in (None, n) for n, e in zip(shape, expected, strict=True)
        )
        if wrong or 0 in shape:
            sizes = ", ".join("actions" if e is None else str(e) for e in expected)
            raise UserError(f"{where}: {name} has shape {shape}; obs of {read['obs'].shape} needs ({sizes})")
    action = read["action"]
    actions = read["action_mask"].shape[2] if "action_mask" in read else max(1, int(action.max()) + 1)
    if actions > MAX_ACTIONS:
        raise UserError(f"{where}: {actions} actions; a vault holds at most {MAX_ACTIONS}")
    mask = read["action_mask"] if "action_mask" in read else np.ones((*action.shape, actions), bool)
    spec = _spec_of(task)
    _check_sizes(where, spec, read["obs"], mask)
    horizon = horizon or (spec.horizon if spec else None)
    first, terminal, truncated, count = _episodes(where, read, horizon)
    recording = Recording(
        encode(_float32(where, "obs", read["obs"]), np.ones(read["obs"].shape[2], np.float32)),
        mask,
        action,
        _float32(where, "reward", read["reward"]),
        first,
        terminal,
        truncated,
        count,
        np.zeros(steps, np.int32),
    )
    recording = _checked(recording, where)
    return recording, {
        "task": task,
        "obs_scale": 1.0,
        "horizon": horizon or int(count.max()) + 1,
        "provenance": {"imported from": str(where)},
    }


def _check_sizes(where: Any, spec: TaskSpec | None, obs: np.ndarray, mask: np.ndarray) -> None:
    try:
        check_sizes(spec, obs, mask)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_horizon(where: Any, horizon: int) -> None:
    """Raises UserError for a time limit that a vault cannot hold."""
    if not 1 <= horizon <= MAX_HORIZON:
        raise UserError(f"{where}: horizon {horizon}; a vault holds episodes of 1 … {MAX_HORIZON:,} steps")


def _spec_of(task: str) -> TaskSpec | None:
    """None for a family without an environment here."""
    return make_env(task).spec if get_family(task.partition("/")[0]).make else None


def _numbers(where: Any, name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise UserError(f"{where}: {name} is not a regular array ({str(error)[:100]})") from None
    if array.dtype.kind not in "biuf" and not (name == "episode" and array.dtype.kind in "US"):
        raise UserError(f"{where}: {name} is {array.dtype}; expected numbers")
    if array.dtype.kind == "f":
        check_none(where, name, ~np.isfinite(array), "is not finite; drop or repair the episode")
    if name in ("terminated", "truncated", "action_mask"):
        check_none(where, name, (array != 0) & (array != 1), "is neither 0 nor 1")
        return array.astype(bool)
    return array


def _checked(recording: Recording, where: Any) -> Recording:
    recording = checks.in_stored_dtypes(recording, where)
    checks.check_recording(recording, where)
    return recording


def _float32(where: Any, name: str, x: np.ndarray) -> np.ndarray:
    """Rounded to float32; a value that overflows, or an integer that changes, is refused."""
    with np.errstate(over="ignore"):
        narrow = x.astype(np.float32)
    exact = x.dtype.kind == "f" or narrow.astype(np.float64) == x
    check_none(
        where, name, ~(np.isfinite(narrow) & exact), "does not fit float32; divide the values by a constant"
    )
    return narrow


def _episodes(where: Any, read: Mapping[str, np.ndarray], horizon: int | None) -> tuple[np.ndarray, ...]:
    """first, terminal, truncated and step count, (S,) each."""
    none = np.zeros(len(read["obs"]), bool)
    number, terminated, truncated = (read.get(name) for name in ("episode", "terminated", "truncated"))
    flagged = (none if terminated is None else terminated) | (none if truncated is None else truncated)
    if number is None and terminated is None and truncated is None:
        raise UserError(f"{where}: where do episodes end? give episode, or terminated and truncated")
    if number is None:
        end = flagged.copy()
        if truncated is None and horizon is not None:  # Time limits are not flagged.
            end |= counted(np.append(True, end[:-1])) % horizon == horizon - 1
    else:
        end = np.append(number[1:] != number[:-1], True)
        _check_numbers(where, number)
        check_none(where, "episode", flagged & ~end, "goes on after a step with an end flag; correct either")
        if terminated is not None and truncated is not None:
            unflagged = end & ~flagged
            unflagged[-1] = False  # Recording may have stopped there.
            check_none(where, "episode", unflagged, "ends without a flag; set terminated or truncated there")
    end[-1] = True
    first = np.append(True, end[:-1])
    count = counted(first)
    most = min(horizon or MAX_HORIZON, MAX_HORIZON)
    name = "episode" if number is not None else "truncated"
    check_none(
        where, name, count >= most, f"is in an episode of more than {most:,} steps; correct horizon or {name}"
    )
    if terminated is None and number is not None:
        if truncated is None and horizon is None:
            raise UserError(f"{where}: terminations and time limits look alike; give horizon, or terminated")
        terminated = end & ~(count + 1 == horizon if truncated is None else truncated)
    terminated = none if terminated is None else terminated
    return first, terminated, end & ~terminated, count.astype(np.int16)


def _check_numbers(where: Any, number: np.ndarray) -> None:
    starts = np.flatnonzero(np.append(True, number[1:] != number[:-1]))
    again = np.ones(len(starts), bool)
    again[np.unique(number[starts], return_index=True)[1]] = False
    bad = np.zeros(len(number), bool)
    bad[starts[again]] = True
    check_none(where, "episode", bad, "comes back after another episode; number each episode once")


# --------------------------------------------------------------------------------------------------- files


def import_files(
    files: Sequence[str | os.PathLike],
    root: str | os.PathLike,
    task: str,
    *,
    names: Mapping[str, str] | None = None,
    horizon: int | None = None,
    dataset: str = "replay",
    replace: bool = False,
    say: Callable[[str], object] = terminal.say,
) -> None:
    """Imports files, each as the vault of one task; `{stem}` in `task` is the name of the file.

    Files are `.npz`, `.parquet` or `.h5`, or folders with `part_*.h5`. `names` maps fields of `write_vault` to names of
    arrays in `.npz` and `.parquet` files, where they differ. Exports of this package are
    imported as they are. A file that cannot be imported does not stop the others. Raises UserError if any was not.
    """
    names = {name: name for name in FIELDS} | dict(names or {})
    if unknown := sorted(names.keys() - set(FIELDS)):
        raise UserError(f"--map {unknown[0]}=…: no such field; there are {', '.join(FIELDS)}")
    check_dataset(dataset)
    made: dict[Path, Path] = {}

    def one(file: Path) -> None:
        name = task.replace("{stem}", file.stem)
        try:
            task_parts(name)
        except UserError as error:
            raise UserError(f"{file}: {error}; give --task family/scenario") from None
        place = vaults.vault_path(root, name, dataset)
        if place in made:
            raise UserError(f"{file}: would become {place}, as {made[place]} has; put {{stem}} into --task")
        recording, metadata = _read(file, name, names, horizon)
        say(vaults.add_once(place, recording, metadata, replace))
        made[place] = file

    each_of([Path(file) for file in files], one, "import", "files", "imported")


def _read(
    file: Path, task: str, names: Mapping[str, str], horizon: int | None
) -> tuple[Recording, dict[str, Any]]:
    read_h5 = lambda file: (pymarl_files.read(file, horizon), None)
    readers = {".npz": _read_npz, ".parquet": _read_parquet, ".h5": read_h5, ".hdf5": read_h5}
    suffix = ".h5" if file.is_dir() else file.suffix
    if suffix not in readers:
        raise UserError(f"{file}: must end in {', '.join(readers)}, or be a folder with part_*.h5")
    try:
        arrays, about = readers[suffix](file)
        metadata = {} if about is None else records.loads(about, str(file))
        if own := about is not None and set(Recording._fields) <= arrays.keys():
            convert(_Exported, metadata, str(file), "")
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:  # Readers raise errors of many types for damaged files.
        raise UserError(f"{file}: cannot be read ({' '.join(str(error).split())[:160]})") from None
    if own:
        return _exported(file, task, arrays, metadata)
    for field, name in names.items():
        if name != field and name not in arrays:
            raise UserError(f"{file}: no array {name!r}; it has {', '.join(sorted(arrays)) or 'none'}")
    chosen = {field: arrays[name] for field, name in names.items() if name in arrays}
    return make_vault(task, chosen, horizon, file)


def _exported(
    file: Path, task: str, arrays: Mapping[str, np.ndarray], metadata: dict[str, Any]
) -> tuple[Recording, dict[str, Any]]:
    """What `export` wrote."""
    recording = _checked(Recording(*(_numbers(file, name, arrays[name]) for name in Recording._fields)), file)
    _check_sizes(file, _spec_of(task), recording.obs, recording.mask)
    if metadata.pop("observations_are_scaled", False):
        metadata["obs_scale"] = 1.0
    metadata.pop("observation_layout", None)
    return recording, metadata | {"task": task}


def _read_npz(file: Path) -> tuple[dict[str, np.ndarray], str | None]:
    with file.open("rb") as stream:
        if not is_zipfile(stream):  # NumPy would take it for a pickle.
            raise UserError(f"{file}: damaged, or not written by numpy.savez; write it again")
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    about = arrays.pop("metadata", None)
    return arrays, None if about is None else str(about)


def _read_parquet(file: Path) -> tuple[dict[str, np.ndarray], str | None]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise UserError("Parquet needs pyarrow: pip install 'mtmarl[parquet]', or import .npz") from None
    table = pq.read_table(file)
    arrays = {name: _column(file, name, table[name].combine_chunks()) for name in table.column_names}
    about = (table.schema.metadata or {}).get(b"mtmarl")
    return arrays, None if about is None else about.decode()


def _column(file: Path, name: str, column: Any) -> np.ndarray:
    """An array of nested lists of equal length per level."""
    import pyarrow as pa

    shape = [len(column)]
    while isinstance(column, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        lengths = column.value_lengths().to_numpy(zero_copy_only=False)
        fix = f"is a list of another length than {name}[0]; pad the lists, or split the file"
        check_none(file, name, lengths != lengths[:1], fix)
        shape.append(int(lengths[0]) if len(lengths) else 0)
        column = column.flatten()
    return column.to_numpy(zero_copy_only=False).reshape(shape)
