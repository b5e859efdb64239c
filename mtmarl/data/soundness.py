"""Which files were found sound: what has not changed since is not hashed again."""

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mtmarl.files import write_whole

_REMEMBERED = 5000  # folders


def cache() -> Path:
    """The user's cache of this library: `mtmarl` in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mtmarl"


def stamp(files: Iterable[Path]) -> str:
    """A SHA-256 of the names, sizes and times of files.

    The time of the last change of the inode is among them: a program that sets the time of modification does not set
    that.
    """
    known = hashlib.sha256()
    for file in files:
        of = file.stat()
        known.update(f"{file}\0{of.st_size}\0{of.st_mtime_ns}\0{of.st_ctime_ns}\0{of.st_ino}\n".encode())
    return known.hexdigest()


def _note(folder: Path) -> Path:
    return cache() / "sound" / hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]


def known(folder: Path, state: str) -> bool:
    """Whether a folder was found sound in this state."""
    try:
        return _note(folder).read_text() == state
    except (OSError, ValueError):
        return False


def remember(folder: Path, state: str) -> None:
    """Notes that a folder was found sound in this state; without a cache that can be written, it is checked again."""
    note = _note(folder)
    with suppress(OSError):
        write_whole(note, state)
        notes = list(note.parent.iterdir())
        if len(notes) > _REMEMBERED:
            for old in sorted(notes, key=lambda n: n.stat().st_mtime)[: _REMEMBERED // 2]:
                old.unlink(missing_ok=True)
