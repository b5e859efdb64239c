"""Atomic writes of small files, locks, and searches of folders."""

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
_STALE = 3600  # Seconds after which a temporary file belongs to a killed process.
_POLL = 0.1  # Seconds between two attempts to lock.


def files_below(folder: Path, name: str = "*", refused: list[tuple[Path, str]] | None = None) -> list[Path]:
    """Returns the sorted files at or below a folder whose name matches a pattern. Symbolic links are followed.

    Broken or circular links, devices and unreadable entries raise UserError. If `refused` is given, they are added to
    it with the reason instead.
    """
    files: list[Path] = []

    def visit(path: Path, parents: frozenset[tuple[int, int]]) -> None:
        try:
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                inode = (status.st_dev, status.st_ino)
                if inode in parents:
                    raise OSError(errno.ELOOP, "a link to one of its parent folders")
                for entry in sorted(path.iterdir()):
                    visit(entry, parents | {inode})
            elif fnmatchcase(path.name, name):
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(errno.EINVAL, "neither a file nor a folder")
                files.append(path)
        except OSError as error:
            broken = isinstance(error, FileNotFoundError) and path.is_symlink()
            reason = "a broken link" if broken else error.strerror or str(error)
            if refused is None:
                raise UserError(f"{path}: {reason}; repair or remove it") from error
            refused.append((path, reason))

    visit(folder, frozenset())
    return files


def is_utf8(path: Path) -> bool:
    """Returns whether a path is valid text; file systems allow any bytes."""
    return str(path) == str(path).encode(errors="replace").decode()


def remove(path: Path) -> None:
    """Removes a file, a link (not its target) or a folder with its contents. Errors in a folder are ignored."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def scratch_folder(parent: Path | None = None, prefix: str = _SCRATCH) -> Iterator[Path]:
    """Makes a folder in `parent` (None: the system's temporary folder) and removes it at the end.

    It first removes the scratch folders of killed processes.
    """
    parent = parent or Path(tempfile.gettempdir())
    for lock in parent.glob(f"{escape(prefix)}*.lock"):
        # If the lock is free, its process has ended.
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
    """Converts TensorStore's error for a failed write (such as a full disk) into the underlying OSError."""
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(place)) from None


def write_whole(file: Path, content: str | bytes) -> None:
    """Replaces a file atomically; text is UTF-8. Makes its parent folders."""
    write_together({file: content})


def write_together(contents: Mapping[Path, str | bytes]) -> None:
    """Replaces files after all new contents are on disk, each atomically. A full disk changes none of them.

    Text is UTF-8. Makes the parent folders.
    """
    with staged(contents):
        pass


@contextmanager
def staged(contents: Mapping[Path, str | bytes]) -> Iterator[None]:
    """Like `write_together`: writes temporary files first and moves them into place if the context succeeds."""
    temporary: dict[Path, Path] = {}
    try:
        for file, content in contents.items():
            with _naming(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                _remove_stale(file)
                temporary[file] = file.with_name(f".{file.name}-{uuid4().hex[:8]}")
                temporary[file].write_bytes(content.encode() if isinstance(content, str) else content)
                if file.is_dir():  # Fail before any file is replaced.
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
    """Sets the file name of an OSError: a full disk gives none, a temporary file the wrong one."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(file), None
        raise


def _remove_stale(file: Path) -> None:
    """Removes the temporary files of `file` that killed processes left."""
    for temporary in file.parent.glob(f".{escape(file.name)}-{'[0-9a-f]' * 8}"):
        with suppress(OSError):
            if time.time() - temporary.stat().st_mtime > _STALE:
                temporary.unlink()


def write_json(file: Path, value: Any) -> None:
    """Writes plain values as indented JSON, atomically."""
    write_whole(file, json.dumps(value, indent=1) + "\n")


@contextmanager
def locked(lock: Path, busy: Callable[[], object]) -> Iterator[None]:
    """Holds a lock file. While another process holds it, calls `busy` (which may raise) and waits."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    file_lock = FileLock(lock)
    while True:
        try:
            file_lock.acquire(timeout=0)
            break
        except Timeout:
            busy()
            time.sleep(_POLL)
        except NotImplementedError:  # Some network file systems have no locks; continue without.
            break
    try:
        yield
    finally:
        file_lock.release()


@contextmanager
def only_writer(run_dir: Path) -> Iterator[None]:
    """Locks a run against other writers. Raises UserError if another process is writing it."""

    def refuse() -> None:
        raise UserError(
            f"{run_dir}: another process is writing this run; wait for it, or give another run_dir"
        )

    with locked(run_dir / ".lock", refuse):
        yield


def is_written(run_dir: Path) -> bool:
    """Returns whether another process is writing a run."""
    if not (run_dir / ".lock").exists():
        return False
    try:
        with only_writer(run_dir):
            return False
    except UserError:
        return True
