"""Settings as JSON, as records of runs hold them."""

import dataclasses
import json
import typing
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mtmarl import terminal
from mtmarl.config.files import config_dir, read_yaml
from mtmarl.config.schema import Config
from mtmarl.errors import UserError
from mtmarl.parsing import parse


def to_dict(cfg: Any) -> dict[str, Any]:
    """The configuration as JSON-ready values; `load` reads them back."""
    return json.loads(json.dumps(dataclasses.asdict(cfg)))


def load(path: str | Path) -> Config:
    """The configuration saved as JSON at `path`: the dict itself, or a record with it under `config`."""
    path = Path(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the directory of a run of mtmarl.train") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error})") from error
    if isinstance(record, dict) and "config" in record:
        record = record["config"]
    return parse_recorded(record, str(path))


def parse_recorded(recorded: Any, where: str) -> Config:
    """A configuration from a record of this version or an earlier one, see `known_settings`. Raises UserError."""
    algo = recorded.get("algo") if isinstance(recorded, Mapping) else None
    network = algo.get("network") if isinstance(algo, Mapping) else None
    # With one block both forms are the same network, and the record that of today.
    if isinstance(network, Mapping) and "decay_scale" in network and network.get("blocks", 1) != 1:
        network = {"decoder_norm": "every_block", **network}
        recorded = {**recorded, "algo": {**recorded["algo"], "network": network}}
    return parse(
        Config, known_settings(Config, recorded, where, read_yaml(config_dir() / "config.yaml")), where
    )


def known_settings(cls: Any, recorded: Any, where: str, defaults: Mapping[str, Any], path: str = "") -> Any:
    """What was recorded of a dataclass of settings, for `parse`.

    Keys that it does not have are named in a warning and left out. A setting that did not exist yet has the default of
    its field, by which things were then done; the oldest, which have none, are those of `defaults`.
    """
    unknown: list[str] = []
    values = _known(cls, recorded, defaults, path, unknown)
    if unknown:
        _warn(f"{where}: left out settings that this version does not have: {', '.join(sorted(unknown))}")
    return values


@cache
def _warn(line: str) -> None:
    """Says it once, however often a record is read."""
    terminal.say(line, error=True)


def _known(cls: Any, recorded: Any, defaults: Any, prefix: str, unknown: list[str]) -> Any:
    if not (isinstance(recorded, Mapping) and isinstance(defaults, Mapping)):
        return recorded  # `parse` refuses it.
    hints, fields = typing.get_type_hints(cls), {f.name: f for f in dataclasses.fields(cls)}
    unknown += [f"{prefix}{key}" for key in recorded if key not in fields]
    values = {key: value for key, value in recorded.items() if key in fields}
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if name in values and dataclasses.is_dataclass(hints[name]):
            below = defaults.get(name) or {}
            values[name] = _known(hints[name], values[name], below, f"{prefix}{name}.", unknown)
        elif name not in values and required and name in defaults:
            values[name] = defaults[name]
    return values
