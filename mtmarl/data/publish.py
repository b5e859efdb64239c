"""Vaults to a hub, with a manifest and a card that describe all it holds."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from mtmarl import terminal
from mtmarl.data import card, hub, stores
from mtmarl.data import vault as vaults
from mtmarl.data.describe import describe
from mtmarl.errors import UserError
from mtmarl.files import staged

CARD = "README.md"
WORKERS = 8
_EMPTY = vaults.to_json({"schema_version": vaults.SCHEMA_VERSION, "vaults": {}}).encode()
Files = dict[str, Path | bytes]


def push(
    address: str,
    root: str | os.PathLike,
    names: Sequence[str] = (),
    *,
    title: str | None = None,
    license: str | None = None,
    create: bool = False,
    replace: bool = False,
    draw: Callable[[str, Mapping[str, Any]], bytes] | None = None,
    say: hub.Say = terminal.say,
) -> str:
    """Publishes vaults of a root with the reference returns of their families; returns the pinned address.

    Each vault is validated, described and published with the manifest and the card of all that the hub then holds: on
    Hugging Face as one commit, elsewhere with the manifest last, so that nobody finds a manifest of files that are not
    there yet. `draw(name, description)` makes its picture (PNG). What the hub has with other content is only replaced
    with `replace`. `create`: make a private Hugging Face data set if there is none.
    """
    root = Path(root).expanduser().resolve()
    local, faults = vaults.catalogue(root)
    if not local and not faults:
        raise UserError(f"{root}: no vaults here; give the folder that holds the families")
    chosen = hub.choose(sorted({**local, **faults}), names, str(root))
    with hub.one_by_one(len(chosen), "pushed", say) as failed:
        failed += [(name, UserError(faults[name])) for name in chosen if name in faults]
        store, figures = _connect(address, create), vaults.read_references(root)
        title = title or (store.repository.name if store.repository else store.base).rpartition("/")[2]
        for name in (n for n in chosen if n in local):
            with _turn(store, say):
                content = stores.read_small(store, vaults.MANIFEST) or _EMPTY
                manifest = vaults.parse_manifest(content, f"{store.address}, {vaults.MANIFEST}")
                entries, references = manifest["vaults"], manifest.setdefault("references", {})
                before = entries.get(name, {}).get("files", {})
                try:
                    entry = vaults.manifest_entry(root, local[name])
                    vaults.check_entry(name, entry, local[name])
                    if before and before != entry["files"] and not replace:
                        raise UserError(
                            f"{store.address}: has another {name}; push it as another dataset, or with --replace"
                        )
                    about = describe(vaults.read_vault(local[name]), figures.get(entry["task"]))
                except (UserError, OSError) as error:  # Of this vault; the others are published.
                    failed.append((name, error))
                    continue
                new = {place: of for place, of in entry["files"].items() if before.get(place) != of}
                files: Files = {place: root / place for place in new}
                if draw is not None:
                    about["picture"] = f"figures/{name}.png"
                    files[about["picture"]] = draw(name, about)
                for file in sorted((root / "references" / name.partition("/")[0]).glob("[!.]*.json")):
                    place, of = file.relative_to(root).as_posix(), vaults.fingerprint(file)
                    if place in references and references[place] != of and not replace:
                        say(f"{place}: kept as it is on the hub, where the figures differ")
                    elif references.get(place) != of:
                        files[place], references[place] = file, of
                entries[name] = {**entry, "description": about}
                for part in ("vaults", "references"):
                    manifest[part] = dict(sorted(manifest[part].items()))
                files[CARD] = _card(store, manifest["vaults"], title, license)
                files[vaults.MANIFEST] = vaults.to_json(manifest).encode()
                store = _publish(
                    store, root, name, entries[name], files, set(before) - set(entry["files"]), say
                )
            say(f"{name}: pushed, {sum(of['size'] for of in new.values()) / 1e6:.1f} MB")
    return store.pinned if store.repository else hub.read_manifest(store)[1].pinned


def _turn(store: stores.Store, say: hub.Say) -> AbstractContextManager[None]:
    """Pushes to one folder take turns. Elsewhere the hub refuses a commit that is not on top, or knows no locks."""
    return vaults.locked(Path(store.base), "push", say) if store.is_folder else nullcontext()


def _connect(address: str, create: bool) -> stores.Store:
    """The place to publish at, made if need be."""
    url, fingerprint, repository = stores.parse(address)
    if fingerprint:
        raise UserError(f"{address}: a fingerprint says what is there already; push without it")
    if url.startswith(("http://", "https://")):
        raise UserError(f"{address}: can only be read; push to hf://, s3://, gs:// or a folder")
    if repository and re.fullmatch("[0-9a-f]{40}", repository.branch):
        raise UserError(f"{address}: a commit cannot change; push to a branch")
    if create and repository:
        make = stores.huggingface_api().create_repo
        stores.patiently(
            lambda: make(repository.name, repo_type="dataset", private=True, exist_ok=True), address
        )
    return stores.connect(address)


def _card(store: stores.Store, entries: Mapping[str, Any], title: str, license: str | None) -> bytes:
    old = stores.read_small(store, CARD)
    try:
        return card.update(old.decode() if old else None, card.card(entries, title, license)).encode()
    except UnicodeDecodeError:
        raise UserError(f"{store.address}, {CARD}: not UTF-8; correct or remove it there") from None


def _publish(
    store: stores.Store,
    root: Path,
    name: str,
    entry: Mapping[str, Any],
    files: Files,
    stale: set[str],
    say: hub.Say,
) -> stores.Store:
    if store.repository:
        return _commit(store, files, stale, f"{name}: {entry['steps']:,} steps")
    if store.is_folder:
        target = Path(store.base)
        more = {target / f: of for f, of in files.items() if f not in (*entry["files"], vaults.MANIFEST)}
        # All is on disk before anything is in its place. The manifest is that of the folder then: others may have
        # collected or pulled into it meanwhile.
        with staged({f: of if isinstance(of, bytes) else of.read_bytes() for f, of in more.items()}):
            hub.Transfer(stores.folder(root), target, say, replace=True).vault(name, entry)
        vaults.record(target, {name: entry}, say)
        return store
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda f: _put(store, f, files[f]), [f for f in files if f != vaults.MANIFEST]))
    _put(store, vaults.MANIFEST, files[vaults.MANIFEST])  # It vouches for the others.
    for place in sorted(stale):
        stores.patiently(
            lambda place=place: store.fs.rm_file(store.place(place)), f"{store.address}, {place}"
        )
    return store


def _put(store: stores.Store, place: str, content: Path | bytes) -> None:
    where, target = f"{store.address}, {place}", store.place(place)
    if isinstance(content, bytes):
        size, send = len(content), lambda: store.fs.pipe_file(target, content)
    else:
        size, send = content.stat().st_size, lambda: store.fs.put_file(str(content), target)
    stores.patiently(send, where)
    arrived = stores.patiently(lambda: store.fs.info(target)["size"], where)
    if arrived != size:
        raise UserError(f"{where}: {arrived} of {size} bytes arrived; push again")


def _commit(store: stores.Store, files: Files, stale: set[str], message: str) -> stores.Store:
    """One commit on top of the one that was read: what somebody else pushed since is not undone."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    assert store.repository is not None
    repository, api = store.repository, stores.huggingface_api()
    inside = f"{repository.folder}/" if repository.folder else ""
    changes = [
        CommitOperationAdd(inside + place, of if isinstance(of, bytes) else str(of))
        for place, of in files.items()
    ] + [CommitOperationDelete(inside + place, is_folder=False) for place in sorted(stale)]

    def commit() -> stores.Store:
        try:
            done = api.create_commit(
                repository.name, changes, commit_message=message, repo_type="dataset", revision=repository.branch,
                parent_commit=repository.commit,
            )  # fmt: skip
            return stores.at_commit(store, done.oid)
        except Exception as error:
            if (
                stores.status_of(error) == 412
            ):  # Not on top: perhaps of an earlier attempt whose answer was lost.
                now = stores.connect(store.address)
                if stores.read_small(now, vaults.MANIFEST) == files[vaults.MANIFEST]:
                    return now
            raise

    return stores.patiently(commit, f"{store.address}, {message}")
