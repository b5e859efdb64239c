"""Layers of settings: what a profile and a task set add to the defaults, in which order, and from which file.

Later layers win: config.yaml < algorithm < task set < profile (its settings < those for the family < for the algorithm
< for the algorithm on the family) < command line. A profile that includes others comes after them. The functions work
on the values of YAML files; `config` reads the files.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mtmarl.errors import UserError
from mtmarl.settings import flatten

# The family of a set with tasks of several; and the one of no task, for a profile without its parts for families.
MIXED, NONE = "mixed", "none"

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Profile:
    """One file of configs/profiles. `algo` and `tasks` are used where the command line chooses none.

    `collect_with` takes the place of `algo` in `mtmarl.collect`.
    `families`: family -> settings; `algorithms`: algorithm -> settings; `algorithms_on_families`: algorithm -> family
    -> settings. Settings are nested as in config.yaml.
    """

    algo: str | None = None
    collect_with: str | None = None
    tasks: str | None = None
    includes: tuple[str, ...] = ()
    settings: Settings = field(default_factory=dict)
    families: Mapping[str, Settings] = field(default_factory=dict)
    algorithms: Mapping[str, Settings] = field(default_factory=dict)
    algorithms_on_families: Mapping[str, Mapping[str, Settings]] = field(default_factory=dict)

    def choices(self, command: str) -> dict[str, str]:
        algo = (command == "collect" and self.collect_with) or self.algo
        return {key: name for key, name in (("algo", algo), ("tasks", self.tasks)) if name is not None}


class Layer(NamedTuple):
    """Values by dotted key, and where they stand."""

    where: str
    values: Mapping[str, Any]


def expand(
    name: str, read: Callable[[str], Profile], above: tuple[str, ...] = ()
) -> list[tuple[str, Profile]]:
    """The profiles that `name` includes, each once, and then itself. Raises UserError where they go in a circle."""
    if name in above:
        raise UserError(f"configs/profiles: {' includes '.join((*above, name))}; take one of them out")
    profile = read(name)
    inner = [pair for other in profile.includes for pair in expand(other, read, (*above, name))]
    return list({**dict(inner), name: profile}.items())


def families(profiles: Iterable[tuple[str, Profile]]) -> list[str]:
    """The families that have a part in these profiles."""
    found = {f for _, p in profiles for f in p.families}
    found |= {f for _, p in profiles for parts in p.algorithms_on_families.values() for f in parts}
    return sorted(found)


def layers(profiles: Iterable[tuple[str, Profile]], algo: str, family: str) -> Iterator[Layer]:
    """The parts that hold for an algorithm and a family; the later ones win."""
    for name, profile in profiles:
        of_algorithm = profile.algorithms_on_families.get(algo, {})
        for part, settings in (
            ("settings", profile.settings),
            (f"families.{family}", profile.families.get(family)),
            (f"algorithms.{algo}", profile.algorithms.get(algo)),
            (f"algorithms_on_families.{algo}.{family}", of_algorithm.get(family)),
        ):
            if settings:
                yield Layer(f"configs/profiles/{name}.yaml, {part}", flatten(settings))


def family_of(tasks: Iterable[str]) -> str:
    """The one family of tasks named `family/scenario`; `mixed` where they are of several."""
    found = {str(task).partition("/")[0] for task in tasks}
    return found.pop() if len(found) == 1 else MIXED if found else NONE


def task_set(
    name: str, read: Callable[[str], Mapping[str, Any]], above: tuple[str, ...] = ()
) -> Mapping[str, Any]:
    """The values of a task set, with those that it includes, or with one half of it: `name:train`, `name:test`.

    The tasks of included sets come first, each once. A task that is trained on is not held out. Raises UserError.
    """
    whole, _, split = name.partition(":")
    where = f"configs/tasks/{whole}.yaml"
    if whole in above:
        raise UserError(f"configs/tasks: {' includes '.join((*above, whole))}; take one of them out")
    values = dict(read(whole))
    for key in ("includes", "train", "test"):
        entries = values.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise UserError(f"{where}: {key} must be a list of names, not {entries!r:.120}")
    if "includes" in values:
        inner = [task_set(other, read, (*above, whole)) for other in values.pop("includes")]
        train = _joined(values, inner, "train")
        values |= {"train": train, "test": [t for t in _joined(values, inner, "test") if t not in train]}
        hubs = {each.get("hub") for each in inner}
        values.setdefault("hub", hubs.pop() if len(hubs) == 1 else None)
    if split:
        other = {"train": "test", "test": "train"}.get(split)
        if other is None:
            raise UserError(
                f"+tasks={name}: {split!r} is no half of a task set; write {whole}:train or {whole}:test"
            )
        values |= {other: [], "name": f"{values.get('name', whole)}_{split}"}
    return values


def _joined(own: Mapping[str, Any], inner: Iterable[Mapping[str, Any]], part: str) -> list[str]:
    included = dict.fromkeys(task for each in inner for task in each.get(part, []))
    return [*included, *own.get(part, [])]


def sources(shown: Iterable[str], found: Iterable[Layer]) -> dict[str, str]:
    """Where the value of each key comes from: the last layer that has it, a section around it or a key below it."""
    out = dict.fromkeys(shown, "default")
    for layer in found:
        for key in layer.values:
            for other in out:
                if other == key or other.startswith(f"{key}.") or key.startswith(f"{other}."):
                    out[other] = layer.where
    return out
