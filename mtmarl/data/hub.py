"""Data sets pulled from elsewhere: in parallel, each file checked against its SHA-256.

A hub is any place that holds vaults and a manifest, as a local root does. huggingface_hub and fsspec transfer bytes;
added here is what they do not do: the check against the manifest, a vault that appears whole or not at all, and a limit
to what a server may send.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import Any

from mtmarl import terminal
from mtmarl.data import vault as vaults
from mtmarl.data.stores import HubError, Store, connect, patiently, read_small
from mtmarl.errors import UserError, described
from mtmarl.files import files_below, remove
from mtmarl.foreign import shown

Say = Callable[[str], None]


def read_manifest(store: Store) -> tuple[dict[str, Any], Store]:
    """What a place holds, and the place with its pinned address. UserError if the fingerprint is another."""
    where = f"{store.address}, {vaults.MANIFEST}"
    content = read_small(store, vaults.MANIFEST)
    if content is None:
        raise UserError(
            f"{where}: not found; check the address, and that it is a data set published by mtmarl.vault push"
        )
    found = hashlib.sha256(content).hexdigest()
    if not f"sha256={found}".startswith(store.fingerprint):
        raise UserError(
            f"{where}: has the fingerprint sha256={found[:16]}, not {store.fingerprint}; the data there have changed"
        )
    if store.repository is None:
        store = store._replace(pinned=f"{store.pinned}#sha256={found[:16]}")
    return vaults.parse_manifest(content, where), store


def choose(listed: Iterable[str], names: Iterable[str], where: str) -> list[str]:
    """The vaults that are named: by family, `family/scenario` or `family/scenario/dataset`; all if none is."""
    listed, chosen = list(listed), []
    for name in names:
        mine = [v for v in listed if v == name or v.startswith(f"{name}/")]
        if not mine:
            raise UserError(f"{where}: holds no vault {name!r}; there are {', '.join(listed) or 'none'}")
        chosen += mine
    return list(dict.fromkeys(chosen)) if names else listed


@dataclass
class Transfer:
    """Vaults on their way from a store to a root, `workers` files at a time; `show(done, total)` tells the bytes."""

    store: Store
    root: Path
    say: Say
    replace: bool = False
    workers: int = 4
    show: Callable[[int, int], None] | None = None
    total: int = 0
    done: int = 0
    lock: Any = field(default_factory=Lock)

    def vault(self, name: str, entry: Mapping[str, Any]) -> bool:
        """Brings one vault, whole or not at all; False if it was there. Files of an earlier attempt are used."""
        files, path, root = entry["files"], vaults.named_path(self.root, name), self.root
        identity = hashlib.sha256("".join(f"{p}{files[p]['sha256']}" for p in sorted(files)).encode())
        part = path.with_name(f".{path.name}.pull-{identity.hexdigest()[:12]}")
        with vaults.locked(root, name, self.say):
            listed = vaults.read_manifest(root)["vaults"] if (root / vaults.MANIFEST).exists() else {}
            known = listed.get(name, {})
            found = {f.relative_to(root).as_posix() for f in files_below(path)} if path.is_dir() else set()
            there = found == set(files) and all(_is(root / place, of) for place, of in files.items())
            for left_over in path.parent.glob(f".{path.name}.pull-*"):  # By processes that were killed.
                if there or left_over != part:
                    remove(left_over)
            if there:
                self._advance(sum(of["size"] for of in files.values()))
                if known.get("files") != files:
                    vaults.record(root, {name: entry}, self.say)
                return False
            if path.exists() and not self.replace and not _was_pulled(root, path, known):
                raise UserError(
                    f"{path}: differs from {name} on {self.store.address} and was not pulled from a hub; move it away, "
                    "or replace it with --replace"
                )
            stop = Event()
            with ThreadPoolExecutor(self.workers) as pool:  # The lock is held until all threads have ended.
                targets = {place: part / (root / place).relative_to(path) for place in files}
                try:
                    list(pool.map(lambda p: self._fetch(p, files[p], targets[p], stop), files))
                finally:
                    stop.set()
            try:
                arrived = vaults.read_vault(part).metadata["task"]
                if arrived != entry["task"]:
                    raise UserError(f"its {vaults.METADATA} is that of another task, {arrived}")
            except UserError as error:
                remove(part)
                reason = str(error).replace(str(part), "the vault")
                raise UserError(f"{self.store.address}, {name}: {reason}; not taken") from None
            vaults.replace_folder(part, path)
            vaults.record(root, {name: entry}, self.say)
        return True

    def references(self, listed: Mapping[str, Any], families: set[str]) -> None:
        """Brings the reference returns of these families; those that are there stay."""
        new = {}
        with vaults.locked(self.root, "references", self.say):
            for left_over in (self.root / "references").glob("*/.*.pull-*"):  # By processes that were killed.
                remove(left_over)
            for place, expected in listed.items():
                if re.fullmatch(r"references/[^/]+/[^/]+\.json", place) is None:
                    raise UserError(
                        f"{self.store.address}: lists {place} among its references; restore its manifest"
                    )
                file = self.root / place
                if file.parent.name in families and not file.exists():
                    part = file.with_name(f".{file.name}.pull-{expected['sha256'][:12]}")
                    self._fetch(place, expected, part, Event())
                    new[file] = part.replace(file)
                elif file.exists() and not _is(file, expected):
                    self.say(f"{file}: kept, the hub has other figures")
            if new:
                vaults.record(self.root, {}, self.say)

    def _fetch(self, place: str, expected: Mapping[str, Any], file: Path, stop: Event) -> None:
        """One file, unless it is there; refused unless it has the size and hash that the manifest says."""
        from fsspec import Callback

        size, where = expected["size"], f"{self.store.address}, {place}"

        def attempt() -> None:
            before = 0

            def advance(_: Any, value: int, **__: Any) -> None:
                nonlocal before
                if stop.is_set():
                    raise UserError(f"{where}: stopped")
                if value > size:
                    raise UserError(f"{where}: more than the {size:,} bytes that the manifest names")
                self._advance(value - before)
                before = value

            tell = Callback(hooks={"": advance})
            try:
                with file.open("wb") as out:
                    # Before it writes to a file by name, Hugging Face's client asks for details.
                    to = out if self.store.repository else str(file)
                    self.store.fs.get_file(self.store.place(place), to, callback=tell)
                advance(None, size)  # A copy within a file system does not tell how far it is.
            except BaseException:
                self._advance(-before)
                raise

        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and _is(file, expected):
            self._advance(size)
            return
        patiently(attempt, where, stop.wait)
        if not _is(file, expected):
            file.unlink()
            raise UserError(
                f"{where}: not the file that the manifest names, by its size or SHA-256; it was damaged or replaced on "
                "the hub, nothing here was changed"
            )

    def _advance(self, count: int) -> None:
        with self.lock:
            self.done += count
            if self.show is not None:
                self.show(self.done, self.total)


def _is(file: Path, expected: Mapping[str, Any]) -> bool:
    """Whether a file has this size and hash."""
    return {**expected, **vaults.fingerprint(file)} == expected


def _was_pulled(root: Path, path: Path, known: Mapping[str, Any]) -> bool:
    """Whether a vault came from a hub and was at most damaged since, not written anew."""
    about = path / vaults.METADATA
    expected = known.get("files", {}).get(about.relative_to(root).as_posix())
    return "source" in known and (not about.exists() or vaults.fingerprint(about) == expected)


def pull(
    address: str,
    root: str | os.PathLike,
    names: Sequence[str] = (),
    *,
    say: Say = terminal.say,
    **options: Any,
) -> list[str]:
    """Brings vaults, and the reference returns of their families, from a hub to a root; returns their names.

    Files come into a folder beside their place; those that an interrupted pull brought are not fetched again. A vault
    appears only when each of its files has the hash of the manifest, by one rename. Vaults that are there are left
    alone; a changed one is replaced if it was pulled itself, or with `replace`. Another process that pulls the same
    vault is waited for. `options`: `replace`, `workers` and `show` of `Transfer`. UserError in one line if anything
    cannot be had; the other vaults are brought.
    """
    root, tell = Path(root).expanduser().resolve(), lambda text: say(shown(text))
    manifest, store = read_manifest(connect(address))
    listed = manifest["vaults"]
    chosen = choose(listed, names, address)
    sizes = {v: sum(of["size"] for of in listed[v]["files"].values()) for v in chosen}
    transfer = Transfer(store, root, tell, total=sum(sizes.values()), **options)
    need = sum(size for v, size in sizes.items() if not vaults.named_path(root, v).exists())
    try:
        root.mkdir(parents=True, exist_ok=True)
        if need > (free := shutil.disk_usage(root).free):
            raise UserError(
                f"{root}: {need / 1e6:.1f} MB to fetch, {free / 1e6:.1f} MB free; make room, or pull less"
            )
        with one_by_one(len(chosen), "pulled", tell) as failed:
            for name in chosen:
                try:
                    new = transfer.vault(name, {**listed[name], "source": store.pinned})
                    tell(f"{name}: {'pulled' if new else 'already there'}")
                except HubError:
                    raise
                except UserError as error:
                    failed.append((name, error))
            transfer.references(manifest.get("references", {}), {v.partition("/")[0] for v in chosen})
            tell(f"from {store.pinned}")
    except OSError as error:  # Of a full disk, the operating system does not say where.
        error.filename = error.filename or str(root)
        raise UserError(described(error)) from error
    return chosen


@contextmanager
def one_by_one(count: int, done: str, say: Say) -> Iterator[list[tuple[str, UserError | OSError]]]:
    """Collects those of `count` vaults that fail by a fault of their own; at the end, also where the hub itself fails,
    says what is wrong with each, and raises UserError that names them.
    """
    failed: list[tuple[str, UserError | OSError]] = []
    hub_failed = True
    try:
        yield failed
        hub_failed = False
    finally:
        if hub_failed or count > 1:
            for name, error in failed:
                say(f"{name}: not {done}: {described(error)}")
    if failed and count == 1:
        raise failed[0][1]
    if failed:
        raise UserError(
            f"{len(failed)} of {count} vaults not {done}: {', '.join(name for name, _ in failed)}; the lines above say "
            "why. Mend them and give the same command again"
        )
