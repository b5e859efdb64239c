"""Vaults: the recorded steps of one task at one quality, on disk in the Flashbax vault layout.

A vault lies at `<root>/<family>/<scenario>.vlt/<quality>`. It is written here with TensorStore in the layout
of Flashbax vault version 1.2, which `flashbax.vault.Vault` opens, and not through that class: the class
resolves paths against the working directory, cannot run inside an event loop, leaves an exactly full buffer
unwritten and reads onto the accelerator. NumPy in, NumPy out, no ring buffer in between.
"""

import hashlib
import json
import os
import shutil
from ast import literal_eval
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorstore as ts
from filelock import FileLock, Timeout

import mtmarl
from mtmarl.command_lines import command, line, word
from mtmarl.data import schema, soundness
from mtmarl.errors import UserError
from mtmarl.files import files_below, scratch_folder, write_whole
from mtmarl.task_names import check_dataset, is_dataset, task_parts, vault_parts

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
METADATA = "metadata.json"
# Vaults of one policy's play, beside that of all training: of the best, and of one half as good.
SINGLE_POLICIES = ("expert", "medium")
_LAYOUT_VERSION = 1.2
_TIME_AXIS = 10**13
_OLD = ".old"  # ends the name of a vault while another takes its place
# A column runs along time within a chunk ("F"), where most features stay as they are for many steps: half of what
# rows by gzip take, read as fast. Levels 18 and 19 save 1 to 3% more and take up to two and a half times as long.
_PACKED = {"order": "F", "compressor": {"id": "zstd", "level": 17}}
_CHUNK = 2**22  # bytes
_FILE = 8 * 10**6  # bytes from which on a store begins another file


class Recording(NamedTuple):
    """Steps of ONE task along one time axis S, unpadded, in the dtypes that are stored.

    obs: raw features, int8 (float32 where a task needs it); the observation is raw * obs_scale. mask: legal
    actions. first: True at every episode start AND wherever a new recording begins, so memory is cleared
    before that step. terminal: the step ended the episode by its state. truncated: the step ended it by the
    time limit, OR it is the last one recorded of an episode that was cut; either way its next state is not
    stored. Hence `first[t + 1] == terminal[t] | truncated[t]`, and the last step of a recording ends an
    episode. step_count: env steps taken in the episode before this one, 0 at a reset; an episode whose
    recording starts later starts above 0. policy_step: training step of the policy that acted.
    """

    obs: np.ndarray  # (S, N, O) int8 | float32
    mask: np.ndarray  # (S, N, A) bool
    action: np.ndarray  # (S, N) int8
    reward: np.ndarray  # (S,) float32
    first: np.ndarray  # (S,) bool
    terminal: np.ndarray  # (S,) bool
    truncated: np.ndarray  # (S,) bool
    step_count: np.ndarray  # (S,) int16
    policy_step: np.ndarray  # (S,) int32


class Vault(NamedTuple):
    """A recording, what is known about it, and where it came from (None: made in memory)."""

    recording: Recording
    metadata: dict[str, Any]
    path: Path | None = None


_DTYPES = {
    "mask": "bool",
    "action": "int8",
    "reward": "float32",
    "first": "bool",
    "terminal": "bool",
    "truncated": "bool",
    "step_count": "int16",
    "policy_step": "int32",
}
_AXES = {"obs": 3, "mask": 3, "action": 2}


# ------------------------------------------------------------------------------------------------ arrays


def _narrow(recording: Recording, where: Any) -> Recording:
    """The stored dtypes, where that loses nothing."""
    columns = {}
    for field, value in recording._asdict().items():
        value = np.asarray(value)
        floats = field == "obs" and value.dtype.kind == "f"
        dtype = np.dtype("float32" if floats else _DTYPES.get(field, "int8"))
        if value.dtype != dtype and dtype.kind != "f":
            with np.errstate(invalid="ignore"):
                lost = value.astype(dtype) != value
            _check(where, field, lost, f"does not fit {dtype}; correct the values before writing")
        columns[field] = np.ascontiguousarray(value, dtype)
    return Recording(**columns)


def concatenate(recordings: Sequence[Recording]) -> Recording:
    """Recordings of one task, one after the other; no episode joins two, each has its own `first`."""
    return Recording(*(np.concatenate(columns) for columns in zip(*recordings, strict=True)))


class Episodes(NamedTuple):
    """Where episodes begin and end (inclusive), which of them are whole, and the sum of their rewards."""

    start: np.ndarray  # (E,)
    end: np.ndarray  # (E,)
    complete: np.ndarray  # (E,) bool
    total: np.ndarray  # (E,) float64

    @property
    def length(self) -> np.ndarray:
        return self.end - self.start + 1


