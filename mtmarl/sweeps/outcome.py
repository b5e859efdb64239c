"""How a run of a sweep ended: what is printed of it, and its line among the failures."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtmarl import divergence
from mtmarl.sinks.summary import score


def diverged(run: Mapping[str, Any], out: Path) -> str | None:
    line = divergence.read(out / run["dir"])
    return line and f"{run['dir']}: {line}"


def of(run: Mapping[str, Any], out: Path, code: int = 0) -> tuple[list[str], str | None]:
    """The parts of a printed line, and the failure, None if the run finished. `code`: the exit code of its process."""
    final = out / run["dir"] / "final.json"
    if code == 0 and final.exists():
        return [f"finished  {run['dir']}", *_score(final)], None
    if line := diverged(run, out):
        return [f"DIVERGED  {line}"], line
    return [f"FAILED    {run['dir']}"], f"{run['dir']}: {_last_line(out / run['dir'] / 'log.txt')}"


def _last_line(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    lines = [line for line in text.splitlines() if line.strip()]
    return f"{lines[-1].strip() if lines else 'no output'} ({log})"


def _score(final: Path) -> list[str]:
    """The held-out score of a finished run: mean over held-out tasks of the best checkpoint's normalised score."""
    tasks = json.loads(final.read_text(encoding="utf-8")).get("best", {}).get("tasks", {})
    held_out = [name for name, t in tasks.items() if t["split"] == "test"]
    return [f"held-out {score(tasks, held_out):.3f}"] if held_out else []
