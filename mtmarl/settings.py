"""Settings as plain values by dotted key, and how dataclasses say which of them may differ between equal runs."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

# Two runs are compared for one of these purposes. A setting may differ between them if its field is `free` in that.
SAME_RUN = "same run"  # whether a run goes on in its folder
COLLECTION = "collection"  # whether the collection of one task goes on
EXPERIMENT = "experiment"  # whether runs are repetitions of one experiment
REPORTED = "reported"  # whether a run in the results of a report is the one that is planned
NETWORK = "network"  # whether a network computes the same function of its parameters
_KEY = "free"


def free(*purposes: str) -> dict[str, Any]:
    """Metadata of a dataclass field whose value, or whose whole section, may differ between runs that are the same."""
    return {_KEY: purposes}


# Logging and path options never affect results.
NO_RESULT = free(SAME_RUN, COLLECTION, EXPERIMENT, REPORTED)


def free_keys(cls: Any, purpose: str, prefix: str = "") -> list[str]:
    """The dotted keys of the fields of a dataclass, and of the dataclasses in it, that are free in a comparison."""
    hints, keys = get_type_hints(cls), []
    for f in dataclasses.fields(cls):
        if purpose in f.metadata.get(_KEY, ()):
            keys.append(prefix + f.name)
        elif dataclasses.is_dataclass(hints[f.name]):
            keys += free_keys(hints[f.name], purpose, f"{prefix}{f.name}.")
    return keys


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
