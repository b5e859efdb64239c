"""`manifest.json` of a root: its vaults, and the size and SHA-256 of each file. Hubs publish it, `verify` checks it."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Required, TypedDict

import numpy as np

from mtmarl import records, terminal
from mtmarl.command_lines import command
from mtmarl.data.vault.catalogue import catalogue, has_vault, name_of, named_path, reference_files
from mtmarl.data.vault.schema import (
    METADATA,
    SCHEMA_VERSION,
    Recording,
    Returns,
    Sha256,
    check_schema_version,
)
from mtmarl.data.vault.store import completed, locked, read_metadata, read_vault, to_json, write_vault
from mtmarl.errors import UserError
from mtmarl.files import files_below, write_whole
from mtmarl.parsing import convert, shown
from mtmarl.ranges import Count, Natural, Range
from mtmarl.task_names import vault_parts

MANIFEST = "manifest.json"
_FORBIDDEN = "\\:\0"  # in paths
_MAX_PATH = 1000  # bytes; file systems take about 4000 with the path of the root
Say = Callable[[str], object]


# ------------------------------------------------------------------------------------------------ contents


def fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def manifest_entry(root: Path, path: Path) -> dict[str, Any]:
    """What a manifest says of one vault; `files` maps paths below the root to size in bytes and SHA-256."""
    metadata = read_metadata(path)
    return {
        "task": metadata["task"],
        "steps": metadata["steps"],
        "episodes": metadata["episodes"],
        "returns": metadata["episode_return"],
        "files": {file.relative_to(root).as_posix(): fingerprint(file) for file in files_below(path)},
    }


class File(TypedDict):
    size: Annotated[int, Range(0, 2**63 - 1)]
    sha256: Sha256


class Entry(TypedDict):
    task: str
    steps: Natural
    episodes: Natural
    returns: Returns
    files: dict[str, File]


class Manifest(TypedDict, total=False):
    schema_version: Required[Count]
    vaults: Required[dict[str, Entry]]
    references: dict[str, File]


def parse_manifest(content: str | bytes, where: Any) -> dict[str, Any]:
    """A manifest from its text, checked: types, names, paths below the root. Raises a UserError that names `where`."""
    where = f"{where}: damaged, or not a manifest of vaults (restore it)"
    manifest = records.loads(content, where)
    convert(Manifest, manifest, where, "")
    check_schema_version(manifest["schema_version"], where)
    for name, entry in manifest["vaults"].items():
        family, scenario, dataset = _parts(name, where)
        folder = f"{family}/{scenario}.vlt/{dataset}/"
        if entry["task"] != f"{family}/{scenario}":
            raise UserError(f"{where}: {shown(name)} is said to be of another task, {shown(entry['task'])}")
        if f"{folder}{METADATA}" not in entry["files"] or not all(
            f.startswith(folder) for f in entry["files"]
        ):
            raise UserError(f"{where}: {name} lists files that are not its own")
        _check_paths(entry["files"], where)
    _check_paths(manifest.get("references", {}), where)
    return manifest


def _parts(name: str, where: str) -> tuple[str, str, str]:
    try:
        return vault_parts(name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _check_paths(paths: Iterable[str], where: str) -> None:
    """A manifest may come from anywhere: each path must lie below the root."""
    for path in paths:
        outside = any(part in ("", ".", "..") for part in path.split("/")) or set(path) & set(_FORBIDDEN)
        if outside or len(path.encode(errors="replace")) > _MAX_PATH:
            raise UserError(f"{where}: illegal path {shown(path)}")


def read_manifest(root: str | Path) -> dict[str, Any]:
    """The manifest of a root. Raises UserError if there is none or it is damaged."""
    file = Path(root).expanduser().resolve() / MANIFEST
    try:
        return parse_manifest(file.read_bytes(), file)
    except FileNotFoundError:
        raise UserError(f"{file}: not found; give the folder that holds the families") from None


# ------------------------------------------------------------------------------------------------- writing


def write_manifest(root: Path, vaults: Mapping[str, Any]) -> Path:
    """Writes `manifest.json` with these vaults and the references below the root. Raises UserError if illegal."""
    references = {file.relative_to(root).as_posix(): fingerprint(file) for file in reference_files(root)}
    vaults = dict(sorted(vaults.items()))
    text = to_json({"schema_version": SCHEMA_VERSION, "vaults": vaults, "references": references})
    file = root / MANIFEST
    parse_manifest(text, file)
    write_whole(file, text)
    return file


def record(root: Path, entries: Mapping[str, Any], say: Say = terminal.say) -> None:
    """Adds vaults to a manifest, also those that a killed process left unlisted; removes those that are gone."""
    with locked(root, "manifest", say):
        listed = {n: e for n, e in _listed(root, say).items() if has_vault(named_path(root, n))} | dict(
            entries
        )
        unlisted = {n: path for n, path in catalogue(root).vaults.items() if n not in listed}
        entries, faults = _entries(root, unlisted)
        write_manifest(root, listed | entries)
    for fault in faults.values():
        say(f"left out: {fault}")


def update_manifest(root: str | Path, say: Say = terminal.say) -> Path:
    """Writes the manifest of a root anew: steps, episodes, returns and files of each vault.

    A vault whose files have changed is read first. A damaged one is named and keeps its earlier entry. Other keys of an
    earlier entry, such as the source of a pull, are kept while its files are the same.
    """
    root = Path(root).expanduser().resolve()
    with locked(root, "manifest", say):
        earlier, found = _listed(root, say), catalogue(root)
        entries, faults = _entries(root, found.vaults, earlier)
        faults = {**found.faults, **faults}
        file = write_manifest(root, entries | {name: earlier[name] for name in faults if name in earlier})
    for fault in faults.values():
        say(f"left out: {fault}")
    return file


def _listed(root: Path, say: Say) -> dict[str, Any]:
    """The vaults that the manifest of a root lists; none, with a line, if it is damaged."""
    if not (root / MANIFEST).exists():
        return {}
    try:
        return read_manifest(root)["vaults"]
    except UserError as error:
        say(f"{error}; written anew from the vaults that are there")
        return {}


def _entries(
    root: Path, paths: Mapping[str, Path], earlier: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The entries of sound vaults, and what is wrong with the others."""
    entries, faults = {}, {}
    for name, path in paths.items():
        try:
            entry, before = manifest_entry(root, path), (earlier or {}).get(name)
            check_entry(name, entry, path)
            if before and before["files"] == entry["files"]:
                entry = {**before, **entry}
            else:
                read_vault(path)
            entries[name] = entry
        except UserError as error:
            faults[name] = str(error)
    return entries, faults


