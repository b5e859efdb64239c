"""Settings as JSON, as records of runs hold them."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    """A configuration from a record. A setting that did not exist yet has the value by which things were then done."""
    algo = recorded.get("algo") if isinstance(recorded, Mapping) else None
    network = algo.get("network") if isinstance(algo, Mapping) else None
    # With one block both forms are the same network, and the record that of today.
    if isinstance(network, Mapping) and "decay_scale" in network and network.get("blocks", 1) != 1:
        network = {"decoder_norm": "every_block", **network}
        recorded = {**recorded, "algo": {**recorded["algo"], "network": network}}
    return parse(Config, recorded, where)
