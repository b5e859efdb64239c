"""Vaults on a hub: found by address, fetched in parallel, checked against their hashes, published.

A hub is any place that holds vaults below a manifest, as a local root does:

    hf://datasets/ORG/NAME@REVISION     a Hugging Face data set, read at the commit that the revision names
    s3://bucket/folder, gs://, https:// anything that fsspec reads
    ~/shared/vaults                     a folder

`#sha256=…` after an address is the fingerprint of its manifest, which holds the fingerprint of every file: with it, or
with a Hugging Face commit, an address means the same data for ever. Credentials come from the environment, as the
clients read them.
"""

import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed, wait
from pathlib import Path
from typing import Any, NamedTuple

from mtmarl.data import vault as vaults
from mtmarl.errors import UserError, described
from mtmarl.files import files_below, remove
from mtmarl.foreign import holds_credentials, line, shown

CHUNK = 16 * 2**20  # bytes per request where every read is one; `workers` of them are in memory at a time
PIECE = 2**21  # bytes read at once from a stream
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between attempts that bring nothing new
VAULTS_AT_ONCE = 4
_HF = re.compile(
    r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+))?(?P<folder>(?:/[^@]+)?)/?"
)
_FINGERPRINT = re.compile("sha256=[0-9a-f]{12,64}")

STALL = 60.0  # seconds without a byte after which a server counts as gone
Say = Callable[[str], None]
Show = Callable[[int, int], None]


class Store(NamedTuple):
    """A place that an address names. `pinned`: the address of exactly what is read, if the place can tell."""

    address: str
    pinned: str
    fs: Any  # fsspec.AbstractFileSystem
    base: str
    fingerprint: str = ""
    repo: str = ""  # of Hugging Face; with the branch and the commit that it was at
    branch: str = ""
    commit: str = ""
    folder: str = ""

    def place(self, relative: str) -> str:
        return f"{self.base}/{relative}"


# --------------------------------------------------------------------------------------------- addresses


def check_address(address: str) -> None:
    """Raises UserError for an address that holds what must not be recorded."""
    if holds_credentials(str(address)):
        scheme = str(address).partition("://")[0] if "://" in str(address) else ""
        raise UserError(
            f"{line(scheme, 40)}://…: an address holds no passwords, tokens or queries, and after # only sha256=…; set "
            "credentials in the environment, as the client of that place reads them"
        )


def connect(address: str) -> Store:
    """The place behind an address. Asks Hugging Face which commit a revision is; other places are not touched."""
    try:
        import filelock  # noqa: F401
        import fsspec
    except ImportError as error:
        raise UserError(f"hubs need {error.name}: pip install 'mtmarl[hub]'") from None

    check_address(address)
    url, fingerprint = split(str(address))
    scheme, separator, _ = url.partition("://")
    if not separator:
        if not url:
            raise UserError("no hub: give an address, such as hf://datasets/ORG/NAME@REVISION, or a folder")
        return folder(Path(url), fingerprint)
    if scheme == "hf":
        return _connect_huggingface(address, url, fingerprint)
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    try:
        if scheme in ("http", "https"):
            from aiohttp import ClientTimeout

            # Its own limit is of a whole file, however steadily that comes.
            options["client_kwargs"] = {"timeout": ClientTimeout(sock_connect=STALL, sock_read=STALL)}
        fs, base = fsspec.url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise UserError(f"{address}: {_line(error)}") from error
    return Store(address, url, fs, base.rstrip("/"), fingerprint)


def split(address: str) -> tuple[str, str]:
    """An address without its fingerprint, and that. The name of a folder that is there may hold # as well."""
    url, mark, fingerprint = address.rpartition("#")
    if mark and _FINGERPRINT.fullmatch(fingerprint):
        address = url
    else:
        fingerprint = ""
    if "#" in address and not Path(address).expanduser().is_dir():
        raise UserError(f"{address}: what follows # must be sha256= and at least 12 hexadecimal digits")
    return address, fingerprint


def folder(path: Path, fingerprint: str = "") -> Store:
    """A folder of this machine as a store, whatever characters its name has."""
    from fsspec.implementations.local import LocalFileSystem

    place = str(path.expanduser().resolve())
    return Store(place, place, LocalFileSystem(skip_instance_cache=True), place, fingerprint)


