"""Recorded configurations side by side: which of their settings decide what a run computes.

On plain values, as run.json and sweep.json hold them; imports nothing of ours.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What is seen of a run, and where its data come from.
FREE_TO_CHANGE = (
    "sinks",
    "quiet",
    "evaluator.greedy_too",
    "run_dir",
    "hub",
    "distributed",
    "data.download",
    "data.memory_mb",
    "tasks.hub",
)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, Mapping)
        out |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return out


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} as {"a": {"b": 1}}. Raises ValueError where a key is a value and a section."""
    out: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        inner = out
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ValueError(f"config: {key} lies in {section}, which is a value and no section")
        if isinstance(inner.get(name), dict) and inner[name]:
            raise ValueError(f"config: {key} is a section and no value")
        inner[name] = value
    return out


def is_free(key: str, free: Iterable[str] = ()) -> bool:
    """Whether a dotted key is one of FREE_TO_CHANGE or `free`, or lies in a section that is."""
    return any(key == f or key.startswith(f + ".") for f in (*FREE_TO_CHANGE, *free))


def deciding(config: Mapping[str, Any], free: Iterable[str] = ()) -> dict[str, Any]:
    """The settings of a configuration by dotted key, without FREE_TO_CHANGE and `free` (keys or sections)."""
    flat, free = flatten(config), tuple(free)
    if "tasks.train" in flat:  # A set cut to as many tasks as it has is that set.
        flat["tasks.first"] = len(flat["tasks.train"][: flat.get("tasks.first")])
    return {key: value for key, value in flat.items() if not is_free(key, free)}


def without_use(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The sections that decided nothing of a run: how to play, where training on recorded data played nothing."""
    counts = record.get("counts") or {}
    return ("collect",) if counts and "env_steps" not in counts else ()


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys in which settings are not all alike; one that some of them lack is such a key."""
    keys = {key for one in settings for key in one}
    return sorted(k for k in keys if len({spell(one[k]) if k in one else None for one in settings}) > 1)


def listed(keys: Sequence[str], most: int = 6) -> str:
    """Keys for a message of one line."""
    more = len(keys) - most
    return ", ".join(keys[:most]) + (f" and {more} more" if more > 0 else "")


def spell(value: Any) -> str:
    """A value as a command line gives it; 1.0 and 1 are one value."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(spell, value))}]"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def key_of(override: str) -> str:
    """The key of one word of a command line; `experiment` is what profiles were called."""
    key = override.partition("=")[0].lstrip("+")
    return "profile" if key == "experiment" else key


def overrides(argv: Iterable[str]) -> frozenset[str]:
    """What of a command line decides what a run computes."""
    return frozenset(word for word in argv if not is_free(key_of(word)))
