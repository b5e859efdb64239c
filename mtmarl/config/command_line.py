"""Reads the words of a command line: which algorithm, task set and profile, and which values they come to."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mtmarl.command_lines import AS_THEY_STAND
from mtmarl.config import files, layers
from mtmarl.config.layers import Layer, Profile
from mtmarl.config.schema import TasksConfig
from mtmarl.errors import UserError
from mtmarl.parsing import parse, suggest
from mtmarl.runs import identity
from mtmarl.settings import flatten, key_of
from mtmarl.task_names import task_parts

GROUPS = ("algo", "tasks", "profile")
# The keys and sections that evaluate has; whatever else it takes from the run whose policy it scores.
OF_EVALUATE = re.compile(r"(seed|run|which|tasks|tasks\.\w+|evaluator\.final_episodes|data\.vault_dir)$")
# Categories of characters that no such value holds: controls, line breaks, and bytes that are not UTF-8.
_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")


@dataclass(frozen=True)
class Line:
    """A command line, read.

    `said`: group -> name, as it says; `chosen`: also what a profile chooses. `profile`: its
    name with the family whose parts hold, if it has any of that family. `layers`: the values of files, and of
    tasks that are named one by one; later ones win. What the command line says wins over them: `words` in Hydra's
    grammar, `texts` as they stand.
    """

    said: Mapping[str, str]
    chosen: Mapping[str, str]
    profile: str
    layers: Sequence[Layer]
    words: Mapping[str, str]
    texts: Mapping[str, str | None]

    @property
    def origins(self) -> list[Layer]:
        """The layers and the command line, each with the keys that it gives."""
        return [*self.layers, Layer("the command line", {**self.words, **self.texts})]


def read(argv: Sequence[str], command: str = "train") -> Line:
    """Groups may be written with or without `+`. A task name (with a `/`) becomes a task set. Raises UserError."""
    said: dict[str, str] = {}
    words: dict[str, str] = {}
    texts: dict[str, str | None] = {}
    for arg in argv:
        if arg.startswith("-"):
            raise UserError(f"unknown flag {arg}; options are written key=value, see --help")
        if arg.startswith("~"):
            raise UserError(f"{arg}: keys cannot be deleted")
        key, equals, value = arg.partition("=")
        if not equals:
            raise UserError(f"{arg}: options are written key=value, see --help")
        key, name = key.lstrip("+"), value.strip("'\"")
        if key == "experiment":  # What profiles were called.
            key, name = "profile", files.earlier("experiment").get(name, name)
        if key in AS_THEY_STAND:
            texts[key] = _text(key, value)
        elif key in GROUPS:
            if key in said:
                raise UserError(f"+{key}= is given twice; choose one")
            said[key] = name
        else:
            words.pop(key, None)
            words[key] = value
    return Line(said, *_layers(said, words, command), words, texts)


def _layers(
    said: Mapping[str, str], words: Mapping[str, str], command: str
) -> tuple[dict[str, str], str, list[Layer]]:
    profile, _, family = said.get("profile", "").partition(":")
    used = layers.expand(profile, _profile) if "profile" in said else []
    known = [layers.NONE, *layers.families(used)]
    if family and family not in known:
        raise UserError(f"+profile={profile}:{family}: no such family{suggest(family, known)}")
    choices = {name: p.choices(command) for name, p in used}
    chosen = {**{group: name for choice in choices.values() for group, name in choice.items()}, **said}
    algo = chosen.get("algo", "")
    tasks, inline = _tasks(chosen.get("tasks"))
    train = files.read_value(words.get("tasks.train", "null")) or tasks.values.get("tasks.train")
    family = family or layers.family_of(train if isinstance(train, list) else ())
    of_profile = list(layers.layers(used, algo, family))
    names = [
        Layer(f"configs/profiles/{name}.yaml", {"algo_name": choice["algo"]})
        for name, choice in choices.items()
        if "algo" in choice
    ]
    names += [Layer("the command line", {"algo_name": algo})] if "algo" in said else []
    # Tasks that are named one by one win over those of a profile.
    named = f"{profile}:{family if family in known else layers.NONE}" if profile else ""
    return chosen, named, [*base(algo), *names, *([*of_profile, tasks] if inline else [tasks, *of_profile])]


def deciding_words(argv: Sequence[str]) -> frozenset[str]:
    """The words of a recorded command line that decide what a run computes, with the names that profiles have today.

    Two lines with the same words mean the same run. A line that cannot be read any more stands for itself.
    """
    words = identity.overrides(argv)
    try:
        profile = read(argv).profile
    except UserError:
        return words
    rest = {word.lstrip("+") for word in words if key_of(word) != "profile"}
    return frozenset(rest | ({f"profile={profile}"} if profile else set()))


def base(algo: str) -> list[Layer]:
    """config.yaml and the file of an algorithm: its settings, or sections of config.yaml with a section `algo`."""
    found = [Layer("configs/config.yaml", flatten(files.read_keys(files.config_dir() / "config.yaml")))]
    if algo:
        files.check_known("algo", algo)
        values = files.read_keys(files.file_of("algo", algo))
        found.append(Layer(f"configs/algo/{algo}.yaml", flatten(values, "" if "algo" in values else "algo.")))
    return found


def task_set(name: str) -> TasksConfig:
    """One of the task sets that `+tasks=` takes, as its file has it."""
    file, values = _task_set(name)
    return parse(TasksConfig, {"name": file, **values}, f"configs/tasks/{file}.yaml")


def is_task_set(name: str) -> bool:
    """Whether `+tasks=` takes the name as that of a set, or of a half of one, rather than of tasks."""
    return files.earlier("tasks").get(name, name).partition(":")[0] in files.options("tasks")


def _task_set(name: str) -> tuple[str, Mapping[str, Any]]:
    """The name of the file of a task set, and what it holds, or the half of it that is meant. Raises UserError."""

    def read(name: str) -> Mapping[str, Any]:
        files.check_known("tasks", name)
        return files.read_keys(files.file_of("tasks", name))

    now = files.earlier("tasks").get(name, name)
    values = layers.task_set(now, read)
    return now.partition(":")[0], values if now == name else {**values, "name": name}


def _tasks(name: str | None) -> tuple[Layer, bool]:
    """The keys of a task set, or of one made of tasks that are named, and whether it is of the latter kind."""
    if name is None:
        return Layer("", {}), False
    names = name.strip("[]").split(",")
    if is_task_set(name) or not all("/" in n for n in names):
        file, values = _task_set(name)
        return Layer(f"configs/tasks/{file}.yaml", flatten({"tasks": {"name": file, **values}})), False
    names = [n.strip() for n in names]
    label = "+".join(n.replace("/", "-") for n in names)
    train = ["/".join(task_parts(n)) for n in names]
    values = {"name": label, "train": train, "test": [], "first": None}
    return Layer("the command line", flatten({"tasks": values})), True


def _profile(name: str) -> Profile:
    files.check_known("profile", name)
    path = files.file_of("profile", name)
    return parse(Profile, files.read_yaml(path), str(path))


def _text(key: str, value: str) -> str | None:
    """A value that is taken as it stands, but for quotes around all of it. Raises UserError."""
    if value == "null" and key != "data.quality":
        return None
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    if not value.strip() or any(unicodedata.category(c) in _NO_TEXT for c in value):
        raise UserError(f"{key}={ascii(value)}: give a text without control characters, or leave the key out")
    return value
