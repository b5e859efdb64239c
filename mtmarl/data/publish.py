"""Vaults to a hub, with a manifest and a card that describe all it holds."""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from mtmarl.data import card, hub
from mtmarl.data import vault as vaults
from mtmarl.data.describe import describe
from mtmarl.data.hub import Say, Store
from mtmarl.errors import UserError
from mtmarl.files import write_whole

CARD = "README.md"
WORKERS = 8
Files = Mapping[str, Path | bytes]


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
    say: Say = print,
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
    chosen = hub.choose({"vaults": sorted({**local, **faults})}, names, str(root))
    store = _to_write(address, create)
    figures = vaults.read_references(root)
    failed: list[tuple[str, UserError | OSError]] = [(n, UserError(faults[n])) for n in chosen if n in faults]
    for name in (n for n in chosen if n in local):
        with _one_at_a_time(store, say):
            manifest = _read_manifest(store)
            entries, references = dict(manifest["vaults"]), dict(manifest.get("references", {}))
            before = entries.get(name, {}).get("files", {})
            try:
                entry = vaults.manifest_entry(root, local[name])
                vaults.check_entry(name, entry, local[name])
                if before and before != entry["files"] and not replace:
                    raise UserError(
                        f"{store.address}: has another {name}; push it under another quality, or with --replace"
                    )
                about = describe(vaults.read_vault(local[name]), figures.get(entry["task"]))
            except (UserError, OSError) as error:  # Of this vault; the others are published.
                failed.append((name, error))
                continue
            files: dict[str, Path | bytes] = {
                p: root / p for p, of in entry["files"].items() if before.get(p) != of
            }
            if draw is not None:
                about["picture"] = f"figures/{name}.png"
                files[about["picture"]] = draw(name, about)
            for file in sorted((root / "references" / name.partition("/")[0]).glob("[!.]*.json")):
                place, of = file.relative_to(root).as_posix(), vaults.fingerprint(file)
                if place in references and references[place] != of and not replace:
                    say(f"{place}: kept as it is on the hub, where the figures differ")
                elif references.get(place) != of:
                    files[place], references[place] = file, of
            entry = {**entry, "description": about}
            entries = dict(sorted({**entries, name: entry}.items()))
            old = hub.read_small(store, CARD)
            new = card.card(entries, title or _name(store), license)
            try:
                files[CARD] = card.update(old.decode() if old else None, new).encode()
            except UnicodeDecodeError:
                raise UserError(f"{store.address}, {CARD}: not UTF-8; correct or remove it there") from None
            manifest |= {"vaults": entries, "references": dict(sorted(references.items()))}
            files[vaults.MANIFEST] = vaults.to_json(manifest).encode()
            store = _publish(store, root, name, entry, files, sorted(set(before) - set(entry["files"])), say)
        size = sum((root / place).stat().st_size for place in files if place in entry["files"])
        say(f"{name}: pushed, {size / 1e6:.1f} MB")
    hub.conclude(failed, len(chosen), "pushed", say)
    return store.pinned if store.commit else hub.read_manifest(store)[1].pinned


def _one_at_a_time(store: Store, say: Say) -> AbstractContextManager[None]:
    """Of those that push to one folder. Elsewhere the hub refuses a commit that is not on top, or knows no locks."""
    return vaults.locked(Path(store.base), "push", say) if hub.is_folder(store) else nullcontext()


def _read_manifest(store: Store) -> dict[str, Any]:
    content = hub.read_small(store, vaults.MANIFEST)
    if content is None:
        return {"schema_version": vaults.SCHEMA_VERSION, "vaults": {}}
    return vaults.parse_manifest(content, f"{store.address}, {vaults.MANIFEST}")


def _name(store: Store) -> str:
    return (store.repo or store.base).rpartition("/")[2]


def _to_write(address: str, create: bool) -> Store:
    """The place to publish at, made if need be."""
    hub.check_address(address)
    if hub.split(address)[1]:
        raise UserError(f"{address}: a fingerprint says what is there already; push without it")
    if address.startswith(("http://", "https://")):
        raise UserError(f"{address}: can only be read; push to hf://, s3://, gs:// or a folder")
    if create and (repo := hub.huggingface_parts(address)):
        api = hub.huggingface_api()
        hub.patiently(
            lambda: api.create_repo(repo["repo"], repo_type="dataset", private=True, exist_ok=True), address
        )
    store = hub.connect(address)
    if store.repo and re.fullmatch("[0-9a-f]{40}", store.branch):
        raise UserError(f"{address}: a commit cannot change; push to a branch")
    return store


def _publish(
    store: Store,
    root: Path,
    name: str,
    entry: Mapping[str, Any],
    files: Files,
    stale: Iterable[str],
    say: Say,
) -> Store:
    if store.repo:
        return _commit(store, files, stale, f"{name}: {entry['steps']:,} steps")
    if hub.is_folder(store):
        target = Path(store.base)
        source = hub.folder(root)
        with ThreadPoolExecutor(WORKERS) as pool:
            hub.install(source, name, entry, target, True, pool, hub.Job(), say)
        for place, of in files.items():
            if place not in (*entry["files"], vaults.MANIFEST):
                write_whole(target / place, of if isinstance(of, bytes) else of.read_bytes())
        # Beside what has been collected or pulled into the folder meanwhile.
        vaults.record(target, {name: entry}, say)
        return store
    last = (vaults.MANIFEST,)  # it vouches for the others
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(lambda p: _put(store, p, files[p]), [p for p in files if p not in last]))
    for place in last:
        _put(store, place, files[place])
    for place in stale:
        hub.patiently(lambda place=place: store.fs.rm_file(store.place(place)), f"{store.address}, {place}")
    return store


def _put(store: Store, place: str, of: Path | bytes) -> None:
    where, target = f"{store.address}, {place}", store.place(place)
    if isinstance(of, bytes):
        hub.patiently(lambda: store.fs.pipe_file(target, of), where)
        size = len(of)
    else:
        hub.patiently(lambda: store.fs.put_file(str(of), target), where)
        size = of.stat().st_size
    arrived = hub.patiently(lambda: store.fs.info(target)["size"], where)
    if arrived != size:
        raise UserError(f"{where}: {arrived} of {size} bytes arrived; push again")


def _commit(store: Store, files: Files, stale: Iterable[str], message: str) -> Store:
    """One commit on top of the one that was read: what somebody else pushed since is not undone."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    inside = f"{store.folder}/" if store.folder else ""
    changes = [
        CommitOperationAdd(inside + place, of if isinstance(of, bytes) else str(of))
        for place, of in files.items()
    ] + [CommitOperationDelete(inside + place, is_folder=False) for place in stale]
    api = hub.huggingface_api()
    done = hub.patiently(
        lambda: api.create_commit(
            store.repo, changes, commit_message=message, repo_type="dataset", revision=store.branch,
            parent_commit=store.commit,
        ),
        f"{store.address}, {message}",
    )  # fmt: skip
    return hub.at_commit(store, done.oid)
