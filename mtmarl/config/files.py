"""The YAML files of configs/: where they lie, their names and their values. The only module that imports yaml."""

import copy
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from mtmarl.errors import UserError
from mtmarl.parsing import shown, suggest

_FOLDERS = {"profile": "profiles"}
# A few lines of aliases to aliases can stand for more values than fit into memory.
_MOST_VALUES, _MOST_LEVELS = 100_000, 100


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # pyright: ignore[reportGeneralTypeIssues]
    """YAML as Hydra reads it: 1e-3 is a number, a date is text, and a key given twice is an error."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag.endswith(":str")]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.YAMLError(f"the key {key} is given twice")
        return super().construct_mapping(node, deep)


_EXPONENT = re.compile(r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789."))


def config_dir() -> Path:
    """The directory of the YAML files: beside the package when installed, else that of the checkout."""
    package = Path(__file__).parents[1]
    packaged = package / "_configs"
    return packaged if packaged.is_dir() else package.parent / "configs"


def file_of(group: str, name: str) -> Path:
    return config_dir() / _FOLDERS.get(group, group) / f"{name}.yaml"


def options(group: str) -> list[str]:
    """The names that `+group=` takes."""
    root = config_dir() / _FOLDERS.get(group, group)
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))


def check_known(group: str, name: str) -> None:
    known = options(group)
    if name not in known:
        hint = "; a single task is written family/scenario" if group == "tasks" else ""
        raise UserError(f"unknown +{group}={name}{suggest(name, known)}{hint}")


def earlier(group: str) -> Mapping[str, str]:
    """Names that recorded command lines have -> what they are called now."""
    path = config_dir() / "earlier_names.yaml"
    return read_keys(path)[group] if path.exists() else {}


def read_yaml(path: Path) -> Any:
    """The values of one YAML file, for `parsing.parse`; an empty file holds no keys. Raises UserError."""
    try:
        return copy.deepcopy(_values(path.read_text(encoding="utf-8")) or {})
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from error


def read_keys(path: Path) -> dict[str, Any]:
    """As `read_yaml`, of a file that holds keys and values. Raises UserError."""
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: must hold keys and values, not {shown(values)}")
    return values


def read_value(text: str) -> Any:
    """One value in YAML's spelling, as command lines give them. Raises UserError."""
    try:
        return copy.deepcopy(_values(text))
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{text!r:.120} is not a value ({' '.join(str(error).split())})") from error


@lru_cache(256)
def _values(text: str) -> Any:
    """Reads each text once per process. Raises ValueError or YAMLError."""
    _check_size(text)
    return yaml.load(text, _Loader)  # noqa: S506


def _check_size(text: str) -> None:
    """Counts values with aliases written out, before anything is built or recursed into."""
    sizes: dict[str, float] = {}
    open_nodes: list[tuple[str | None, float]] = [(None, 0)]
    for event in yaml.parse(text, _Loader):
        anchor, size = getattr(event, "anchor", None), 1.0
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((anchor, 1))
        elif isinstance(event, yaml.AliasEvent | yaml.ScalarEvent | yaml.CollectionEndEvent):
            if isinstance(event, yaml.AliasEvent):
                size = sizes.get(event.anchor, math.inf)  # Unknown: an alias to what it stands in.
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, size = open_nodes.pop()
            if anchor and not isinstance(event, yaml.AliasEvent):
                sizes[anchor] = size
            outer, before = open_nodes[-1]
            open_nodes[-1] = (outer, before + size)
        if len(open_nodes) > _MOST_LEVELS or open_nodes[-1][1] > _MOST_VALUES:
            raise ValueError(
                f"nested too deeply, or more than {_MOST_VALUES:,} values with its aliases written out"
            )
