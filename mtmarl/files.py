"""Small files that someone may be reading, or a kill may interrupt: there is the old one or the new one, whole."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4


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
