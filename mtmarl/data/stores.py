"""Where data sets lie: an address becomes a file system of fsspec, whose errors are lines and whose pauses end.

    hf://datasets/ORG/NAME@REVISION     a Hugging Face data set, read at the commit that the revision names
    s3://bucket/folder, gs://, https:// anything that fsspec reads
    ~/shared/vaults                     a folder

`#sha256=…` after an address is the fingerprint of its manifest, which holds that of every file: with it, or with a
commit of Hugging Face, an address means the same data for ever. huggingface_hub and fsspec transfer the bytes and read
credentials from the environment.
"""

import errno
import os
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mtmarl.config import check_address
from mtmarl.errors import UserError
from mtmarl.foreign import line

PAUSES = (0.5, 2.0, 8.0)  # seconds before another attempt, beyond those that the clients make themselves
STALL = 60.0  # seconds without a byte after which a server counts as gone
_HF = re.compile(
    r"hf://datasets/(?P<name>[^/@]+/[^/@]+)(?:@(?P<branch>refs/(?:convert|pr)/[^/]+|[^/]+))?(?P<folder>(?:/[^@]+)?)/?"
)
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class Repository(NamedTuple):
    """A data set on Hugging Face, a folder in it, and the commit that its branch was at."""

    name: str
    branch: str
    folder: str
    commit: str = ""


class Store(NamedTuple):
    """A place that an address names. `pinned`: the address of exactly what is read, if the place can tell."""

    address: str
    pinned: str
    fs: Any  # fsspec.AbstractFileSystem
    base: str
    fingerprint: str = ""
    repository: Repository | None = None

    def place(self, relative: str) -> str:
        return f"{self.base}/{relative}"

    @property
    def is_folder(self) -> bool:
        return "file" in (self.fs.protocol, *self.fs.protocol)


def parse(address: str) -> tuple[str, str, Repository | None]:
    """URL, fingerprint and Hugging Face data set of an address. UserError for an address that is not legal."""
    check_address(f"{line(address.partition('://')[0], 40)}://…", "the address", address.partition("#")[0])
    url, mark, fingerprint = address.rpartition("#")
    if not (mark and re.fullmatch("sha256=[0-9a-f]{12,64}", fingerprint)):
        url, fingerprint = address, ""
    if "#" in url and not Path(url).expanduser().is_dir():  # The name of a folder may hold one as well.
        raise UserError(
            f"{address.partition('#')[0]}: what follows # must be sha256= and at least 12 hexadecimal digits"
        )
    if not url:
        raise UserError("no hub: give an address, such as hf://datasets/ORG/NAME@REVISION, or a folder")
    if not url.startswith("hf://"):
        return url, fingerprint, None
    if (parts := _HF.fullmatch(url)) is None:
        raise UserError(
            f"{url}: a Hugging Face data set is written hf://datasets/ORG/NAME[@REVISION][/FOLDER]"
        )
    branch = (parts["branch"] or "main").replace("%2F", "/")
    return url, fingerprint, Repository(parts["name"], branch, parts["folder"].strip("/"))


def connect(address: str) -> Store:
    """The place behind an address. Asks Hugging Face for the commit of a revision; other places are not contacted."""
    url, fingerprint, repository = parse(str(address))
    try:
        from fsspec import filesystem, url_to_fs

        # Listings and file systems that are kept for later would show what a place held before.
        fresh: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
        if repository:
            ask = partial(huggingface_api().dataset_info, revision=repository.branch, timeout=STALL)
            commit = patiently(lambda: ask(repository.name).sha, address)
            # In blocks of 0, one request streams all of a file.
            fs = filesystem("hf", endpoint=os.environ.get("HF_ENDPOINT"), block_size=0, **fresh)
            return at_commit(Store(address, "", fs, "", fingerprint, repository), commit)
        if "://" not in url:
            return folder(Path(url), fingerprint)
        if url.startswith(("http://", "https://")):
            from aiohttp import ClientTimeout

            # Its own limit is for a whole file, however steadily that comes.
            fresh["client_kwargs"] = {"timeout": ClientTimeout(sock_connect=STALL, sock_read=STALL)}
        fs, base = url_to_fs(url, **fresh)
    except ModuleNotFoundError as error:
        raise UserError(f"{address}: needs {error.name}: pip install 'mtmarl[hub]'") from None
    except (ImportError, ValueError) as error:
        raise UserError(f"{address}: {_line(error)}") from error
    return Store(address, url, fs, base.rstrip("/"), fingerprint)


def folder(path: Path, fingerprint: str = "") -> Store:
    """A folder of this machine as a store, whatever characters its name has."""
    from fsspec.implementations.local import LocalFileSystem

    place = str(path.expanduser().resolve())
    return Store(place, place, LocalFileSystem(skip_instance_cache=True), place, fingerprint)


def huggingface_api() -> Any:
    """A client of $HF_ENDPOINT. From now on its sessions give up a server that says nothing for `STALL` seconds."""
    global _make_client
    from huggingface_hub import HfApi, set_client_factory
    from huggingface_hub.utils import _http

    current = _http._GLOBAL_CLIENT_FACTORY  # There is no public way to ask for the factory that is set.
    if current is not _make_client:

        def make_client() -> Any:
            client = current()
            if client.timeout.read is None:  # The default waits for ever.
                client.timeout = STALL
            return client

        _make_client = make_client
        set_client_factory(make_client)
    return HfApi(endpoint=os.environ.get("HF_ENDPOINT"))


_make_client: Any = None


def at_commit(store: Store, commit: str) -> Store:
    """The same Hugging Face data set at another commit."""
    assert store.repository is not None
    repository = store.repository._replace(commit=commit)
    base = f"datasets/{repository.name}@{commit}" + (f"/{repository.folder}" if repository.folder else "")
    return store._replace(pinned=f"hf://{base}", base=base, repository=repository)


def read_small(store: Store, relative: str) -> bytes | None:
    """A small file of a store, None if it is not there."""

    def read() -> bytes | None:
        try:
            return store.fs.cat_file(store.place(relative))
        except Exception as error:
            if isinstance(error, FileNotFoundError) or status_of(error) == 404:
                return None
            raise

    return patiently(read, f"{store.address}, {relative}")


class HubError(UserError):
    """A hub that cannot be reached: it concerns all vaults that are still to come."""


def _line(error: BaseException) -> str:
    return line(error) or type(error).__name__


def status_of(error: Exception) -> int | None:
    """The HTTP status behind an error of any client."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # of botocore
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return getattr(error, "status", None) or getattr(response, "status_code", None)


def _final(error: Exception) -> str | None:
    """Why trying again cannot help; None if it may."""
    status = status_of(error)
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


def patiently(call: Callable[[], Any], what: str, wait: Callable[[float], object] = time.sleep) -> Any:
    """The result of a call to a hub, tried again after failures that may pass."""
    for pause in (*PAUSES, None):
        try:
            return call()
        except Exception as error:
            if isinstance(error, UserError) or getattr(error, "errno", None) in _OF_THE_DISK:
                raise
            reason = _final(error)
            if reason is not None or pause is None:
                raise (UserError if reason else HubError)(f"{what}: {reason or _line(error)}") from error
            wait(pause)
