"""Every numeric setting with wrong values: a value that makes sense, or one line that names the key."""

import dataclasses
import math
import random
import typing
from importlib import import_module
from typing import Any

import pytest

from mtmarl import config
from mtmarl.errors import UserError
from mtmarl.settings import flatten

VALUES: tuple[Any, ...] = (
    math.nan, math.inf, -math.inf, 1e30, 1e39, 10**400, 10**5000, 1e10, -1, 0, 2**31, True, False, "x", "", None, [],
    {}, [1], "1e3",
)  # fmt: skip
ALGOS = {  # Modules of the settings of the algorithms; those of networks are their fields.
    name: import_module(f"mtmarl.algos.{'updet' if name.startswith('updet') else name}")
    for name in config.options("algo")
}


def numeric(cls: type, prefix: str = "") -> list[str]:
    """The dotted keys of a dataclass that hold numbers."""
    found = []
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if dataclasses.is_dataclass(hint):
            found += numeric(typing.cast(type, hint), f"{prefix}{name}.")
        elif "int" in str(hint) or "float" in str(hint):
            found.append(prefix + name)
    return found


def put(mapping: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    name, _, rest = key.partition(".")
    return {**mapping, name: put(mapping.get(name) or {}, rest, value) if rest else value}


def get(parsed: Any, key: str) -> Any:
    for name in key.split("."):
        parsed = getattr(parsed, name)
    return parsed


def sensible(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(sensible, value))
    return value is None or isinstance(value, str | bool) or (math.isfinite(value) and abs(value) <= 3.4e38)


def try_all(cls: type, good: dict[str, Any], section: str) -> int:
    refused = 0
    for key in numeric(cls):
        for value in VALUES:
            try:
                assert sensible(get(config.parse(cls, put(good, key, value), "a.yaml", section), key)), key
            except UserError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 400 and key.split(".")[-1] in str(error)
    return refused


@pytest.mark.parametrize("algo", ALGOS)
def test_settings_of_algorithms(algo):
    good = dict(config.defaults(algo)["algo"])
    assert try_all(ALGOS[algo].Config, good, "algo") > len(VALUES)


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return config.to_dict(config.compose(["+algo=sable", "+tasks=lbf_5"], "train"))


def test_settings_of_runs(values):
    assert try_all(config.Config, values, "") > 300
    for key, value in (
        ("evaluator.episodes", 1e30), ("trainer.batch_size", 1e12), ("evaluator.final_episodes", 1e10),
        ("trainer.updates", 2**31), ("collect.num_envs", 1e9),
    ):  # fmt: skip
        with pytest.raises(UserError, match=rf"{key} must be at most [\d,]+, not "):
            config.parse(config.Config, put(values, key, value), "a.yaml")


def test_random_values_anywhere(values):
    """Several at once, sections and lists too."""
    draw = random.Random(0)
    keys = [*values, *(f"{s}.{k}" for s, of in values.items() if isinstance(of, dict) for k in of)]
    for _ in range(500):
        mapping = values
        for key in draw.sample(keys, 2):
            try:
                mapping = put(mapping, key, draw.choice(VALUES))
            except (TypeError, AttributeError):  # Below a value that is no section.
                continue
        try:
            config.parse(config.Config, mapping, "a.yaml")
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "word", ["seed=" + "1" * 5000, "trainer.updates=inf", "trainer.updates=nan", "algo=[" * 500]
)
def test_command_lines(word):
    with pytest.raises(UserError) as caught:
        config.compose(["+algo=sable", "+tasks=lbf_5", word], "train")
    assert "\n" not in str(caught.value)


def test_no_value_takes_keys_of_its_own(values):
    """No word of a command line is dropped: a key below a value, or below a text that is taken as it stands."""
    for key in (k for k in flatten(values) if not k.startswith("algo") and k not in ("run", "seeds")):
        with pytest.raises(UserError, match=rf"\b{key}\b"):
            config.compose(["+algo=sable", "+tasks=lbf_5", f"{key}.more=x"], "train")