def huggingface_parts(url: str) -> dict[str, str] | None:
    """Repository, branch and folder of an address on Hugging Face; None for other places."""
    if not url.startswith("hf://"):
        return None
    parts = _HF.fullmatch(url)
    if parts is None:
        raise UserError(
            f"{url}: a Hugging Face data set is written hf://datasets/ORG/NAME[@REVISION][/FOLDER]"
        )
    return {
        "repo": parts["repo"],
        "branch": (parts["revision"] or "main").replace("%2F", "/"),
        "folder": parts["folder"].strip("/"),
    }


def huggingface_api() -> Any:
    """A client of $HF_ENDPOINT that gives up a server which says nothing for `STALL` seconds. Raises UserError."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import get_session
    except ImportError:
        raise UserError("hf:// needs huggingface_hub: pip install 'mtmarl[hub]'") from None
    # Its own default waits for ever; all of its requests go through this session.
    get_session().timeout = STALL
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


def _connect_huggingface(address: str, url: str, fingerprint: str) -> Store:
    api, parts = huggingface_api(), huggingface_parts(url) or {}
    from huggingface_hub import HfFileSystem

    endpoint = os.environ.get("HF_ENDPOINT")
    commit = patiently(
        lambda: (
            api.repo_info(parts["repo"], repo_type="dataset", revision=parts["branch"], timeout=STALL).sha
        ),
        address,
    )
    fs = HfFileSystem(endpoint=endpoint, skip_instance_cache=True)
    return at_commit(Store(address, "", fs, "", fingerprint, **parts), commit)


def at_commit(store: Store, commit: str) -> Store:
    """The same Hugging Face data set at another commit."""
    base = f"datasets/{store.repo}@{commit}" + (f"/{store.folder}" if store.folder else "")
    return store._replace(pinned=f"hf://{base}", base=base, commit=commit)


def is_folder(store: Store) -> bool:
    return "file" in (store.fs.protocol, *store.fs.protocol)


def read_small(store: Store, relative: str) -> bytes | None:
    """A small file of a store, None if it is not there."""

    def read() -> bytes | None:
        try:
            return store.fs.cat_file(store.place(relative))
        except FileNotFoundError:
            return None

    return patiently(read, f"{store.address}, {relative}")


def read_manifest(store: Store) -> tuple[dict[str, Any], Store]:
    """What a place holds, and the place with its pinned address. UserError if that is not what its fingerprint says."""
    where = f"{store.address}, {vaults.MANIFEST}"
    content = read_small(store, vaults.MANIFEST)
    if content is None:
        raise UserError(
            f"{where}: not found; check the address, and that it is a data set published by mtmarl.vault push"
        )
    found = hashlib.sha256(content).hexdigest()
    if not found.startswith(store.fingerprint.removeprefix("sha256=")):
        raise UserError(
            f"{where}: has the fingerprint sha256={found[:16]}, not {store.fingerprint}; the data there have changed"
        )
    if not store.commit:
        store = store._replace(pinned=f"{store.pinned}#sha256={found[:16]}")
    return vaults.parse_manifest(content, where), store


def choose(manifest: Mapping[str, Any], names: Iterable[str], where: str) -> list[str]:
    """The vaults that are named: by family, `family/scenario` or `family/scenario/quality`; all if none is."""
    listed = list(manifest["vaults"])
    chosen = []
    for name in names:
        mine = [v for v in listed if v == name or v.startswith(f"{name}/")]
        if not mine:
            raise UserError(f"{where}: holds no vault {name!r}; there are {', '.join(listed) or 'none'}")
        chosen += mine
    return list(dict.fromkeys(chosen)) if names else listed


# ------------------------------------------------------------------------------------------------ errors


class HubError(UserError):
    """A hub that cannot be reached: it concerns all vaults that are still to come."""


def _line(error: BaseException) -> str:
    return line(error) or type(error).__name__


def _final(error: Exception) -> str | None:
    """Why trying again cannot help; None if it may."""
    response = getattr(error, "response", None)
    status = getattr(error, "status", None) or getattr(response, "status_code", None)
    if isinstance(response, Mapping):  # of botocore
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if isinstance(error, FileNotFoundError) or status == 404:
        return "not found; check the address, and that you may read it"
    if isinstance(error, PermissionError) or status in (401, 403):
        return "access refused; set the credentials of the client in the environment"
    if isinstance(error, ImportError | NotImplementedError) or type(error).__name__ in (
        "NoCredentialsError", "OfflineModeIsEnabled", "HFValidationError",
    ):  # fmt: skip
        return _line(error)
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 425, 429):
        return f"HTTP {status}: {_line(error)}"
    return None


def patiently(call: Callable[[], Any], what: str) -> Any:
    """The result of a call to a hub, tried again after failures that may pass."""
    for pause in (*PAUSES, None):
        try:
            return call()
        except Exception as error:
            reason = _final(error)
            if reason is not None or pause is None:
                raise (UserError if reason else HubError)(f"{what}: {reason or _line(error)}") from error
            time.sleep(pause)


# ----------------------------------------------------------------------------------------------- fetching


class Job:
    """What the threads of one pull share: how far they are, and whether they should stop."""

    def __init__(self, show: Show | None = None) -> None:
        self.show, self.lock, self.stop = show, threading.Lock(), threading.Event()
        self.reading = threading.Lock()  # One vault at a time is read whole.
        self.total = self.done = 0

    def check(self) -> None:
        if self.stop.is_set():
            raise UserError("stopped")

    def expect(self, count: int) -> None:
        with self.lock:
            self.total += count

    def add(self, count: int) -> None:
        with self.lock:
            self.done += count
            if self.show is not None:
                self.show(self.done, self.total)


def _hash_of(file: Path, size: int) -> tuple[Any, int]:
    """SHA-256 of the first `size` bytes that are there, to be continued, and their number."""
    digest, done = hashlib.sha256(), 0
    if file.exists():
        with file.open("rb") as stream:
            while done < size and (chunk := stream.read(min(CHUNK, size - done))):
                digest.update(chunk)
                done += len(chunk)
    return digest, done


def _fetch(store: Store, relative: str, expected: Mapping[str, Any], file: Path, job: Job) -> None:
    """One file, going on from what is there; refused unless it has the size and hash that the manifest says."""
    size, where = expected["size"], f"{store.address}, {relative}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        digest, done = _hash_of(file, size)
        earlier = done
        job.add(done)
        while True:
            with file.open("r+b" if done else "wb") as out:
                if done:  # ext4 writes a file out as it is closed, and makes all wait, if it was truncated to nothing
                    out.truncate(done)
                    out.seek(done)
                for chunk in _chunks(store, relative, done, size, where, job):
                    out.write(chunk)
                    digest.update(chunk)
                    job.add(len(chunk))
            if digest.hexdigest() == expected["sha256"]:
                return
            if not earlier:
                break
            job.add(-size)
            digest, done, earlier = hashlib.sha256(), 0, 0  # what an earlier pull left was something else
    except OSError as error:
        raise HubError(
            f"{file}: cannot be written ({error.strerror or error}); make room: the same command goes on from here, "
            "and what was there before is untouched"
        ) from error
    file.unlink()
    raise UserError(
        f"{where}: not the file that the manifest names (SHA-256 {digest.hexdigest()[:12]}… instead of "
        f"{expected['sha256'][:12]}…); it was damaged or replaced on the hub, nothing here was changed"
    )


def _chunks(store: Store, relative: str, done: int, size: int, where: str, job: Job) -> Iterator[bytes]:
    """The bytes of a file from `done` to `size`, over as many connections as it takes."""
    failures, ranges, streams = 0, True, bool(store.repo)
    while done < size:
        job.check()
        try:
            # The size is known: no client needs to ask for it.
            blocks = {"block_size": CHUNK, "cache_type": "none", "size": size}
            how = blocks if ranges and not streams else {"block_size": 0}
            with store.fs.open(store.place(relative), "rb", **how) as source:
                at = 0
                if streams:
                    # Hugging Face's stream cannot seek, but begins where it believes to be: one request for all the
                    # rest of a file, handed on in pieces that stay in the cache, for twice the speed of blocks.
                    at = source.loc = done
                elif ranges:
                    at = source.seek(done)
                most = PIECE if streams else CHUNK
                while done < size:
                    chunk = source.read(min(most, size - done if at >= done else done - at))
                    if not chunk:
                        raise EOFError(f"ends after {at} of {size} bytes")
                    at += len(chunk)
                    if at > done:
                        done, failures = at, 0
                        yield chunk
                    job.check()
        except UserError:
            raise
        except Exception as error:
            if ranges and isinstance(error, ValueError) and "range" in str(error).lower():
                ranges = False  # a plain server: read past what is there
                continue
            reason = _final(error)
            if reason is not None or failures == len(PAUSES):
                raise (UserError if reason else HubError)(f"{where}: {reason or _line(error)}") from error
            job.stop.wait(PAUSES[failures])
            failures += 1


def _files_there(path: Path, root: Path) -> set[str]:
    return {f.relative_to(root).as_posix() for f in files_below(path)}


def _is_there(root: Path, path: Path, files: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a folder holds exactly these files."""
    if not path.is_dir() or _files_there(path, root) != set(files):
        return False
    sizes = all((root / f).stat().st_size == of["size"] for f, of in files.items())
    return sizes and all(
        _hash_of(root / f, of["size"])[0].hexdigest() == of["sha256"] for f, of in files.items()
    )


