"""Vaults: the recorded steps of one task at one quality, on disk in the Flashbax vault layout.

A vault lies at `<root>/<family>/<scenario>.vlt/<quality>`. It is written here with TensorStore in the layout
of Flashbax vault version 1.2, which `flashbax.vault.Vault` opens, and not through that class: the class
resolves paths against the working directory, cannot run inside an event loop, leaves an exactly full buffer
unwritten and reads onto the accelerator. NumPy in, NumPy out, no ring buffer in between.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
from ast import literal_eval
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import numpy as np
import tensorstore as ts
from filelock import FileLock, Timeout

import mtmarl
from mtmarl.errors import UserError
from mtmarl.files import files_below, write_whole
from mtmarl.task_names import check_dataset, task_parts, vault_parts

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
METADATA = "metadata.json"
# Vaults of one policy's play, beside that of all training: of the best, and of one half as good.
SINGLE_POLICIES = ("expert", "medium")
_LAYOUT_VERSION = 1.2
_TIME_AXIS = 10**13
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
        allowed = ("int8", "float32") if field == "obs" else (_DTYPES[field],)
        if value.dtype.name not in allowed:
            raise UserError(
                f"{where}: {field} is {value.dtype}, expected {' or '.join(allowed)}; write it again"
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
    return Path(root).expanduser().resolve() / family / f"{scenario}.vlt" / quality


def open_leaf(
    base: Path, leaf: str, layout: Mapping[str, Any] | None = None, **options: Any
) -> ts.TensorStore:
    """One array of a Flashbax vault, by its name in the store: a leaf's ends in a dot."""
    store = {"driver": "ocdbt", "base": f"file://{base}/", "path": leaf, "target_data_file_size": _FILE}
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
    vault_parts(f"{path.parent.parent.name}/{path.parent.stem}/{path.name}")
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
    new = path.with_name(f".{path.name}.new-{uuid4().hex[:8]}")
    try:
        _write_files(new, recording, complete)
        _verify_written(new, recording, complete)
        replace_folder(new, path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
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
    return path.with_name(f".{path.name}.old")


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
    """What is known of a vault, the format's own keys included, without reading its arrays."""
    try:
        metadata = json.loads((path / METADATA).read_text())
        if int(metadata["version"]) != int(_LAYOUT_VERSION):
            raise UserError(
                f"{path}: vault layout {metadata['version']}, this library reads {_LAYOUT_VERSION}"
            )
        schema = metadata["schema_version"]
    except FileNotFoundError:
        _check_not_interrupted(path)
        raise UserError(
            f"{path}: no vault here (no {METADATA}); give the folder <root>/<family>/<scenario>.vlt/<quality>"
        ) from None
    except KeyError as error:
        raise UserError(f"{path}/{METADATA}: no {error}; this vault was not written by mtmarl") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}/{METADATA}: damaged ({error}); restore or collect it again") from None
    if schema > SCHEMA_VERSION:
        raise UserError(f"{path}: schema_version {schema} is newer than {SCHEMA_VERSION}; update mtmarl")
    return metadata


def read_vault(path: str | os.PathLike, check: bool = True) -> Vault:
    """A vault as NumPy arrays in their stored dtypes, validated unless `check` is False; uses no device."""
    path = Path(path).expanduser().resolve()
    metadata = read_metadata(path)
    shapes, dtypes = metadata.get("structure_shape", {}), metadata.get("structure_dtype", {})
    columns = {}
    for field in Recording._fields:
        if field not in shapes or field not in dtypes:
            raise UserError(
                f"{path}: {field} is missing; this vault was not written by mtmarl, or is damaged"
            )
    try:
        steps = int(open_leaf(path, "vault_index").read().result()[0])
        # all leaves are requested before the first is waited for
        pending = {name: open_leaf(path, f"{name}.")[0, 0:steps].read() for name in Recording._fields}
        for field, future in pending.items():
            columns[field] = future.result()
    except (ValueError, OSError) as error:  # what TensorStore raises for missing or damaged files
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"{path}: cannot be read ({reason}); restore the files or collect them again"
        ) from None
    for field, value in columns.items():
        if value.dtype.name != dtypes[field] or value.shape[1:] != literal_eval(shapes[field])[2:]:
            raise UserError(
                f"{path}: {field} is {value.dtype}{value.shape}, not as {METADATA} says; restore the vault"
            )
    vault = Vault(Recording(**columns), own_metadata(metadata), path)
    if check:
        validate(vault)
    return vault


