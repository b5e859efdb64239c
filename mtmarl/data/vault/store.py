"""Reading and writing of vaults: TensorStore arrays in the layout of Flashbax vaults 1.2, and `metadata.json`.

`flashbax.vault.Vault` opens what is written here. That class itself is not used: it resolves paths against the working
directory, cannot run inside an event loop, leaves an exactly full buffer unwritten and reads onto the accelerator.
"""

import hashlib
import json
import os
import shutil
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

import mtmarl
from mtmarl import files, records, terminal
from mtmarl.data.vault import verified
from mtmarl.data.vault.checks import check_recording, contents_hash, in_stored_dtypes, summary, validate
from mtmarl.data.vault.schema import (
    COLUMNS,
    LAYOUT_VERSION,
    METADATA,
    SCHEMA_VERSION,
    Recording,
    Vault,
    check_metadata,
    own_metadata,
    stored_bytes,
)
from mtmarl.errors import UserError
from mtmarl.files import files_below, is_utf8, scratch_folder, store_errors
from mtmarl.task_names import vault_parts

OLD = ".old"  # suffix of a vault while another takes its place
_MAX_STEPS = 10**13  # length of the time axis, most of it never written
# Column-major chunks ("F") run along time, where most features stay the same for many steps: half the size of row-major
# chunks with gzip, read as fast. Levels 18 and 19 save 1 to 3% more and take up to two and a half times as long.
_COMPRESSION = {"order": "F", "compressor": {"id": "zstd", "level": 17}}
_CHUNK_BYTES = 2**22
_FILE_BYTES = 8 * 10**6  # size at which the store begins another file


# ------------------------------------------------------------------------------------------------- arrays


def check_place(path: Path) -> None:
    """Raises a UserError for a path that TensorStore misreads or cannot open."""
    if "\\" in str(path) or not is_utf8(path):
        raise UserError(
            f"{str(path)!r}: a vault cannot lie below a name with a backslash or one that is not UTF-8; rename it"
        )


def open_leaf(
    base: Path, leaf: str, layout: Mapping[str, Any] | None = None, **options: Any
) -> ts.TensorStore:
    """One array of a Flashbax vault by its key in the store: a column's name and a dot, or `vault_index`."""
    check_place(base)
    # A path, not a URL, in which #, ? and % have a meaning.
    folder = {"driver": "file", "path": f"{base}/"}
    store = {"driver": "ocdbt", "base": folder, "path": leaf, "target_data_file_size": _FILE_BYTES}
    spec = {"driver": "zarr", "kvstore": store} | ({"metadata": layout} if layout else {})
    return ts.open(spec, **options).result()


