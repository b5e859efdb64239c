"""What the files of a run may hold: every value that a report uses has the type that it is used as.

Files of another version, of another program or of a broken disk are told from those of a run here, so that a report
names them and goes on with the others.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mtmarl import divergence

Fits = Callable[[Any], bool]

REQUIRED = ("kind", "algo", "tasks", "train_tasks", "test_tasks", "seed")


def text(value: Any) -> bool:
    return isinstance(value, str)


def number(value: Any) -> bool:
    """Finite, and small enough for a float."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e300 if isinstance(value, int) else math.isfinite(value)


def whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def names(value: Any) -> bool:
    return isinstance(value, list) and all(map(text, value)) and len(set(value)) == len(value)


def pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(number, value))


def table(value: Any) -> bool:
    return isinstance(value, dict)


def each(fits: Fits) -> Fits:
    """A table of values that fit or are unknown."""
    return lambda value: isinstance(value, dict) and all(v is None or fits(v) for v in value.values())


def fields(known: Mapping[str, Fits]) -> Fits:
    """A table in which these keys, as far as they are there, have values that fit or are unknown."""
    return lambda value: isinstance(value, dict) and not list(_wrong(value, known))


FIGURES = fields({"reference": number, "random": number})
RUN: Mapping[str, Fits] = {
    "kind": text,
    "algo": text,
    "tasks": text,
    "train_tasks": names,
    "test_tasks": names,
    "seed": whole,
    "label": text,
    "title": text,
    "acting": text,
    "started": text,
    "minutes": number,
    "hardware": text,
    "commit": text,
    "versions": each(text),
    "parameters": whole,
    "updates": whole,
    "select_on": text,
    "start": fields({"from": text, "algo": text, "env_steps": number}),
    "counts": each(number),
    "dataset_steps": number,
    "value_range": pair,
    "max_returns": each(number),
    "origins": table,
    "references": each(FIGURES),
    "config": fields(
        {
            "algo": fields({"acting_temperature": number, "final_epsilon": number}),
            "evaluator": fields({"explore": number}),
            "collect": fields({"evaluations": number}),
        }
    ),
}  # fmt: skip
SCORE: Mapping[str, Fits] = {
    "win_rate": number,
    "greedy_return": number,
    "episodes": whole,
    "standard_error": number,
}


def _wrong(value: Mapping[str, Any], known: Mapping[str, Fits]) -> Iterable[str]:
    return (key for key, fits in known.items() if value.get(key) is not None and not fits(value[key]))


def check_run(record: Mapping[str, Any], file: str = "run.json") -> None:
    """Raises ValueError where the record of a run is none."""
    for key in REQUIRED:
        if record.get(key) is None:
            raise ValueError(f"{file} has no {key!r}")
    for key in _wrong(record, RUN):
        raise ValueError(f"{file}: {key} cannot be {_short(record[key])}")


def check_references(known: Mapping[str, Any]) -> None:
    """Raises ValueError where figures of reference are no numbers."""
    for task, figures in known.items():
        if not FIGURES(figures):
            raise ValueError(f"{task}: reference and random must be numbers, not {_short(figures)}")


def check_metrics(rows: Iterable[Mapping[str, Any]]) -> None:
    """Raises ValueError where a line of metrics holds what is no number; one that was not finite is None."""
    for row in rows:
        if not number(row.get("step")):
            raise ValueError(f"metrics: step cannot be {_short(row.get('step'))}")
        for name, value in row.items():
            if value is not None and not number(value):
                raise ValueError(f"metrics: {name} is no number, {_short(value)}")


def check_final(final: Mapping[str, Any], tasks: Iterable[str]) -> None:
    """Raises ValueError where final scores are incomplete or hold what is no number. Returns are checked by `Run`."""
    for which in ("best", "last") if final else ():
        scored = final.get(which)
        known = scored.get("tasks") if isinstance(scored, dict) else None
        if not isinstance(known, dict):
            raise ValueError(f"final.json: no scores of the {which} checkpoint")
        for task in (*tasks, *known):
            own = known.get(task)
            if not isinstance(own, dict) or own.get("return") is None:
                raise ValueError(f"final.json: no returns of {task} at the {which} checkpoint")
            for key in _wrong(own, SCORE):
                raise ValueError(f"the {key} of {task} at the {which} checkpoint is no number")


def lost(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """How a run diverged, by its last metrics: a loss that was not finite was logged as null. None if it did not."""
    last: dict[str, tuple[Any, Any]] = {}
    for row in rows:
        last |= {name: (row["step"], value) for name, value in row.items() if divergence.watched(name)}
    for name, (step, value) in last.items():
        if value is None:
            return f"diverged: {name} is not finite at update {step:,}"
    return None


def _short(value: Any) -> str:
    spelled = json.dumps(value, default=str)
    return spelled if len(spelled) <= 60 else spelled[:57] + "…"