def _was_pulled(root: Path, path: Path, known: Mapping[str, Any]) -> bool:
    """Whether a vault came from a hub and was at most damaged since, not written anew."""
    about = path / vaults.METADATA
    of = known.get("files", {}).get(about.relative_to(root).as_posix())
    return "source" in known and (not about.exists() or vaults.fingerprint(about) == of)


def install(
    store: Store,
    name: str,
    entry: Mapping[str, Any],
    root: Path,
    replace: bool,
    pool: Executor,
    job: Job,
    say: Say,
) -> bool:
    """One vault brought to a root, whole or not at all; False if it was there."""
    files: dict[str, dict[str, Any]] = entry["files"]
    task, _, quality = name.rpartition("/")
    path = vaults.vault_path(root, task, quality)
    size = sum(f["size"] for f in files.values())
    job.expect(size)
    with vaults.locked(root, name, say, job.check):
        identity = hashlib.sha256("".join(f"{k}{v['sha256']}" for k, v in sorted(files.items())).encode())
        part = path.with_name(f".{quality}.pull-{identity.hexdigest()[:12]}")
        there = _is_there(root, path, files)
        for left_over in path.parent.glob(
            f".{quality}.pull-*"
        ):  # Of other versions, by processes that were killed.
            if there or left_over != part:
                remove(left_over)
        known = vaults.read_manifest(root)["vaults"] if (root / vaults.MANIFEST).exists() else {}
        if there:
            job.add(size)
            if known.get(name, {}).get("files") != files:
                vaults.record(root, {name: entry}, say)
            return False
        if path.exists() and not replace and not _was_pulled(root, path, known.get(name, {})):
            raise UserError(
                f"{path}: differs from {name} on {store.address} and was not pulled from a hub; move it away, or "
                "replace it with --replace"
            )
        own = path.relative_to(root).as_posix() + "/"
        # The largest first: it decides how long all takes.
        order = sorted(files.items(), key=lambda item: -item[1]["size"])
        try:
            pending = [
                pool.submit(_fetch, store, place, of, part / place.removeprefix(own), job)
                for place, of in order
            ]
            for future in as_completed(pending):
                future.result()
        except BaseException:
            for future in pending:
                future.cancel()
            wait(pending)  # nobody writes once the lock is gone
            raise
        try:
            with job.reading:
                told = vaults.read_vault(part).metadata["task"]
            if told != task:
                raise UserError(f"its {vaults.METADATA} is that of another task, {told}")
        except UserError as error:
            remove(part)
            raise UserError(
                f"{store.address}, {name}: {str(error).replace(str(part), 'the vault')}; not taken"
            ) from None
        vaults.replace_folder(part, path)
        vaults.record(root, {name: entry}, say)
    return True