def episodes(recording: Recording, horizon: int) -> Episodes:
    """Episodes of a recording. Whole: recorded from its reset to termination or to `horizon` env steps."""
    start = np.flatnonzero(recording.first)
    end = np.append(start[1:], len(recording.first)) - 1
    count = recording.step_count.astype(np.int64)
    complete = (count[start] == 0) & (recording.terminal[end] | (count[end] + 1 >= horizon))
    return Episodes(start, end, complete, np.add.reduceat(recording.reward.astype(np.float64), start))


def returns_to_go_range(recordings: Iterable[Recording], gamma: float) -> tuple[float, float]:
    """Least and greatest discounted return-to-go of any recorded step; a cut episode counts up to its cut.

    For the support of a value distribution.
    """
    low, high = np.inf, -np.inf
    for recording in recordings:
        start = np.flatnonzero(recording.first)
        end = np.append(start[1:], len(recording.first)) - 1
        reward, to_go = recording.reward.astype(np.float64), np.zeros(len(start))
        while len(start):  # all episodes at once, backwards from their ends
            to_go = reward[end] + gamma * to_go
            low, high = min(low, to_go.min()), max(high, to_go.max())
            more = end > start
            start, end, to_go = start[more], end[more] - 1, to_go[more]
    if low > high:
        raise UserError(
            "returns_to_go_range: no recorded steps; pass at least one recording that is not empty"
        )
    return float(low), float(high)


# ---------------------------------------------------------------------------------------------- checking


def _check(where: Any, field: str, bad: np.ndarray, problem: str) -> None:
    if np.any(bad):
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise UserError(f"{where}: {field}[{', '.join(map(str, at))}] {problem}")


def reserved(key: str) -> bool:
    """Whether a key of the metadata belongs to the format of vaults."""
    return key == "version" or key.startswith("structure_")


