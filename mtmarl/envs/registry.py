"""From a task's name, `family/scenario`, to its environment. Names are a grammar: any legal task can be built."""

from importlib import import_module

from mtmarl.errors import UserError
from mtmarl.task_names import task_parts
from mtmarl.types import Env

FAMILIES = {
    "lbf": "mtmarl.envs.lbf",
    "connector": "mtmarl.envs.connector",
    "rware": "mtmarl.envs.rware",
    "smax": "mtmarl.envs.smax",
}


def make_env(name: str) -> Env:
    """The environment of one task. Raises UserError with the reason if there is no such task."""
    family, scenario = task_parts(name)
    if family not in FAMILIES:
        raise UserError(f"{name}: tasks are named family/scenario with a family of {', '.join(FAMILIES)}")
    return import_module(FAMILIES[family]).make(scenario)


def observation_fields(family: str) -> list[tuple[str, slice]]:
    """What each number of one agent's observation means, in order: [(name, where it is)], of any task of a family."""
    if family not in FAMILIES:
        raise UserError(f"{family}: no such family of tasks; choose one of {', '.join(FAMILIES)}")
    names = import_module(FAMILIES[family]).FIELDS
    return [(name, slice(i, i + 1)) for i, name in enumerate(names)]
