"""Names of tasks and datasets.

A task is `family/scenario`, a vault `family/scenario/dataset`; `data.quality` takes the dataset. Each part is used in
paths, URLs and command lines, so it contains only characters without a special meaning in any of them.
"""

import re

from mtmarl.errors import UserError

RULE = "ASCII letters, digits and _ . + -, with a letter or digit first, at most 80 characters"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,79}")
# Folders of a vault root that are no families.
_NO_FAMILIES = ("references", "figures")


def is_dataset(name: str) -> bool:
    return _PART.fullmatch(name) is not None


def check_dataset(name: str, what: str = "dataset") -> str:
    """Returns the name. what: its description in the message, such as its key. Raises UserError."""
    if not is_dataset(name):
        raise UserError(f"{what} {_quoted(name)}: not a legal name; use {RULE}")
    return name


def check_label(name: str, what: str) -> str:
    """Returns the name of a task set, which may list all its tasks. Raises UserError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*(/[A-Za-z0-9][A-Za-z0-9_.+-]*)*", name):
        raise UserError(
            f"{what} {_quoted(name)}: not a legal name; use ASCII letters, digits and _ . + - /, with a "
            "letter or digit first and after each /"
        )
    return name


def task_parts(name: str) -> tuple[str, str]:
    """Returns (family, scenario) of a task name. Raises UserError."""
    family, _, scenario = name.partition("/")
    if not (_PART.fullmatch(family) and _PART.fullmatch(scenario)) or family in _NO_FAMILIES:
        raise UserError(
            f"task {_quoted(name)}: not a legal name; write family/scenario, each part of {RULE}"
            + f"; {family!r} is the name of another folder" * (family in _NO_FAMILIES)
        )
    return family, scenario


def vault_parts(name: str) -> tuple[str, str, str]:
    """Returns (family, scenario, dataset) of a vault name. Raises UserError."""
    task, _, dataset = name.rpartition("/")
    return *task_parts(task), check_dataset(dataset, f"vault {_quoted(name)}, dataset")


def _quoted(name: str) -> str:
    """Escapes non-ASCII characters, which may look like ASCII ones."""
    return ascii(name if len(name) <= 120 else f"{name[:120]}…")
