"""The families of tasks: built in, registered by a program, or installed as an entry point.

Names of tasks are `family/scenario`, and scenarios follow a grammar: any legal task can be made.
"""

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from mtmarl.envs.api import Discrete, Family
from mtmarl.errors import UserError
from mtmarl.foreign import line
from mtmarl.task_names import task_parts
from mtmarl.types import Env

BUILT_IN = ("lbf", "connector", "rware", "smax")
ENTRY_POINTS = "mtmarl.families"
_registered: dict[str, Family] = {}


def families() -> list[str]:
    """The names of all known families, built-in ones first."""
    installed = (point.name for point in entry_points(group=ENTRY_POINTS))
    return list(dict.fromkeys((*BUILT_IN, *_registered, *installed)))


def register_family(family: Family) -> Family:
    """Makes a family known to this process; a later one of the same name replaces it. Raises UserError."""
    if not isinstance(family, Family):
        raise UserError(f"register_family: got {type(family).__name__}; give an mtmarl.Family")
    task_parts(f"{family.name}/any")
    if family.name in BUILT_IN:
        raise UserError(f"register_family: {family.name} is built in; give the family another name")
    if not isinstance(family.actions, Discrete):
        raise UserError(
            f"family {family.name}: its actions are not discrete; this library's algorithms need that"
        )
    _registered[family.name] = family
    return family


def get_family(name: str) -> Family:
    """The family of this name; a `Family` without anything else for a name that is not known. Raises UserError."""
    if name in BUILT_IN:
        return import_module(f"mtmarl.envs.{name}").FAMILY
    if name not in _registered:
        for point in entry_points(group=ENTRY_POINTS, name=name):
            _load(point)
    return _registered.get(name) or Family(name)


def _load(point: Any) -> None:
    """Registers the family of an entry point."""
    where = f"entry point {point.name} = {point.value} of {ENTRY_POINTS}"
    try:
        family = point.load()
    except Exception as error:  # Another's code: it may raise anything.
        reason = line(f"{type(error).__name__}: {error}")
        raise UserError(f"{where}: cannot be loaded ({reason}); repair or uninstall its package") from None
    if getattr(family, "name", None) != point.name:
        raise UserError(f"{where}: is no mtmarl.Family of that name; correct the entry point")
    register_family(family)


def make_env(name: str) -> Env:
    """The environment of one task. Raises UserError with the reason if there is no such task."""
    family_name, scenario = task_parts(name)
    family = get_family(family_name)
    if family.make is None:
        known = families()
        if family_name in known:
            raise UserError(
                f"{name}: this family has vaults and no environment; it can be neither played nor scored"
            )
        raise UserError(f"{name}: tasks are named family/scenario with a family of {', '.join(known)}")
    try:
        env: Any = family.make(scenario)
    except ImportError as error:
        what = f"'mtmarl[{family.extra}]'" if family.extra else family.package or "the package of that name"
        raise UserError(f"{name}: its environment cannot be imported ({error}); pip install {what}") from None
    return family.check(name, env)
