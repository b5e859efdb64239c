"""The names of tasks and datasets: one rule at every door.

A task is named `family/scenario`, a vault `family/scenario/dataset`; the dataset is what `data.quality` takes. Each
part names a folder, is a part of an address and a word of a command line, so it holds only characters that mean
themselves in all three.
"""

import re

from mtmarl.errors import UserError

RULE = "ASCII letters, digits and _ . + -, with a letter or digit first, at most 80 characters"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,79}")
# Folders of a root of vaults that hold something else.
_NO_FAMILIES = ("references", "figures")


def is_dataset(name: str) -> bool:
    return _PART.fullmatch(name) is not None


def check_dataset(name: str, what: str = "dataset") -> str:
    """The name itself. `what`: how the message calls it, such as the key that it was given under. Raises UserError."""
    if not is_dataset(name):
        raise UserError(f"{what} {_shown(name)}: not a legal name; use {RULE}")
    return name


def check_label(name: str, what: str) -> str:
    """The name of a set of tasks, which may be as long as all of theirs together. Raises UserError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*(/[A-Za-z0-9][A-Za-z0-9_.+-]*)*", name):
        raise UserError(
            f"{what} {_shown(name)}: not a legal name; use ASCII letters, digits and _ . + - /, with a "
            "letter or digit first and after each /"
        )
    return name


def task_parts(name: str) -> tuple[str, str]:
    """(family, scenario) of the name of a task. Raises UserError."""
    family, _, scenario = name.partition("/")
    if not (_PART.fullmatch(family) and _PART.fullmatch(scenario)) or family in _NO_FAMILIES:
        raise UserError(
            f"task {_shown(name)}: not a legal name; write family/scenario, each part of {RULE}"
            + f"; {family!r} is the name of another folder" * (family in _NO_FAMILIES)
        )
    return family, scenario


def vault_parts(name: str) -> tuple[str, str, str]:
    """(family, scenario, dataset) of the name of a vault. Raises UserError."""
    task, _, dataset = name.rpartition("/")
    return *task_parts(task), check_dataset(dataset, f"vault {_shown(name)}, dataset")


def _shown(name: str) -> str:
    """What stands in it, also where it only looks like something else."""
    return ascii(name if len(name) <= 120 else f"{name[:120]}…")