def own_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata without what belongs to the format of vaults."""
    return {key: value for key, value in metadata.items() if not reserved(key)}


def _summary(recording: Recording, horizon: int) -> dict[str, Any]:
    found = episodes(recording, horizon)
    total = found.total[found.complete]
    stats = {"mean": total.mean(), "min": total.min(), "max": total.max()} if len(total) else {}
    return {
        "dims": {
            "agents": recording.mask.shape[1],
            "obs": recording.obs.shape[2],
            "actions": recording.mask.shape[2],
            "horizon": horizon,
        },
        "steps": len(recording.first),
        "episodes": int(found.complete.sum()),
        "episode_return": {k: float(v) for k, v in stats.items()},
    }


def _contents(recording: Recording, metadata: Mapping[str, Any]) -> str:
    """A SHA-256 of what training sees of a vault, however it is stored and wherever it came from."""
    known = [metadata["task"], metadata["obs_scale"], metadata["dims"]]
    digest = hashlib.sha256(json.dumps(known, default=_json).encode())
    for name, value in recording._asdict().items():
        digest.update(f"{name} {value.dtype} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value).data)
    return digest.hexdigest()


def validate(vault: Vault) -> None:
    """Raises a UserError naming path, field and first bad index unless the vault is fit for training."""
    recording, metadata, where = (
        vault.recording,
        vault.metadata,
        vault.path or vault.metadata.get("task", "vault"),
    )
    for key in metadata:
        if reserved(key):
            raise UserError(f"{where}: metadata key {key!r} belongs to the vault format; rename it")
    for key in ("task", "obs_scale", "dims", "steps", "episodes", "episode_return"):
        if key not in metadata:
            raise UserError(
                f"{where}: metadata has no {key!r}; write the vault again with mtmarl.data.vault.write_vault"
            )
    _check_arrays(recording, where)

    dims = metadata["dims"]
    if len(metadata["obs_scale"]) != recording.obs.shape[2] or not np.isfinite(metadata["obs_scale"]).all():
        raise UserError(
            f"{where}: obs_scale must hold {recording.obs.shape[2]} finite numbers, one per feature of obs"
        )
    length = episodes(recording, dims["horizon"]).length
    _check(
        where, "episode", length > dims["horizon"],
        f"is longer than the horizon of {dims['horizon']} steps; correct the horizon, or mark `first`",
    )  # fmt: skip
    _check(
        where, "step_count", recording.step_count >= dims["horizon"],
        f"is not below the horizon of {dims['horizon']}; correct the horizon",
    )  # fmt: skip
    for key, value in _summary(recording, dims["horizon"]).items():
        if not _same(value, metadata[key]):
            raise UserError(
                f"{where}: {METADATA} says {key} = {metadata[key]}, the arrays say {value}; "
                "the vault was changed by hand or is damaged, restore or collect it again"
            )


def _allowed(field: str) -> tuple[str, ...]:
    return ("int8", "float32") if field == "obs" else (_DTYPES[field],)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    return isinstance(b, int | float) and bool(np.isclose(a, b, rtol=1e-5, atol=1e-5))


def _check_arrays(recording: Recording, where: Any) -> None:
    steps = len(np.atleast_1d(recording.first))
    if steps == 0:
        raise UserError(f"{where}: first is empty; record at least one step")
    for field, value in recording._asdict().items():
        if value.ndim != _AXES.get(field, 1) or value.shape[0] != steps:
            raise UserError(
                f"{where}: {field} has shape {value.shape}, "
                f"expected {_AXES.get(field, 1)} axes, {steps} steps"
            )
        if value.dtype.name not in _allowed(field):
            raise UserError(
                f"{where}: {field} is {value.dtype}, expected {' or '.join(_allowed(field))}; write it again"
            )
    agents = {f: getattr(recording, f).shape[1] for f in ("obs", "mask", "action")}
    if len(set(agents.values())) != 1:
        raise UserError(f"{where}: agent axes disagree, {agents}; store one row per agent in each")

    for field in ("reward", "obs"):
        if getattr(recording, field).dtype.kind == "f":
            _check(
                where,
                field,
                ~np.isfinite(getattr(recording, field)),
                "is not finite; drop or repair the episode",
            )
    action, actions = recording.action, recording.mask.shape[2]
    _check(
        where, "action", (action < 0) | (action >= actions),
        f"is outside 0 … {actions - 1}; record actions by index",
    )  # fmt: skip
    legal = np.take_along_axis(recording.mask, action[..., None].astype(np.intp), axis=2)[..., 0]
    _check(where, "action", ~legal, "is illegal by the mask; record the mask that the policy saw")

    first, end = recording.first, recording.terminal | recording.truncated
    if not first[0]:
        raise UserError(f"{where}: first[0] is False; mark the first step of every recording")
    if not end[-1]:
        raise UserError(
            f"{where}: truncated[{steps - 1}] is False; mark the last step of every recording as truncated"
        )
    differ = np.append(False, first[1:] != end[:-1])
    _check(
        where, "first", differ,
        "must be True exactly after a step that is terminal or truncated; mark cut episodes as truncated",
    )  # fmt: skip
    count = recording.step_count.astype(np.int64)
    jump = np.append(False, ~first[1:] & (np.diff(count) != 1))
    _check(
        where, "step_count", (count < 0) | jump, "must count env steps of the episode from 0 in steps of 1"
    )


# ---------------------------------------------------------------------------------------- writing, reading


def vault_path(root: str | os.PathLike, task_name: str, quality: str) -> Path:
    """Where the vault of `family/scenario` lies under a root. Raises UserError for a name that is not legal."""
    family, scenario = task_parts(task_name)
    check_dataset(quality)
    path = Path(root).expanduser().resolve() / family / f"{scenario}.vlt" / quality
    check_place(path)
    return path


def check_place(path: Path) -> None:
    """Raises a UserError where TensorStore would look elsewhere, or cannot look."""
    if "\\" in str(path) or str(path) != str(path).encode(errors="replace").decode():
        raise UserError(
            f"{str(path)!r}: a vault cannot lie below a name with a backslash or one that is not UTF-8; rename it"
        )


def open_leaf(
    base: Path, leaf: str, layout: Mapping[str, Any] | None = None, **options: Any
) -> ts.TensorStore:
    """One array of a Flashbax vault, by its name in the store: a leaf's ends in a dot."""
    check_place(base)
    # Not as a URL, in which #, ? and % have a meaning.
    files = {"driver": "file", "path": f"{base}/"}
    store = {"driver": "ocdbt", "base": files, "path": leaf, "target_data_file_size": _FILE}
    spec = {"driver": "zarr", "kvstore": store} | ({"metadata": layout} if layout else {})
    return ts.open(spec, **options).result()