def create_leaf(base: Path, name: str, like: np.ndarray) -> ts.TensorStore:
    """An empty array [1, time, …] for the rows of `like`, in chunks of at most as many rows."""
    rows = max(1, min(len(like), _CHUNK_BYTES // like[0].nbytes))
    layout = _COMPRESSION | {"chunks": [1, rows, *like.shape[1:]]}
    shape = (1, _MAX_STEPS, *like.shape[1:])
    return open_leaf(base, f"{name}.", layout, dtype=like.dtype.name, shape=shape, create=True)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what TensorStore raises for missing or damaged files into a UserError."""
    try:
        yield
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(
            f"{path}: cannot be read ({reason}); restore the files or collect them again"
        ) from None


def open_columns(path: Path, metadata: Mapping[str, Any]) -> dict[str, ts.TensorStore]:
    """The arrays of a vault, [steps, …], not read yet. Raises UserError unless they are as the metadata say."""
    shapes, dtypes = metadata["structure_shape"], metadata["structure_dtype"]
    for name, column in COLUMNS.items():
        if name not in shapes or dtypes.get(name) not in column.dtypes:
            raise UserError(f"{path}: {name} is missing or of a wrong type in {METADATA}; restore the vault")
    with reading(path):
        steps = open_leaf(path, "vault_index").read().result().tolist()
        if steps != [metadata["steps"]]:
            raise UserError(
                f"{path}: {METADATA} says steps = {metadata['steps']}, the store has {steps}; restore the vault"
            )
        columns = {}
        for name, column in COLUMNS.items():
            leaf = open_leaf(path, f"{name}.")
            shape, expected = leaf.shape[2:], literal_eval(shapes[name])[2:]
            if leaf.dtype.name != dtypes[name] or shape != expected or leaf.rank != column.axes + 1:
                raise UserError(
                    f"{path}: {name} is {leaf.dtype.name}{shape}, {METADATA} says {dtypes[name]}{expected}; "
                    "restore the vault"
                )
            columns[name] = leaf[0, 0 : metadata["steps"]]
    return columns


# ------------------------------------------------------------------------------------------------ reading


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata of a vault as stored, without reading its arrays.

    Raises UserError for a missing or wrong value, and for a vault in the folder of another task.
    """
    file, folder = path / METADATA, path.parent
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        check_not_interrupted(path)
        raise UserError(
            f"{path}: no vault here (no {METADATA}); give the folder <root>/<family>/<scenario>.vlt/<dataset>"
        ) from None
    where = f"{file}: damaged, or not written by mtmarl (restore or convert it)"
    metadata = records.loads(content, where)
    check_metadata(metadata, where)
    task = f"{folder.parent.name}/{folder.stem}"
    if folder.suffix == ".vlt" and metadata["task"] != task:
        raise UserError(
            f"{path}: holds {metadata['task']}, and lies in the folder of {task}; move it to "
            f"{metadata['task']}.vlt, or remove it"
        )
    return metadata


def read_vault(path: str | os.PathLike, check: bool = True) -> Vault:
    """A vault as NumPy arrays in their stored dtypes; no accelerator is used.

    Unless `check` is False, the arrays are checked against schema, metadata and checksum. Raises UserError.
    """
    path = Path(os.path.abspath(Path(path).expanduser()))
    metadata = read_metadata(path)
    state = verified.stamp(files_below(path)) if check else ""
    columns = open_columns(path, metadata)
    if (need := stored_bytes(metadata)) > memory():
        raise UserError(
            f"{path}: takes {need / 2**20:,.0f} MB, more than this machine's memory; train with data.memory_mb, which "
            "leaves it on disk, or restore it"
        )
    with reading(path):
        pending = {name: column.read() for name, column in columns.items()}  # all at once
        recording = Recording(**{name: future.result() for name, future in pending.items()})
    vault = Vault(recording, own_metadata(metadata), path)
    if check:
        validate(vault)
        check_contents(vault, path, state)
    return vault


def check_contents(vault: Vault, folder: Path, state: str) -> None:
    """Raises UserError unless a vault holds the arrays whose checksum was written with them.

    `folder` holds the files that were read, `state` is their `verified.stamp`. Vaults of earlier versions have none.
    """
    expected = vault.metadata.get("contents")
    if expected is None or verified.is_verified(folder, state):
        return
    if expected != contents_hash(vault.recording, vault.metadata):
        raise UserError(f"{vault.path}: its arrays are not those that {METADATA} tells of; restore it")
    verified.remember(folder, state)


def memory() -> float:
    """Bytes of memory of this machine; infinity where that is not known."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return np.inf


def identity(path: Path) -> str:
    """A SHA-256 that differs between vaults of different contents, read from one or two small files.

    It does not change with compression, except for vaults of earlier versions without a checksum in their metadata.
    """
    if contents := read_metadata(path).get("contents"):
        return contents
    return hashlib.sha256((path / METADATA).read_bytes() + (path / "manifest.ocdbt").read_bytes()).hexdigest()


# ------------------------------------------------------------------------------------------------ writing


def as_plain(value: Any) -> Any:
    """NumPy values and paths as JSON has them; for `default` of `json.dumps`."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise UserError(
        f"metadata: {value!r} cannot be written as JSON; pass numbers, text, lists or dictionaries"
    )


def to_json(value: Any) -> str:
    return json.dumps(value, indent=1, default=as_plain) + "\n"


def write_vault(path: str | os.PathLike, recording: Recording, metadata: Mapping[str, Any]) -> Path:
    """Writes a vault at `<root>/<family>/<scenario>.vlt/<dataset>`, or replaces the one there; returns the path.

    `metadata` needs `task` (family/scenario) and `obs_scale` (a number, or one per feature). It should give `horizon`
    in env steps (default: the longest episode) and may hold anything that JSON can. The rest is filled in.
    The vault is written and read back elsewhere, then moved: if anything fails, what was at `path` stays.
    """
    path = Path(path).expanduser().resolve()
    if path.parent.suffix != ".vlt":
        raise UserError(f"{path}: not a place for a vault; use <root>/<family>/<scenario>.vlt/<dataset>")
    name = "/".join(vault_parts(f"{path.parent.parent.name}/{path.parent.stem}/{path.name}"))
    check_place(path)
    for key in ("task", "obs_scale"):
        if key not in metadata:
            raise UserError(f"{path}: metadata has no {key!r}; pass it to write_vault")
    recording = in_stored_dtypes(recording, path)
    check_recording(recording, path)
    complete = completed(recording, metadata)
    validate(Vault(recording, complete, path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with store_errors(path), scratch_folder(path.parent, f".{path.name}.new-") as scratch:
        new = scratch / path.name
        _write_files(new, recording, complete)
        _verify_written(new, recording, complete)
        with locked(path.parents[2], name):
            replace_folder(new, path)
    return path


def completed(recording: Recording, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as stored, without the keys of the Flashbax layout."""
    scale = np.asarray(metadata["obs_scale"], np.float64)
    horizon = metadata.get("horizon", metadata.get("dims", {}).get("horizon"))
    complete = dict(metadata) | {
        "obs_scale": np.broadcast_to(scale, recording.obs.shape[2]) if scale.ndim == 0 else scale,
        **summary(recording, int(horizon or recording.step_count.max() + 1)),
        "schema_version": SCHEMA_VERSION,
        "library_version": mtmarl.__version__,
    }
    complete = json.loads(json.dumps(complete, default=as_plain))
    return complete | {"contents": contents_hash(recording, complete)}


def _write_files(base: Path, recording: Recording, metadata: dict[str, Any]) -> None:
    base.mkdir()
    columns = recording._asdict()
    layout = {
        "version": LAYOUT_VERSION,
        "structure_shape": {k: str((1, *v.shape)) for k, v in columns.items()},
        "structure_dtype": {k: v.dtype.name for k, v in columns.items()},
    }
    (base / METADATA).write_text(json.dumps(layout | metadata, indent=1))
    steps = len(recording.first)
    for name, value in columns.items():
        create_leaf(base, name, value)[0, 0:steps].write(value).result()
    index = open_leaf(base, "vault_index", dtype="int32", shape=(1,), create=True)
    index.write(np.array([steps], np.int32)).result()


def _verify_written(base: Path, recording: Recording, metadata: dict[str, Any]) -> None:
    back = read_vault(base)
    pairs = zip(Recording._fields, back.recording, recording, strict=True)
    wrong = [name for name, a, b in pairs if not np.array_equal(a, b)]
    if wrong or back.metadata != metadata:
        what = wrong[0] if wrong else METADATA
        raise UserError(f"{base}: {what} reads back differently from what was written; check the disk")


@contextmanager
def locked(root: Path, name: str, say: Callable[[str], object] = terminal.say) -> Iterator[None]:
    """Lets one process at a time work on a part of a root."""
    said = []

    def wait() -> None:
        if not said:
            said.append(say(f"{name}: waiting for another process that writes it"))

    with files.locked(root / ".locks" / f"{name.replace('/', '--')}.lock", wait):
        yield


def replace_folder(new: Path, path: Path) -> None:
    """Moves a finished folder to `path`; what was there is removed once the new one is in its place.

    If the process is killed in between, `check_not_interrupted` tells where the old one lies.
    """
    old = _aside(path)
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


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}{OLD}")


def check_not_interrupted(path: Path) -> None:
    """Raises a UserError with the remedy where a process was killed while it replaced a vault."""
    old = _aside(path)
    if old.exists() and not path.exists():
        raise UserError(f"{path}: was being replaced when that was killed; restore it: mv {old} {path}")
