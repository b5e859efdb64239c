"""The algorithms. A new one is a module here that ends in its `SPEC`, a YAML in configs/algo, and a line below."""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from mtmarl.algos.base import Algorithm, Spec
from mtmarl.errors import UserError
from mtmarl.parsing import parse
from mtmarl.types import Dims

if TYPE_CHECKING:
    from mtmarl.config import Config


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


def parse_algorithm(cfg: "Config", known: Mapping[str, Spec]) -> tuple[Spec, Any]:
    """The algorithm that is asked for and its parsed settings. `known`: ALGOS or a part of them."""
    if cfg.algo_name not in known:
        raise UserError(f"+algo={cfg.algo_name} does not run here; choose one of {', '.join(known)}")
    spec = known[cfg.algo_name]
    where = f"configs/algo/{cfg.algo_name}.yaml or the command line"
    return spec, parse(spec.Config, cfg.algo, where, "algo")


def make_algorithm(
    spec: Spec, settings: Any, dims: Dims, updates: int, value_range: tuple[float, float] | None = None
) -> Algorithm:
    """The algorithm with these settings; it is given the rest as far as it needs it."""
    known = {"updates": updates, "value_range": value_range}
    return spec.make(settings, dims, **{name: known[name] for name in spec.needs})