# ------------------------------------------------------------------------------------- roots and manifests


def default_roots() -> list[Path]:
    """Where vaults are looked for, in order: $MTMARL_VAULTS, ./vault_data, beside the package, inside it."""
    package = Path(mtmarl.__file__).resolve().parent
    given = [Path(p) for p in os.environ.get("MTMARL_VAULTS", "").split(os.pathsep) if p]
    roots = [*given, Path("vault_data"), package.parent / "vault_data", package / "_vault_data"]
    return list(dict.fromkeys(p.expanduser().resolve() for p in roots))


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
    hub = shlex.quote(hub or "URL")
    root = "" if roots is None else f" --root {shlex.quote(str(paths[0].parents[2]))}"
    folder = "" if roots is None else f" data.vault_dir={shlex.quote(str(paths[0].parents[2]))}"
    how = f"data.quality={quality}"
    if quality in SINGLE_POLICIES:
        how = "collect.single_policies=true"
        # They are recorded along with training, which is not done again where its own vault is.
        folder = " data.vault_dir=FOLDER, a new one" if there else folder
    raise UserError(
        f"no {quality!r} vault of {task_name}, expected at {paths[0]}"
        + "".join(f" or {path}" for path in paths[1:])
        + (f"; there is {', '.join(there)}: add data.quality={there[0]}" if there else "")
        + f"; fetch it: python -m mtmarl.vault pull {task_name}/{quality} --hub {hub}{root}; or fetch what is "
        f"missing while training: add data.download=true hub.url={hub}; or collect it: "
        f"python -m mtmarl.collect +algo=sable +tasks={task_name} {how}{folder}"
    )


def list_vaults(root: str | os.PathLike) -> dict[str, Path]:
    """Vaults under a root by name, `family/scenario/quality`."""
    root = Path(root).expanduser().resolve()
    found = sorted(p.parent for p in root.glob(f"*/*.vlt/[!.]*/{METADATA}"))
    return {f"{p.parts[-3]}/{p.parent.stem}/{p.name}": p for p in found}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def to_json(value: Any) -> str:
    return json.dumps(value, indent=1, default=_json) + "\n"


def _write_json(file: Path, value: Any) -> None:
    write_whole(file, to_json(value))


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
        manifest = json.loads(content)
        version = manifest["schema_version"]
        for name, entry in manifest["vaults"].items():
            family, scenario, quality = vault_parts(name)
            folder = f"{family}/{scenario}.vlt/{quality}/"
            _ = int(entry["steps"]), int(entry["episodes"]), dict(entry["returns"])
            fits = (
                all(f.startswith(folder) for f in entry["files"]) and f"{folder}{METADATA}" in entry["files"]
            )
            if not fits or entry["task"] != f"{family}/{scenario}":
                raise ValueError(f"{name} lists files that are not its own")
            _check_files(entry["files"])
        _check_files(manifest.get("references", {}))
    except (UserError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{where}: damaged, or not a manifest of vaults ({reason}); restore it") from None
    if version > SCHEMA_VERSION:
        raise UserError(f"{where}: schema_version {version} is newer than {SCHEMA_VERSION}; update mtmarl")
    return manifest


def _check_files(files: Mapping[str, Mapping[str, Any]]) -> None:
    for place, of in files.items():
        parts = place.split("/")
        # A manifest may come from anywhere: no place of its may lie outside the root.
        plain = all(part not in ("", ".", "..") for part in parts) and not any(c in place for c in "\\:\0")
        if not plain or not re.fullmatch("[0-9a-f]{64}", of["sha256"]) or int(of["size"]) < 0:
            raise ValueError(f"file {place!r} has no legal place, size or hash")


def read_manifest(root: str | os.PathLike) -> dict[str, Any]:
    """The manifest of a root; a UserError if there is none or it is damaged."""
    file = Path(root).expanduser().resolve() / MANIFEST
    try:
        return parse_manifest(file.read_text(), file)
    except FileNotFoundError:
        raise UserError(f"{file}: not found; give the folder that holds the families") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: damaged ({error}); restore it") from None


def write_manifest(root: Path, vaults: Mapping[str, Any]) -> Path:
    """Writes `manifest.json` with these vaults and the references under the root."""
    references = {
        file.relative_to(root).as_posix(): fingerprint(file)
        for file in sorted((root / "references").glob("*/[!.]*.json"))
    }
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "vaults": dict(sorted(vaults.items())),
        "references": references,
    }
    _write_json(root / MANIFEST, manifest)
    return root / MANIFEST


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
    try:
        yield
    finally:
        lock.release()


