"""Archives from elsewhere, unpacked as if their makers meant ill."""

import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mtmarl.errors import UserError

MAX_BYTES = 64 * 2**30
MAX_FILES = 1_000_000
_BLOCK = 2**20


class _Member(NamedTuple):
    name: str
    size: int
    plain: bool  # a file; not a link, not a device
    open: Callable[[], Any]  # -> a stream, or None


def is_archive(path: Path) -> bool:
    return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def unpack(archive: Path, target: Path, max_bytes: int = MAX_BYTES) -> Path:
    """Unpacks the files of a zip or tar archive below `target`, a new folder, or nothing at all.

    Refused with a UserError: places outside the target, links, devices, a place that is given twice, encrypted
    members, more than `max_bytes` bytes (as announced, and as they come out), and damage. Permissions and owners in
    the archive are ignored.
    """
    if target.exists():
        raise UserError(f"{target}: is there already; unpack into a new folder")
    target.mkdir(parents=True)
    try:
        _unpack(archive, target, max_bytes)
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        # What the two libraries raise for damage, encryption and unknown compression.
        if isinstance(
            error, zipfile.BadZipFile | tarfile.TarError | EOFError | RuntimeError | OSError | ValueError
        ):
            raise UserError(
                f"{archive}: cannot be unpacked ({' '.join(str(error).split())[:200]})"
            ) from error
        raise
    return target


def _unpack(archive: Path, target: Path, max_bytes: int) -> None:
    left, seen = max_bytes, set()
    for member in _members(archive):
        place = PurePosixPath(member.name.replace("\\", "/"))
        odd = place.is_absolute() or ".." in place.parts or ":" in member.name or "\0" in member.name
        if odd or not place.parts:
            raise UserError(
                f"{archive}: {member.name!r} lies outside the folder it is unpacked to; not unpacked"
            )
        if not member.plain:
            raise UserError(f"{archive}: {member.name!r} is a link or a device; not unpacked")
        if place in seen or len(seen) >= MAX_FILES:
            raise UserError(f"{archive}: holds {member.name!r} twice, or too many files; not unpacked")
        seen.add(place)
        file = target.joinpath(*place.parts)
        file.parent.mkdir(parents=True, exist_ok=True)
        source = member.open()
        if source is None:
            raise UserError(f"{archive}: {member.name!r} has no content; not unpacked")
        with source, file.open("xb") as out:
            # What is announced need not be what comes out.
            for size in chain((member.size,), _copy(source, out)):
                if size > left:
                    raise UserError(
                        f"{archive}: holds more than {max_bytes:,} bytes; raise the limit if that is right"
                    )
        left -= file.stat().st_size


def _copy(source: BufferedIOBase, out: BufferedIOBase) -> Iterator[int]:
    """Copies; yields how many bytes there are before each block is written."""
    size = 0
    while block := source.read(_BLOCK):
        size += len(block)
        yield size
        out.write(block)


def _members(archive: Path) -> Iterator[_Member]:
    """The files of an archive; folders follow from them."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if not info.is_dir():
                    kind = stat.S_IFMT(info.external_attr >> 16)
                    plain = kind in (0, stat.S_IFREG)
                    yield _Member(info.filename, info.file_size, plain, lambda info=info: packed.open(info))
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as packed:
            for info in packed:
                if not info.isdir():
                    plain = info.isreg()
                    yield _Member(info.name, info.size, plain, lambda info=info: packed.extractfile(info))
    else:
        raise UserError(f"{archive}: neither a zip nor a tar archive")