def _create_leaf(base: Path, name: str, like: np.ndarray) -> ts.TensorStore:
    """A leaf for rows like those of an array, in chunks of no more rows than that has."""
    rows = max(1, min(len(like), _CHUNK // like[0].nbytes))
    layout = _PACKED | {"chunks": [1, rows, *like.shape[1:]]}
    shape = (1, _TIME_AXIS, *like.shape[1:])
    return open_leaf(base, f"{name}.", layout, dtype=like.dtype.name, shape=shape, create=True)


def _json(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise UserError(
        f"metadata: {value!r} cannot be written as JSON; pass numbers, text, lists or dictionaries"
    )


def write_vault(path: str | os.PathLike, recording: Recording, metadata: Mapping[str, Any]) -> Path:
    """Writes and re-reads a vault beside `path`, then moves it there; an existing vault there is replaced.

    `path` is `<root>/<family>/<scenario>.vlt/<quality>`. `metadata` needs `task` (family/scenario) and
    `obs_scale` (a number, or one per feature), should give `horizon` in env steps (else: the longest episode
    seen), and may hold anything that JSON can. `dims`, `steps`, `episodes`, `episode_return` (mean, min, max
    over whole episodes), `contents`, `schema_version` and `library_version` are filled in here. If anything
    fails, what was at `path` stays.
    """
    path = Path(path).expanduser().resolve()
    if path.parent.suffix != ".vlt":
        raise UserError(f"{path}: not a place for a vault; use <root>/<family>/<scenario>.vlt/<quality>")
    name = "/".join(vault_parts(f"{path.parent.parent.name}/{path.parent.stem}/{path.name}"))
    check_place(path)
    for key in ("task", "obs_scale"):
        if key not in metadata:
            raise UserError(f"{path}: metadata has no {key!r}; pass it to write_vault")
    recording = _narrow(recording, path)
    _check_arrays(recording, path)

    width = recording.obs.shape[2]
    scale = np.asarray(metadata["obs_scale"], np.float64)
    horizon = (
        metadata.get("horizon", metadata.get("dims", {}).get("horizon"))
        or int(recording.step_count.max()) + 1
    )
    complete = dict(metadata) | {
        "obs_scale": np.full(width, scale).tolist() if scale.ndim == 0 else scale.tolist(),
        **_summary(recording, int(horizon)),
        "schema_version": SCHEMA_VERSION,
        "library_version": mtmarl.__version__,
    }
    complete["contents"] = _contents(recording, complete)
    complete = json.loads(json.dumps(complete, default=_json))
    validate(Vault(recording, complete, path))

    path.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(path.parent, f".{path.name}.new-") as scratch:
        new = scratch / path.name
        _write_files(new, recording, complete)
        _verify_written(new, recording, complete)
        with locked(path.parents[2], name):
            replace_folder(new, path)
    return path


def replace_folder(new: Path, path: Path) -> None:
    """Moves a finished folder to `path`; what was there goes only once the new one is in its place.

    A process that is killed in between leaves it beside, under a name that `read_metadata` and `find_vault` tell.
    """
    old = _replaced(path)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    try:
        new.rename(path)
    except BaseException:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _replaced(path: Path) -> Path:
    """Where a vault lies while another takes its place."""
    return path.with_name(f".{path.name}{_OLD}")


def _check_not_interrupted(path: Path) -> None:
    """Raises a UserError with the way out where a process was killed while it replaced a vault."""
    old = _replaced(path)
    if old.exists() and not path.exists():
        raise UserError(f"{path}: was being replaced when that was killed; restore it: mv {old} {path}")


def _write_files(base: Path, recording: Recording, metadata: dict[str, Any]) -> None:
    base.mkdir()
    leaves = recording._asdict()
    layout = {
        "version": _LAYOUT_VERSION,
        "structure_shape": {k: str((1, *v.shape)) for k, v in leaves.items()},
        "structure_dtype": {k: v.dtype.name for k, v in leaves.items()},
    }
    (base / METADATA).write_text(json.dumps(layout | metadata, indent=1))
    steps = len(recording.first)
    for name, value in leaves.items():
        _create_leaf(base, name, value)[0, 0:steps].write(value).result()
    index = open_leaf(base, "vault_index", dtype="int32", shape=(1,), create=True)
    index.write(np.array([steps], np.int32)).result()


def _verify_written(base: Path, recording: Recording, metadata: dict[str, Any]) -> None:
    back = read_vault(base)
    for name, value in recording._asdict().items():
        if not np.array_equal(getattr(back.recording, name), value):
            raise UserError(f"{base}: {name} reads back differently from what was written; check the disk")
    if back.metadata != metadata:
        raise UserError(f"{base}: {METADATA} reads back differently from what was written; check the disk")


def read_metadata(path: Path) -> dict[str, Any]:
    """What is known of a vault, the format's own keys included, without reading its arrays.

    Raises UserError where a value is missing or has the wrong type, and where the folder is that of another task.
    """
    file = path / METADATA
    try:
        metadata = schema.load(file.read_bytes())
        schema.metadata(metadata, _LAYOUT_VERSION, SCHEMA_VERSION)
    except FileNotFoundError:
        _check_not_interrupted(path)
        raise UserError(
            f"{path}: no vault here (no {METADATA}); give the folder <root>/<family>/<scenario>.vlt/<quality>"
        ) from None
    except KeyError as error:
        raise UserError(f"{file}: no {error}; this vault was not written by mtmarl: convert it") from None
    except ValueError as error:
        raise UserError(f"{file}: damaged ({error}); restore or collect it again") from None
    place = path.parent
    if place.suffix == ".vlt" and metadata["task"] != f"{place.parent.name}/{place.stem}":
        raise UserError(
            f"{path}: holds {metadata['task']}, and lies in the folder of {place.parent.name}/{place.stem}; move it to "
            f"{metadata['task']}.vlt, or remove it"
        )
    return metadata


def stored_bytes(metadata: Mapping[str, Any]) -> int:
    """Memory that the columns of a vault take at their stored width, from its metadata."""
    dims = metadata["dims"]
    # A damaged name of a type is found when the arrays are read: here it must not stop the count.
    wide = 4 if metadata["structure_dtype"].get("obs") == "float32" else 1
    per_agent = dims["obs"] * wide + dims["actions"] + 1
    rest = sum(np.dtype(_DTYPES[f]).itemsize for f in Recording._fields if f not in ("obs", "mask", "action"))
    return metadata["steps"] * (dims["agents"] * per_agent + rest)


def open_columns(path: Path, metadata: Mapping[str, Any]) -> dict[str, ts.TensorStore]:
    """The columns of a vault, [steps, …], not read yet. Raises UserError unless all are as the metadata say."""
    shapes, dtypes = metadata["structure_shape"], metadata["structure_dtype"]
    for field in Recording._fields:
        if field not in shapes or dtypes.get(field) not in _allowed(field):
            raise UserError(f"{path}: {field} is missing or of a wrong type in {METADATA}; restore the vault")
    with damage(path):
        steps = open_leaf(path, "vault_index").read().result().tolist()
        if steps != [metadata["steps"]]:
            raise UserError(
                f"{path}: {METADATA} says steps = {metadata['steps']}, the store has {steps}; restore the vault"
            )
        columns = {}
        for field in Recording._fields:
            leaf = open_leaf(path, f"{field}.")
            shape, expected = leaf.shape[2:], literal_eval(shapes[field])[2:]
            if leaf.dtype.name != dtypes[field] or shape != expected or leaf.rank != _AXES.get(field, 1) + 1:
                raise UserError(
                    f"{path}: {field} is {leaf.dtype.name}{shape}, {METADATA} says {dtypes[field]}{expected}; "
                    "restore the vault"
                )
            columns[field] = leaf[0, 0 : metadata["steps"]]
    return columns


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turns what TensorStore raises for missing or damaged files into a UserError."""
    try:
        yield
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"{path}: cannot be read ({reason}); restore the files or collect them again"
        ) from None


def read_vault(path: str | os.PathLike, check: bool = True) -> Vault:
    """A vault as NumPy arrays in their stored dtypes, validated unless `check` is False; uses no device.

    Validated: the arrays fit each other and the metadata, and are those whose hash was written with them.
    """
    path = Path(os.path.abspath(Path(path).expanduser()))
    metadata = read_metadata(path)
    state = soundness.stamp(files_below(path)) if check else ""
    columns = open_columns(path, metadata)
    if (need := stored_bytes(metadata)) > _memory():
        raise UserError(
            f"{path}: takes {need / 2**20:,.0f} MB, more than this machine's memory; train with data.memory_mb, which "
            "leaves it on disk, or restore it"
        )
    with damage(path):
        # All columns are requested before the first is waited for.
        pending = {field: column.read() for field, column in columns.items()}
        recording = Recording(**{field: future.result() for field, future in pending.items()})
    vault = Vault(recording, own_metadata(metadata), path)
    if check:
        validate(vault)
        check_contents(vault, path, state)
    return vault


def check_contents(vault: Vault, folder: Path, state: str) -> None:
    """Raises UserError unless a vault, read from a folder in this state, holds the arrays that were written.

    Vaults of earlier versions do not tell their hash, and are accepted.
    """
    told = vault.metadata.get("contents")
    if told is None or soundness.known(folder, state):
        return
    if told != _contents(vault.recording, vault.metadata):
        raise UserError(f"{vault.path}: its arrays are not those that {METADATA} tells of; restore it")
    soundness.remember(folder, state)


def _memory() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return np.inf


# ------------------------------------------------------------------------------------- roots and manifests


def default_roots() -> list[Path]:
    """Where vaults are looked for, in order: $MTMARL_VAULTS, ./vault_data, `own_root`, beside the package, in it."""
    package = Path(mtmarl.__file__).resolve().parent
    roots = [
        *_given_roots(), Path("vault_data"), _user_root(), package.parent / "vault_data", package / "_vault_data",
    ]  # fmt: skip
    return list(dict.fromkeys(p.expanduser().resolve() for p in roots))


def own_root() -> Path:
    """Where new vaults go: the first of $MTMARL_VAULTS, else mtmarl/vaults in $XDG_DATA_HOME or ~/.local/share.

    Not ./vault_data: that is tracked by git where it holds the shipped vaults.
    """
    return next(iter(_given_roots()), _user_root()).expanduser().resolve()


def _given_roots() -> list[Path]:
    return [Path(p) for p in os.environ.get("MTMARL_VAULTS", "").split(os.pathsep) if p]


def _user_root() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "mtmarl" / "vaults"


def has_vault(path: Path) -> bool:
    return (path / METADATA).exists()


def find_vault(
    task_name: str, quality: str, roots: Sequence[str | os.PathLike] | None = None, hub: str | None = None
) -> Path:
    """The first root's vault of a task; a UserError with the ways to get it, from `hub` among them, if none has it."""
    paths = [vault_path(root, task_name, quality) for root in (default_roots() if roots is None else roots)]
    for path in paths:
        if has_vault(path):
            return path
        _check_not_interrupted(path)
    if not paths:
        raise UserError(f"no folder to look for the {quality!r} vault of {task_name} in; name one")
    there = sorted({p.name for path in paths for p in path.parent.glob("[!.]*") if has_vault(p)})
    there = list(filter(is_dataset, there))
    hub = hub or "URL"
    root = [] if roots is None else [str(paths[0].parents[2])]
    pull = command(
        "vault", "pull", f"{task_name}/{quality}", "--hub", hub, *(w for r in root for w in ("--root", r))
    )
    folder = [word("data.vault_dir", r) for r in root]
    how, note = word("data.quality", quality), ""
    if quality in SINGLE_POLICIES:
        how = "collect.single_policies=true"
        if there:  # They are recorded along with training, which is not done again where its own vault is.
            folder, note = ["data.vault_dir=FOLDER"], ", a new one"
    raise UserError(
        f"no {quality!r} vault of {task_name}, expected at {paths[0]}"
        + "".join(f" or {path}" for path in paths[1:])
        + (f"; there is {', '.join(there)}: add {word('data.quality', there[0])}" if there else "")
        + f"; fetch it: {pull}; or fetch what is missing while training: add "
        f"{line('data.download=true', word('hub.url', hub))}; or collect it: "
        f"{command('collect', '+algo=sable', f'+tasks={task_name}', how, *folder)}{note}"
    )


class Catalogue(NamedTuple):
    """The vaults below a root by name, `family/scenario/quality`, and what is wrong with each that cannot be used."""

    vaults: dict[str, Path]
    faults: dict[str, str]


def catalogue(root: str | os.PathLike) -> Catalogue:
    """What lies below a root, by the metadata of each vault; arrays are not read. A fault is one line."""
    found = Catalogue({}, {})
    root = Path(root).expanduser().resolve()
    folders = set(root.glob("[!.]*/[!.]*.vlt/[!.]*"))
    folders |= {p.with_name(p.name[1 : -len(_OLD)]) for p in root.glob(f"[!.]*/[!.]*.vlt/.*{_OLD}")}
    for path in sorted(folders):
        if path.is_file():
            continue
        name = f"{path.parts[-3]}/{path.parent.stem}/{path.name}"
        try:
            vault_parts(name)
            read_metadata(path)
            found.vaults[name] = path
        except UserError as error:
            found.faults[name] = str(error)
        except OSError as error:
            found.faults[name] = f"{error.filename or path}: {error.strerror}"
    return found


def list_vaults(root: str | os.PathLike) -> dict[str, Path]:
    """The vaults below a root that can be used, by name; `catalogue` also says which cannot."""
    return catalogue(root).vaults


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def to_json(value: Any) -> str:
    return json.dumps(value, indent=1, default=_json) + "\n"


def manifest_entry(root: Path, path: Path) -> dict[str, Any]:
    """What a manifest says of one vault; `files` maps places below the root to size in bytes and SHA-256."""
    metadata = read_metadata(path)
    return {
        "task": metadata["task"],
        "steps": metadata["steps"],
        "episodes": metadata["episodes"],
        "returns": metadata["episode_return"],
        "files": {file.relative_to(root).as_posix(): fingerprint(file) for file in files_below(path)},
    }


def identity(path: Path) -> str:
    """A SHA-256 that differs wherever the contents of two vaults do, read off one or two small files.

    It stays when a vault is packed anew. Of vaults that were written before metadata told their `contents`, the root
    of the store names the files of its data.
    """
    if contents := read_metadata(path).get("contents"):
        return contents
    return hashlib.sha256((path / METADATA).read_bytes() + (path / "manifest.ocdbt").read_bytes()).hexdigest()


def fingerprint(file: Path) -> dict[str, Any]:
    return {"size": file.stat().st_size, "sha256": _digest(file)}


def parse_manifest(content: str | bytes, where: Any) -> dict[str, Any]:
    """A manifest from its text, checked: places below the root, sizes and hashes. UserError naming `where`."""
    try:
        manifest = schema.load(content)
        schema.manifest(manifest, SCHEMA_VERSION, METADATA)
    except KeyError as error:
        raise UserError(f"{where}: damaged, or not a manifest of vaults (no {error}); restore it") from None
    except (UserError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{where}: damaged, or not a manifest of vaults ({reason}); restore it") from None
    return manifest


def read_manifest(root: str | os.PathLike) -> dict[str, Any]:
    """The manifest of a root; a UserError if there is none or it is damaged."""
    file = Path(root).expanduser().resolve() / MANIFEST
    try:
        return parse_manifest(file.read_bytes(), file)
    except FileNotFoundError:
        raise UserError(f"{file}: not found; give the folder that holds the families") from None


def write_manifest(root: Path, vaults: Mapping[str, Any]) -> Path:
    """Writes `manifest.json` with these vaults and the references under the root; what cannot be read is refused."""
    references = {file.relative_to(root).as_posix(): fingerprint(file) for file in _reference_files(root)}
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "vaults": dict(sorted(vaults.items())),
        "references": references,
    }
    file = root / MANIFEST
    text = to_json(manifest)
    parse_manifest(text, file)
    write_whole(file, text)
    return file


@contextmanager
def locked(
    root: Path, name: str, say: Callable[[str], object] = print, check: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """One process at a time; `check` is called while it waits and may raise."""
    folder = root / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{name.replace('/', '--')}.lock")
    waiting = False
    while True:
        try:
            lock.acquire(timeout=0.2 if waiting else 0, poll_interval=0.1)
            break
        except Timeout:
            if not waiting:
                say(f"{name}: another process is at it, waiting")
            waiting = True
            check()
        except NotImplementedError:  # A file system without locks.
            break
    try:
        yield
    finally:
        lock.release()


@contextmanager
def sole_collector(root: Path, task: str) -> Iterator[None]:
    """One collection of a task at a time into a root, so that vault and reference are of one. Raises UserError."""
    folder = root / ".locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{task.replace('/', '--')}.collect.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{root}: another process collects {task} into it; wait for that, or give another data.vault_dir"
        ) from None
    except NotImplementedError:  # A file system without locks.
        pass
    try:
        yield
    finally:
        lock.release()


def _listed(root: Path, say: Callable[[str], object]) -> dict[str, Any]:
    """The vaults that the manifest of a root lists; of a damaged manifest none, and that is said."""
    if not (root / MANIFEST).exists():
        return {}
    try:
        return read_manifest(root)["vaults"]
    except UserError as error:
        say(f"{error}; written anew from the vaults that are there")
        return {}


def record(root: Path, entries: Mapping[str, Any], say: Callable[[str], object] = print) -> None:
    """Adds vaults to the manifest of a root, those that a killed process left unlisted too; takes out what is gone."""
    with locked(root, "manifest", say):
        known = {n: e for n, e in _listed(root, say).items() if has_vault(named_path(root, n))} | dict(
            entries
        )
        for name, path in catalogue(root).vaults.items():
            if name not in known:
                try:
                    known[name] = _new_entry(root, name, path)
                except UserError as error:
                    say(f"left out: {error}")
        write_manifest(root, known)


def _new_entry(root: Path, name: str, path: Path, listed: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the manifest is to say of a vault, of which it says `listed`. UserError for a damaged vault."""
    entry = manifest_entry(root, path)
    parse_manifest(to_json({"schema_version": SCHEMA_VERSION, "vaults": {name: entry}}), path)
    if listed and listed["files"] == entry["files"]:
        return {**listed, **entry}
    read_vault(path)
    return entry


def named_path(root: Path, name: str) -> Path:
    """Where the vault `family/scenario/quality` lies under a root."""
    task, _, quality = name.rpartition("/")
    return vault_path(root, task, quality)


def is_listed(root: Path, path: Path) -> bool:
    """Whether the manifest of a root lists the vault that lies at `path`, not an earlier one or none."""
    name = f"{path.parts[-3]}/{path.parent.stem}/{path.name}"
    files = _listed(root, lambda line: None).get(name, {}).get("files", {})
    return files.get((path / METADATA).relative_to(root).as_posix()) == fingerprint(path / METADATA)


def update_manifest(root: str | os.PathLike, say: Callable[[str], object] = print) -> Path:
    """Writes `manifest.json` of what lies under a root: steps, episodes, returns, and files with SHA-256.

    What cannot be used is said and left out. A vault whose files are not those listed is read first: if it is damaged,
    the manifest keeps what it says of it. What else an earlier manifest says of a vault, such as where it was pulled
    from, is kept while its files are the same.
    """
    root = Path(root).expanduser().resolve()
    with locked(root, "manifest", say):
        earlier, found, vaults = _listed(root, say), catalogue(root), {}
        for name, path in found.vaults.items():
            try:
                vaults[name] = _new_entry(root, name, path, earlier.get(name))
            except UserError as error:
                found.faults[name] = str(error)
        vaults |= {name: earlier[name] for name in found.faults if name in earlier}
        file = write_manifest(root, vaults)
    for fault in found.faults.values():
        say(f"left out: {fault}")
    return file


def check_all(root: str | os.PathLike, name: str | None = None) -> Iterator[tuple[str, str | None]]:
    """(vault, what is wrong with it) for the vaults of a root, sound ones with None.

    Checked: files and figures against the manifest, arrays against the schema, the manifest against the folders.
    `name` picks `family/scenario/quality`, or all qualities of `family/scenario`; all vaults: the references as well.
    UserError where there is nothing to check.
    """
    root = Path(root).expanduser().resolve()
    manifest, there = read_manifest(root), catalogue(root)
    listed = manifest["vaults"]
    known = sorted({*listed, *there.vaults, *there.faults})
    names = [n for n in known if name is None or n == name or n.rpartition("/")[0] == name]
    if name is not None and not names:
        raise UserError(f"{root / MANIFEST}: no vault {name!r}; it lists {', '.join(listed) or 'none'}")
    for each in names:
        try:
            if each not in listed:
                path = named_path(root, each)
                raise UserError(
                    there.faults.get(each)
                    or f"{path}: not in {MANIFEST}; add it with {_repair(root)}; or remove it"
                )
            _verify_vault(root, each, listed[each])
            yield each, None
        except UserError as error:
            yield each, str(error)
    if name is None:
        for relative, expected in manifest.get("references", {}).items():
            try:
                _verify_file(root / relative, expected, "reference returns")
            except UserError as error:
                yield relative, str(error)


def verify(root: str | os.PathLike, name: str | None = None) -> list[str]:
    """The names of the vaults of a root if all is sound, as in `check_all`; else a UserError of the first fault."""
    sound = []
    for each, fault in check_all(root, name):
        if fault is not None:
            raise UserError(fault)
        sound.append(each)
    return sound


def _repair(root: Path) -> str:
    return command("vault", "verify", "--repair", "--root", root)


def _verify_vault(root: Path, name: str, listed: Mapping[str, Any]) -> None:
    for relative, expected in listed["files"].items():
        _verify_file(root / relative, expected, f"vault {name}")
    path = named_path(root, name)
    there = {file.relative_to(root).as_posix() for file in files_below(path)}
    if extra := sorted(there - set(listed["files"])):
        raise UserError(f"{root / extra[0]}: not a file of vault {name}, by {MANIFEST}; remove it")
    metadata = read_vault(path).metadata
    for key, of in (("steps", "steps"), ("episodes", "episodes"), ("returns", "episode_return")):
        if listed[key] != metadata[of]:
            raise UserError(
                f"{root / MANIFEST}: says {key} = {listed[key]} of {name}, its {METADATA} says {metadata[of]}; "
                f"write the manifest anew with {_repair(root)}"
            )


def _verify_file(file: Path, expected: Mapping[str, Any], part_of: str) -> None:
    if not file.is_file():
        raise UserError(f"{file}: missing from {part_of}; restore or collect it again")
    if fingerprint(file) != {"size": expected["size"], "sha256": expected["sha256"]}:
        raise UserError(f"{file}: not the file in {MANIFEST} ({part_of}); restore or collect it again")


def write_reference(root: str | os.PathLike, task_name: str, figures: Mapping[str, Any]) -> Path:
    """Keeps what returns of a task are measured against (`reference`, `random`, …), with or without a vault.

    One file per task, `<root>/references/<family>/<scenario>.json`: tasks may be collected side by side.
    """
    file = reference_file(root, task_name)
    write_whole(file, to_json(dict(figures)))
    return file


def reference_file(root: str | os.PathLike, task_name: str) -> Path:
    family, scenario = task_parts(task_name)
    return Path(root).expanduser().resolve() / "references" / family / f"{scenario}.json"


def _reference_files(root: Path) -> list[Path]:
    return sorted((root / "references").glob("[!.]*/[!.]*.json"))


def read_references(
    root: str | os.PathLike, tasks: Collection[str] | None = None
) -> dict[str, dict[str, Any]]:
    """The reference figures kept under a root, by task: of `tasks`, or of all; empty if there are none.

    UserError for a damaged file.
    """
    found = {}
    for file in _reference_files(Path(root).expanduser().resolve()):
        task = f"{file.parent.name}/{file.stem}"
        if tasks is not None and task not in tasks:
            continue
        try:
            found[task] = schema.load(file.read_bytes())
            schema.reference(found[task])
        except ValueError as error:
            raise UserError(f"{file}: damaged ({error}); restore it or collect the task again") from None
    return found