def update_manifest(root: str | os.PathLike) -> Path:
    """Writes `manifest.json` of what lies under a root: steps, episodes, returns, and files with SHA-256.

    What else an earlier manifest says of a vault, such as where it was pulled from, is kept while its files are
    the same.
    """
    root = Path(root).expanduser().resolve()
    with locked(root, "manifest"):
        earlier = read_manifest(root)["vaults"] if (root / MANIFEST).exists() else {}
        vaults = {}
        for name, path in list_vaults(root).items():
            entry = manifest_entry(root, path)
            same = earlier.get(name, {}).get("files") == entry["files"]
            vaults[name] = {**earlier[name], **entry} if same else entry
        return write_manifest(root, vaults)


def verify(root: str | os.PathLike, name: str | None = None) -> list[str]:
    """Checks files against the manifest and arrays against the schema; returns the names of the sound vaults.

    `name` picks `family/scenario/quality`, or all qualities of `family/scenario`. UserError at the first
    fault.
    """
    root = Path(root).expanduser().resolve()
    manifest = read_manifest(root)
    listed = manifest["vaults"]
    names = [n for n in listed if name is None or n == name or n.rpartition("/")[0] == name]
    if name is not None and not names:
        raise UserError(f"{root / MANIFEST}: no vault {name!r}; it lists {', '.join(listed) or 'none'}")
    for each in names:
        for relative, expected in listed[each]["files"].items():
            _verify_file(root / relative, expected, f"vault {each}")
        family, scenario, quality = each.split("/", 2)
        vault = read_vault(vault_path(root, f"{family}/{scenario}", quality))
        told = vault.metadata.get("contents")
        if told and told != _contents(vault.recording, vault.metadata):
            raise UserError(f"{vault.path}: its arrays are not those that {METADATA} tells of; restore it")
    if name is None:
        for relative, expected in manifest.get("references", {}).items():
            _verify_file(root / relative, expected, "reference returns")
    return names


def _verify_file(file: Path, expected: Mapping[str, Any], part_of: str) -> None:
    if not file.is_file():
        raise UserError(f"{file}: missing from {part_of}; restore or collect it again")
    if file.stat().st_size != expected["size"] or _digest(file) != expected["sha256"]:
        raise UserError(f"{file}: not the file in {MANIFEST} ({part_of}); restore or collect it again")


def write_reference(root: str | os.PathLike, task_name: str, figures: Mapping[str, Any]) -> Path:
    """Keeps what returns of a task are measured against (`reference`, `random`, …), with or without a vault.

    One file per task, `<root>/references/<family>/<scenario>.json`: tasks may be collected side by side.
    """
    file = reference_file(root, task_name)
    _write_json(file, dict(figures))
    return file


def reference_file(root: str | os.PathLike, task_name: str) -> Path:
    family, scenario = task_parts(task_name)
    return Path(root).expanduser().resolve() / "references" / family / f"{scenario}.json"


def read_references(root: str | os.PathLike) -> dict[str, dict[str, Any]]:
    """The reference figures kept under a root, by task; empty if there are none."""
    found = {}
    for file in sorted((Path(root).expanduser().resolve() / "references").glob("*/[!.]*.json")):
        try:
            found[f"{file.parent.name}/{file.stem}"] = json.loads(file.read_text())
        except ValueError as error:
            raise UserError(f"{file}: damaged ({error}); restore it or collect the task again") from None
    return found
