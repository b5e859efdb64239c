"""A cache of checksums that were verified: files that have not changed since are not hashed again."""

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mtmarl.files import write_whole

_MAX_ENTRIES = 5000


def cache_folder() -> Path:
    """The user's cache of this library: `mtmarl` in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtmarl"


def stamp(files: Iterable[Path]) -> str:
    """A SHA-256 of the names, sizes, inodes and times of files.

    The time of the last inode change is included: a program that resets the time of modification does not reset it.
    """
    digest = hashlib.sha256()
    for file in files:
        of = file.stat()
        digest.update(f"{file}\0{of.st_size}\0{of.st_mtime_ns}\0{of.st_ctime_ns}\0{of.st_ino}\n".encode())
    return digest.hexdigest()


def _entry(folder: Path) -> Path:
    return cache_folder() / "sound" / hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]


def is_verified(folder: Path, state: str) -> bool:
    """Whether the checksum of a folder was verified in this state (a `stamp`)."""
    try:
        return _entry(folder).read_text() == state
    except (OSError, ValueError):
        return False


def remember(folder: Path, state: str) -> None:
    """Notes that a folder was verified in this state; if the cache cannot be written, it is verified again."""
    entry = _entry(folder)
    with suppress(OSError):
        write_whole(entry, state)
        entries = list(entry.parent.iterdir())
        if len(entries) > _MAX_ENTRIES:
            for old in sorted(entries, key=lambda e: e.stat().st_mtime)[: _MAX_ENTRIES // 2]:
                old.unlink(missing_ok=True)