def _install_references(
    store: Store, manifest: Mapping[str, Any], tasks: set[str], root: Path, say: Say
) -> None:
    """The reference returns of these tasks' families; those that are there stay."""
    families = {task.partition("/")[0] for task in tasks}
    mine = {}
    for place, of in manifest.get("references", {}).items():
        parts = place.split("/")
        if len(parts) != 3 or parts[0] != "references" or not place.endswith(".json"):
            raise UserError(f"{store.address}: lists {place} among its references; restore its manifest")
        if parts[1] in families:
            mine[place] = of
    new = False
    with vaults.locked(root, "references", say):
        for place, of in mine.items():
            file = root / place
            if file.exists():
                if vaults.fingerprint(file) != dict(of):
                    say(f"{file}: kept, the hub has other figures")
                continue
            part = file.with_name(f".{file.name}.pull-{of['sha256'][:12]}")
            _fetch(store, place, of, part, Job())
            part.replace(file)
            new = True
        if new:
            vaults.record(root, {}, say)


def pull(
    address: str,
    root: str | os.PathLike,
    names: Sequence[str] = (),
    *,
    replace: bool = False,
    workers: int = 4,
    say: Say = print,
    show: Show | None = None,
) -> list[str]:
    """Brings vaults, and the reference returns of their families, from a hub to a root; returns their names.

    Files come in parallel into a folder beside their place, going on from what an interrupted pull left there. A vault
    appears only when each of its files has the hash of the manifest, by one rename. Vaults that are there are left
    alone; a changed one is replaced if it was pulled itself, or with `replace`. Another process that pulls the same
    vault is waited for. Memory: a few chunks per worker. UserError in one line if anything cannot be had.
    """
    root, say = Path(root).expanduser().resolve(), _clean(say)
    manifest, store = read_manifest(connect(address))
    chosen = choose(manifest, names, address)
    missing = [v for v in chosen if not vaults.vault_path(root, *_task_and_quality(v)).exists()]
    need = sum(f["size"] for v in missing for f in manifest["vaults"][v]["files"].values())
    try:
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
    except OSError as error:
        raise UserError(f"{root}: {error.strerror}; choose another folder") from error
    if need > free:
        raise UserError(
            f"{root}: {need / 1e6:.1f} MB to fetch, {free / 1e6:.1f} MB free; make room, or pull less"
        )
    job = Job(show)
    failed: list[tuple[str, UserError | OSError]] = []
    entries = {v: {**manifest["vaults"][v], "source": store.pinned} for v in chosen}
    with ThreadPoolExecutor(max(1, workers)) as files, ThreadPoolExecutor(VAULTS_AT_ONCE) as several:
        pending = {
            several.submit(install, store, v, entries[v], root, replace, files, job, say): v for v in chosen
        }
        try:
            for future in as_completed(pending):
                try:
                    new = future.result()
                    say(f"{pending[future]}: {'pulled' if new else 'already there'}")
                except HubError:
                    raise
                except UserError as error:  # Of this vault; the others are brought.
                    failed.append((pending[future], error))
        except BaseException as error:
            job.stop.set()
            for future in pending:
                future.cancel()
            if isinstance(error, OSError):
                raise UserError(f"{root}: {error}; make it a folder that can be written to") from error
            raise
    _install_references(store, manifest, {v.rpartition("/")[0] for v in chosen}, root, say)
    say(f"from {store.pinned}")
    conclude(failed, len(chosen), "pulled", say)
    return chosen


def _clean(say: Say) -> Say:
    return lambda text: say(shown(text))


def conclude(failed: Sequence[tuple[str, UserError | OSError]], count: int, done: str, say: Say) -> None:
    """Raises UserError that names the vaults that failed; of several, each is said first."""
    if len(failed) == 1 and count == 1:
        raise failed[0][1]
    for name, error in failed:
        say(f"{name}: not {done}: {described(error)}")
    if failed:
        raise UserError(
            f"{len(failed)} of {count} vaults not {done}: {', '.join(name for name, _ in failed)}; the lines above say "
            "why. Mend them and give the same command again"
        )


def _task_and_quality(name: str) -> tuple[str, str]:
    task, _, quality = name.rpartition("/")
    return task, quality
