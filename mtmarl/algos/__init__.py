"""The algorithms. A new one is a module here that ends in its `SPEC`, a YAML in configs/algo, and a line below."""

from importlib import import_module
from typing import Any

from mtmarl.algos.base import Spec


def _spec(module: str, name: str = "SPEC") -> Spec:
    found: Any = import_module(f"mtmarl.algos.{module}")
    return getattr(found, name)


ALGOS: dict[str, Spec] = {
    "mt_oryx": _spec("mt_oryx"),
    "mt_cql_sable": _spec("mt_cql_sable"),
    "mt_bc_sable": _spec("mt_bc_sable"),
    "bc_t": _spec("bc_t"),
    "bc_r": _spec("bc_r"),
    "updet_m": _spec("updet"),
    "updet_l": _spec("updet", "SPEC_L"),
    "odis": _spec("odis"),
    "hissd": _spec("hissd"),
    "madt": _spec("madt"),
    "m3": _spec("m3"),
    "sable": _spec("sable"),
    "qmix": _spec("qmix"),
    "mappo": _spec("mappo"),
    "madt_finetune": _spec("madt_finetune"),
    "care": _spec("care"),
    "hygen": _spec("hygen"),
    "m3_finetune": _spec("m3_finetune"),
}
OFFLINE = {name: spec for name, spec in ALGOS.items() if spec.kind == "offline"}
ONLINE = {name: spec for name, spec in ALGOS.items() if spec.kind == "online"}
