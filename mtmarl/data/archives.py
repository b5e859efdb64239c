"""Archives from elsewhere, unpacked as if their makers meant ill.

The standard library reads them, as it does behind fsspec's `zip://` and `tar://`. Those do not limit what comes out and
believe the names of members, so the checks are here.
"""

import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from mtmarl.errors import UserError
from mtmarl.foreign import line

MAX_BYTES = 64 * 2**30
MAX_FILES = 1_000_000
_BLOCK = 2**20
_MAX_BEHIND = 2**26  # blocks of zeros behind the end of a tar archive are usual, a few MB at most
_LONGEST_HEADER = 2**13  # two long paths
_LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip


class _Header(tarfile.TarInfo):
    """A header of a tar archive. Refuses long names and attributes, which take minutes to read."""

    @classmethod
    def frombuf(cls, *args: Any, **options: Any) -> Any:
        header = super().frombuf(*args, **options)
        if header.type in _LONG_HEADERS and header.size > _LONGEST_HEADER:
            raise UserError(f"a header of {header.size:,} bytes; pack it anew")
        return header


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or tar archive. UserError where it is one that is not read."""
    try:
        return path.is_file() and (zipfile.is_zipfile(path) or _is_tar(path))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _is_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, tarinfo=_Header):
            return True
    except UserError:
        raise
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
        left, seen = max_bytes, set()
        for name, size, source in _members(archive):
            place = PurePosixPath(name.replace("\\", "/"))
            odd = place.is_absolute() or ".." in place.parts or ":" in name or "\0" in name
            if odd or not place.parts:
                raise UserError(f"{name!r} is no place in the folder that it is unpacked to; not unpacked")
            if source is None:
                raise UserError(f"{name!r} is a link or a device; not unpacked")
            if place in seen or len(seen) >= MAX_FILES:
                raise UserError(f"holds {name!r} twice, or too many files; not unpacked")
            seen.add(place)
            file = target.joinpath(*place.parts)
            file.parent.mkdir(parents=True, exist_ok=True)
            with source() as stream, file.open("xb") as out:
                # What is announced need not be what comes out.
                for count in chain((size,), _copy(stream, out)):
                    if count > left:
                        raise UserError(
                            f"holds more than {max_bytes:,} bytes; raise the limit if that is right"
                        )
            left -= file.stat().st_size
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, UserError):
            raise UserError(f"{archive}: {error}") from None
        if not isinstance(error, Exception):
            raise
        # The libraries raise errors of many kinds for damage, encryption and unknown compression.
        raise UserError(f"{archive}: cannot be unpacked ({line(error) or type(error).__name__})") from error
    return target


def _copy(source: Any, out: Any) -> Iterator[int]:
    """Copies; yields how many bytes there are before each block is written."""
    size = 0
    while block := source.read(_BLOCK):
        size += len(block)
        yield size
        out.write(block)


def _members(archive: Path) -> Iterator[tuple[str, int, Any]]:
    """(name, size, what opens it) of the files of an archive; None in place of what would open a link or a device."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if not info.filename.endswith("/"):
                    plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)
                    yield info.filename, info.file_size, (lambda i=info: packed.open(i)) if plain else None
    elif _is_tar(archive):
        with tarfile.open(archive, tarinfo=_Header) as packed:
            for info in packed:
                if not info.isdir():
                    yield (
                        info.name,
                        info.size,
                        (lambda i=info: packed.extractfile(i)) if info.isreg() else None,
                    )
            # The checksum of a compressed archive is only looked at behind the end.
            for _ in range(_MAX_BEHIND // _BLOCK + 1):
                if not packed.fileobj.read(_BLOCK):  # pyright: ignore[reportOptionalMemberAccess]
                    return
            raise OSError(f"more than {_MAX_BEHIND:,} bytes behind its end; pack it anew")
    else:
        raise UserError("neither a zip nor a tar archive")
