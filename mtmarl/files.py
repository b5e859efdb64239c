"""What is on disk stays whole: small files are there or not, for readers and after kills; a run has one writer."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from mtmarl.errors import UserError


def write_whole(file: Path, content: str | bytes) -> None:
    """Replaces `file` in one step; text is UTF-8. Directories above it are made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}-{uuid4().hex[:8]}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(file: Path, value: Any) -> None:
    """`write_whole` of plain values, indented."""
    write_whole(file, json.dumps(value, indent=1) + "\n")


@contextmanager
def only_writer(run_dir: Path) -> Iterator[None]:
    """Keeps other processes from writing a run at the same time. Raises UserError if one does."""
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run_dir / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"{run_dir}: another process is writing this run; wait for it, or give another run_dir"
        ) from None
    except NotImplementedError:  # Some network file systems have no locks; a run is worth more than its lock.
        yield
        return
    try:
        yield
    finally:
        lock.release()