def check_entry(name: str, entry: Mapping[str, Any], where: Any) -> None:
    """Raises a UserError if an entry would not be read back."""
    parse_manifest(to_json({"schema_version": SCHEMA_VERSION, "vaults": {name: entry}}), where)


def is_listed(root: Path, path: Path) -> bool:
    """Whether the manifest of a root lists the vault that now lies at `path`, not an earlier one."""
    listed = _listed(root, lambda text: None).get(name_of(path), {}).get("files", {})
    return listed.get((path / METADATA).relative_to(root).as_posix()) == fingerprint(path / METADATA)


def check_free(path: Path, replace: bool) -> Path:
    """The place of a new vault. Raises a UserError if it is taken, unless `replace`, or lies behind a link."""
    if path.resolve() != path:
        raise UserError(f"{path}: leads to {path.resolve()} by a link; give the folder itself with --root")
    if path.exists() and not replace:
        if has_vault(path) and not is_listed(path.parents[2], path):  # left by a process that was killed
            list_vault(path)
        raise UserError(f"{path}: is there already; choose another name, or --replace")
    return path


def add_vault(path: Path, recording: Recording, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a vault and lists it in the manifest of its root; returns its entry. Nothing is left of a failed write."""
    existing = next(p for p in path.parents if p.exists())
    try:
        write_vault(path, recording, metadata)
    except (OSError, ValueError) as error:  # TensorStore raises ValueError for a full disk.
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot be written ({reason}); nothing of it is left") from None
    finally:
        for empty in (p for p in path.parents if p.is_relative_to(existing) and p != existing):
            with suppress(OSError):  # Not empty: others have written there.
                empty.rmdir()
    return list_vault(path)


def add_once(path: Path, recording: Recording, metadata: Mapping[str, Any], replace: bool) -> str:
    """`add_vault`, unless the same vault is there already; says which in a line."""
    if path.exists() and not replace:
        there, expected = read_vault(path), completed(recording, metadata)
        same = all(there.metadata[key] == expected[key] for key in ("task", "obs_scale", "dims"))
        if same and all(map(np.array_equal, there.recording, recording)):
            list_vault(path)
            return f"{path}: is there already, the same"
    entry = add_vault(check_free(path, replace), recording, metadata)
    return f"{path}: {entry['steps']:,} steps, {entry['episodes']:,} whole episodes"


def list_vault(path: Path) -> dict[str, Any]:
    """Lists the vault at `path` in the manifest of its root; returns its entry."""
    root = path.parents[2]
    entry = manifest_entry(root, path)
    try:
        record(root, {name_of(path): entry})
    except OSError as error:
        raise UserError(
            f"{root / MANIFEST}: cannot be written ({error}); the same command lists {path}"
        ) from None
    return entry


# ------------------------------------------------------------------------------------------------ checking


def check_all(root: str | Path, name: str | None = None) -> Iterator[tuple[str, str | None]]:
    """(vault, what is wrong with it or None) for the vaults of a root.

    Checked: files and figures against the manifest, arrays against the schema and their checksum, the manifest against
    the folders. `name` selects `family/scenario/dataset` or all datasets of `family/scenario`; the default is all, and
    the references. Raises UserError where there is nothing to check.
    """
    root = Path(root).expanduser().resolve()
    manifest, found = read_manifest(root), catalogue(root)
    listed = manifest["vaults"]
    known = sorted({*listed, *found.vaults, *found.faults})
    names = [n for n in known if name is None or n == name or n.rpartition("/")[0] == name]
    if name is not None and not names:
        raise UserError(f"{root / MANIFEST}: no vault {name!r}; it lists {', '.join(listed) or 'none'}")
    for each in names:
        try:
            if each not in listed:
                unlisted = (
                    f"{named_path(root, each)}: not in {MANIFEST}; add it with {repair(root)}; or remove it"
                )
                raise UserError(found.faults.get(each, unlisted))
            _verify_vault(root, each, listed[each])
            yield each, None
        except UserError as error:
            yield each, str(error)
    for relative, expected in {} if name else manifest.get("references", {}).items():
        try:
            _verify_file(root / relative, expected, "reference returns")
        except UserError as error:
            yield relative, str(error)


def verify(root: str | Path, name: str | None = None) -> list[str]:
    """The names of the vaults of a root if `check_all` finds no fault; else a UserError with the first."""
    sound = []
    for each, fault in check_all(root, name):
        if fault is not None:
            raise UserError(fault)
        sound.append(each)
    return sound


def repair(root: Path) -> str:
    """The command that writes the manifest of a root anew."""
    return command("vault", "verify", "--repair", "--root", root)


def _verify_vault(root: Path, name: str, listed: Mapping[str, Any]) -> None:
    for relative, expected in listed["files"].items():
        _verify_file(root / relative, expected, f"vault {name}")
    path = named_path(root, name)
    files = {file.relative_to(root).as_posix() for file in files_below(path)}
    if extra := sorted(files - set(listed["files"])):
        raise UserError(f"{root / extra[0]}: not a file of vault {name}, by {MANIFEST}; remove it")
    metadata = read_vault(path).metadata
    for key, of in (("steps", "steps"), ("episodes", "episodes"), ("returns", "episode_return")):
        if listed[key] != metadata[of]:
            raise UserError(
                f"{root / MANIFEST}: says {key} = {listed[key]} of {name}, its {METADATA} says {metadata[of]}; "
                f"write the manifest anew with {repair(root)}"
            )


def _verify_file(file: Path, expected: Mapping[str, Any], part_of: str) -> None:
    if not file.is_file():
        raise UserError(f"{file}: missing from {part_of}; restore or collect it again")
    if fingerprint(file) != {"size": expected["size"], "sha256": expected["sha256"]}:
        raise UserError(f"{file}: not the file in {MANIFEST} ({part_of}); restore or collect it again")
