"""What is on disk stays whole: small files are there or not, for readers and after kills; a run has one writer."""

import errno
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from mtmarl.errors import UserError

_SCRATCH = "mtmarl-"
_DEAD = 3600  # Seconds after which a small file is no longer being written.
_POLL = 0.1  # Seconds between two looks at a lock.


def files_below(folder: Path, name: str = "*", refused: list[tuple[Path, str]] | None = None) -> list[Path]:
    """The files of a name (a pattern) at or below a folder, sorted; links to files and folders are followed.

    Nothing is left out silently: a link to nothing or in a circle, a device, and what may not be read raise UserError,
    or are added with the reason to `refused` where that is given.
    """
    found: list[Path] = []

    def enter(place: Path, above: frozenset[tuple[int, int]]) -> None:
        try:
            about = place.stat()
            if stat.S_ISDIR(about.st_mode):
                inode = (about.st_dev, about.st_ino)
                if inode in above:
                    raise OSError(errno.ELOOP, "a link to a folder that it lies in")
                for entry in sorted(place.iterdir()):
                    enter(entry, above | {inode})
            elif fnmatchcase(place.name, name):
                if not stat.S_ISREG(about.st_mode):
                    raise OSError(errno.EINVAL, "neither a file nor a folder")
                found.append(place)
        except OSError as error:
            lost = isinstance(error, FileNotFoundError) and place.is_symlink()
            reason = "a link to nothing" if lost else error.strerror or str(error)
            if refused is None:
                raise UserError(f"{place}: {reason}; repair or remove it") from error
            refused.append((place, reason))

    enter(folder, frozenset())
    return found


def is_utf8(path: Path) -> bool:
    """Whether the name of a path is text: file systems allow any bytes."""
    return str(path) == str(path).encode(errors="replace").decode()


def remove(path: Path) -> None:
    """Removes a file, a link (never what it leads to) or a folder with all it holds, as far as that is possible."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def scratch_folder(parent: Path | None = None, prefix: str = _SCRATCH) -> Iterator[Path]:
    """A new folder in `parent` (None: where temporary files go), removed at the end; first removes those of processes
    that were killed.
    """
    parent = parent or Path(tempfile.gettempdir())
    for lock in parent.glob(f"{escape(prefix)}*.lock"):
        # Only those whose lock is free: their process is gone.
        with suppress(OSError, Timeout, NotImplementedError), FileLock(lock, timeout=0):
            remove(lock.with_suffix(""))
            lock.unlink(missing_ok=True)
    folder = parent / f"{prefix}{uuid4().hex}"
    lock = folder.with_name(f"{folder.name}.lock")
    with FileLock(lock):
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            remove(folder)
            lock.unlink(missing_ok=True)


@contextmanager
def store_errors(place: Path) -> Iterator[None]:
    """Turns what TensorStore raises where a file cannot be written, as on a full disk, into the OSError behind it."""
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(place)) from None


def write_whole(file: Path, content: str | bytes) -> None:
    """Replaces `file` in one step; text is UTF-8. Directories above it are made."""
    write_together({file: content})


def write_together(contents: Mapping[Path, str | bytes]) -> None:
    """Replaces files, each in one step, once all of the new contents are on disk: a full disk leaves all as they were.

    Text is UTF-8. Directories above them are made.
    """
    with staged(contents):
        pass


@contextmanager
def staged(contents: Mapping[Path, str | bytes]) -> Iterator[None]:
    """`write_together` whose files are on disk when the context begins, and take their places when it ends well."""
    temporary: dict[Path, Path] = {}
    try:
        for file, content in contents.items():
            with _naming(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                _remove_dead(file)
                temporary[file] = file.with_name(f".{file.name}-{uuid4().hex[:8]}")
                temporary[file].write_bytes(content.encode() if isinstance(content, str) else content)
                if file.is_dir():  # Told before any other file is replaced.
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        yield
        for file, written in temporary.items():
            with _naming(file):
                written.replace(file)
    finally:
        for written in temporary.values():
            written.unlink(missing_ok=True)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """An OSError names this file: not a temporary one, or none, as of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(file), None
        raise


def _remove_dead(file: Path) -> None:
    """Removes temporary files of `file` whose process was killed."""
    for earlier in file.parent.glob(f".{escape(file.name)}-{'[0-9a-f]' * 8}"):
        with suppress(OSError):
            if time.time() - earlier.stat().st_mtime > _DEAD:
                earlier.unlink()


def write_json(file: Path, value: Any) -> None:
    """`write_whole` of plain values, indented."""
    write_whole(file, json.dumps(value, indent=1) + "\n")


@contextmanager
def locked(lock: Path, busy: Callable[[], object]) -> Iterator[None]:
    """Holds a lock file. While another process holds it, `busy` is called: it may raise, else the lock is awaited."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    own = FileLock(lock)
    while True:
        try:
            own.acquire(timeout=0)
            break
        except Timeout:
            busy()
            time.sleep(_POLL)
        except (
            NotImplementedError
        ):  # Some network file systems have no locks: work matters more than the lock.
            break
    try:
        yield
    finally:
        own.release()


@contextmanager
def only_writer(run_dir: Path) -> Iterator[None]:
    """Keeps other processes from writing a run at the same time. Raises UserError if one does."""

    def refuse() -> None:
        raise UserError(
            f"{run_dir}: another process is writing this run; wait for it, or give another run_dir"
        )

    with locked(run_dir / ".lock", refuse):
        yield


def is_written(run_dir: Path) -> bool:
    """Whether another process is writing a run now."""
    if not (run_dir / ".lock").exists():
        return False
    try:
        with only_writer(run_dir):
            return False
    except UserError:
        return True
