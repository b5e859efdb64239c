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
from mtmarl.foreign import line

MAX_BYTES = 64 * 2**30
MAX_FILES = 1_000_000
_BLOCK = 2**20
_MAX_BEHIND = 2**26  # blocks of zeros are usual, a few MB at most


class _Member(NamedTuple):
    name: str
    size: int
    plain: bool  # a file; not a link, not a device
    open: Callable[[], Any]  # -> a stream, or None


class _Header(tarfile.TarInfo):
    """A header of a tar archive. Refuses long further headers, of names and attributes, which take minutes to read."""

    @classmethod
    def frombuf(cls, *args: Any, **options: Any) -> Any:
        header = super().frombuf(*args, **options)
        if header.type in _FURTHER and header.size > _LONGEST_HEADER:
            raise UserError(f"a header of {header.size:,} bytes; pack it anew")
        return header


_FURTHER = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
_LONGEST_HEADER = 2**13  # two long paths


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or tar archive. UserError where it is one that is not read."""
    return path.is_file() and (zipfile.is_zipfile(path) or _is_tar(path))


def _is_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, tarinfo=_Header):
            return True
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception:  # The library raises errors of many kinds for what is none.
        return False


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
        # The libraries raise errors of many kinds for damage, encryption and unknown compression.
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        raise UserError(f"{archive}: cannot be unpacked ({line(error) or type(error).__name__})") from error
    return target


def _unpack(archive: Path, target: Path, max_bytes: int) -> None:
    left, seen = max_bytes, set()
    for member in _members(archive):
        place = PurePosixPath(member.name.replace("\\", "/"))
        odd = place.is_absolute() or ".." in place.parts or ":" in member.name or "\0" in member.name
        if odd or not place.parts:
            raise UserError(
                f"{archive}: {member.name!r} is no place in the folder that it is unpacked to; not unpacked"
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


def _read_to_end(stream: Any) -> None:
    """Reads what lies behind the end of a tar archive: the checksum of a compressed one is only looked at there."""
    left = _MAX_BEHIND
    while block := stream.read(_BLOCK):
        left -= len(block)
        if left < 0:
            raise OSError(f"more than {_MAX_BEHIND:,} bytes behind its end; pack it anew")


def _members(archive: Path) -> Iterator[_Member]:
    """The files of an archive; folders follow from them."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if not info.filename.endswith("/"):
                    kind = stat.S_IFMT(info.external_attr >> 16)
                    plain = kind in (0, stat.S_IFREG)
                    yield _Member(info.filename, info.file_size, plain, lambda info=info: packed.open(info))
    elif _is_tar(archive):
        with tarfile.open(archive, tarinfo=_Header) as packed:
            for info in packed:
                if not info.isdir():
                    plain = info.isreg()
                    yield _Member(info.name, info.size, plain, lambda info=info: packed.extractfile(info))
            _read_to_end(packed.fileobj)
    else:
        raise UserError(f"{archive}: neither a zip nor a tar archive")
