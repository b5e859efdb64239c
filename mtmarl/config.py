"""From a command line and YAML files to frozen dataclasses.

The only module that imports Hydra or OmegaConf. It does not import jax, so that `--help` is instant.
YAML holds values, Python holds types, and nothing is changed after `parse`.
"""

import dataclasses
import json
import math
import re
import typing
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from mtmarl import profiles
from mtmarl.command_lines import AS_THEY_STAND, word
from mtmarl.command_lines import line as shell_line
from mtmarl.errors import UserError
from mtmarl.foreign import holds_credentials
from mtmarl.parsing import parse, shown, suggest
from mtmarl.profiles import Layer, Profile
from mtmarl.ranges import Count, Natural, Seed, Share, Size, SomeShare
from mtmarl.settings import flatten
from mtmarl.sinks import check_sinks
from mtmarl.task_names import check_dataset, check_label, task_parts

GROUPS = ("algo", "tasks", "profile")
_FOLDERS = {"profile": "profiles"}
# The keys and sections that evaluate has; whatever else it takes from the run whose policy it scores.
_OF_EVALUATE = re.compile(r"(seed|run|which|tasks|tasks\.\w+|evaluator\.final_episodes|data\.vault_dir)$")
# Categories of characters that no such value holds: controls, line breaks, and bytes that are not UTF-8.
_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")
# Of a YAML file: what a few lines of aliases to aliases stand for fills any memory.
_MOST_VALUES = 100_000
_NEEDS = {"train": ("algo", "tasks"), "collect": ("algo", "tasks"), "evaluate": ("run",)}


@dataclass(frozen=True)
class TrainerConfig:
    """`context` is the number of timesteps T of a window."""

    updates: Count
    chunk: Count
    batch_size: Size
    context: Size
    checkpoint_every: Count


@dataclass(frozen=True)
class EvaluatorConfig:
    """`every` counts updates; `episodes` and `final_episodes` are per task; explore: 0 greedy … 1 sample."""

    every: Count
    episodes: Size
    final_episodes: Size
    explore: Share = 1.0
    greedy_too: bool = False
    select_on: Literal["train", "test"] = "train"


@dataclass(frozen=True)
class CollectConfig:
    """Online training and recording, per task. `single_policies`: also vaults of one policy each, expert and medium.

    explore: of what is recorded; 1: actions drawn from the policy, 0: greedy, as in the published data of SMAC.
    """

    env_steps: Count
    num_envs: Size
    rollout_length: Size
    evaluations: Size
    eval_episodes: Size
    record_points: Size
    record_episodes: Size
    record: bool
    single_policies: bool = False
    explore: Share = 1.0


@dataclass(frozen=True)
class DataConfig:
    """Where vaults lie, what of them is used, and how batches are made of it.

    end_at_limits: a step at which an episode was cut short counts as its end, as in the released code; else values
    learn nothing from it. The last four are the switches of the paper's ablations: random agent order per window,
    padded agents masked out, equal rows per task (else one random task per update), one-hot agent numbers in the
    observation. shuffle_slots: interchangeable objects (LBF's foods and other agents) stand in random slots of an
    observation, for algorithms that read it flat; runs from before this setting have them in their fixed order.
    """

    vault_dir: str | None
    quality: str
    download: bool
    fraction: SomeShare = 1.0
    memory_mb: Count | None = None
    end_at_limits: bool = False
    shuffle_agents: bool = True
    mask_agents: bool = True
    balanced: bool = True
    agent_ids: Literal["none", "fixed", "random"] = "none"
    shuffle_slots: bool = False


@dataclass(frozen=True)
class HubConfig:
    """Where vaults that are not on this machine come from; an address of `mtmarl.data.hub`."""

    url: str | None = None


@dataclass(frozen=True)
class TasksConfig:
    """A set of tasks: those trained on and those only evaluated on. `first` keeps the first k to train on.

    `start`: the index of the first task to train on; tasks follow in their order, and after the last comes the first.

    `hub` is the address of its vaults, where `hub.url` gives none.
    """

    name: str = ""
    train: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    first: Count | None = None
    start: Natural = 0
    hub: str | None = None


@dataclass(frozen=True)
class Config:
    """All that a command line needs. `algo` stays a plain mapping until `ALGOS[algo_name].Config` parses it."""

    seed: Seed
    trainer: TrainerConfig
    evaluator: EvaluatorConfig
    collect: CollectConfig
    data: DataConfig
    hub: HubConfig = field(default_factory=HubConfig)
    algo_name: str = ""
    algo: Mapping[str, Any] = field(default_factory=dict)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    sinks: tuple[str, ...] = ("console", "jsonl", "marl_eval")
    seeds: tuple[Seed, ...] | None = None
    distributed: bool = False
    run_dir: str | None = None
    run: str | None = None
    which: Literal["best", "last"] = "best"
    init_from: str | None = None
    quiet: bool = False


def config_dir() -> Path:
    """The directory of the YAML files: beside the package when installed, else that of the checkout."""
    packaged = Path(__file__).parent / "_configs"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "configs"


def read_yaml(path: Path) -> Any:
    """The values of one YAML file, for `parse`. Raises UserError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        _check_expanded(path.read_text(encoding="utf-8"), str(path))
        return OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from error


def _check_expanded(text: str, where: str) -> None:
    """Raises UserError for YAML that is too large or too deep once its aliases are written out."""
    from yaml import SafeLoader, compose

    sizes: dict[int, int | float] = {}

    def size(node: Any) -> int | float:
        if id(node) not in sizes:
            sizes[id(node)] = math.inf  # of an alias to what it stands in
            entries = node.value if isinstance(node.value, list) else []
            nodes = [n for entry in entries for n in (entry if isinstance(entry, tuple) else (entry,))]
            sizes[id(node)] = 1 + sum(map(size, nodes))
        return sizes[id(node)]

    try:
        root = compose(text, SafeLoader)
        too_large = root is not None and size(root) > _MOST_VALUES
    except RecursionError:
        too_large = True
    if too_large:
        raise UserError(
            f"{where}: nested too deeply, or more than {_MOST_VALUES:,} values with its aliases written out"
        )


def read_value(text: str) -> Any:
    """One value in YAML's spelling, as command lines give them. Raises UserError."""
    from yaml import YAMLError, safe_load

    try:
        _check_expanded(text, "a value")
        return safe_load(text)
    except YAMLError as error:
        raise UserError(f"{text!r} is not a value ({' '.join(str(error).split())})") from error


def options(group: str) -> list[str]:
    """The names that `+group=` takes."""
    root = config_dir() / _FOLDERS.get(group, group)
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))


def task_set(name: str) -> TasksConfig:
    """One of the task sets that `+tasks=` takes, as its file has it."""
    file, values = _task_set(name)
    return parse(TasksConfig, {"name": file, **values}, f"configs/tasks/{file}.yaml")


def _task_set(name: str) -> tuple[str, Mapping[str, Any]]:
    """The name of the file of a task set, and what it holds, or the half of it that is meant. Raises UserError."""

    def read(name: str) -> Mapping[str, Any]:
        _known("tasks", name)
        values = read_yaml(path := config_dir() / "tasks" / f"{name}.yaml")
        if not isinstance(values, Mapping):
            raise UserError(f"{path}: must hold keys and values, not {shown(values)}")
        return values

    now = _earlier("tasks").get(name, name)
    values = profiles.task_set(now, read)
    return now.partition(":")[0], values if now == name else {**values, "name": name}


def is_task_set(name: str) -> bool:
    """Whether `+tasks=` takes the name as that of a set, or of a half of one, rather than of tasks."""
    return _earlier("tasks").get(name, name).partition(":")[0] in options("tasks")


def _profile(name: str) -> Profile:
    _known("profile", name)
    path = config_dir() / "profiles" / f"{name}.yaml"
    return parse(Profile, read_yaml(path), str(path))


def _earlier(group: str) -> Mapping[str, str]:
    """Names that recorded command lines have, and what they are called now."""
    path = config_dir() / "earlier_names.yaml"
    return read_yaml(path)[group] if path.exists() else {}


def hub_address() -> str | None:
    """`hub.url` of config.yaml."""
    path = config_dir() / "config.yaml"
    return parse(HubConfig, read_yaml(path).get("hub") or {}, str(path)).url


@cache
def defaults(algo: str) -> Mapping[str, Any]:
    """What the settings of a run are where it was told nothing but its algorithm; of an unknown one no settings."""
    return _compose([f"+algo={algo}"] if algo in options("algo") else [])


def compose(argv: list[str], command: str) -> Config:
    """The configuration of one run from its command line, e.g. `["+algo=mt_oryx", "+tasks=lbf_5", "seed=1"]`.

    `command` is the verb: train, collect or evaluate. `--help` prints and exits. Raises UserError.
    """
    if any(a in ("-h", "--help") for a in argv):
        print(help_text(command, argv))
        raise SystemExit(0)
    show = "--show-config" in argv
    argv = [a for a in argv if a != "--show-config"]
    line = _read_line(argv)
    values = _compose(line.words)
    for key, value in line.texts.items():
        section, _, name = key.rpartition(".")
        inner = values.setdefault(section, {}) if section else values
        if isinstance(inner, dict):  # Else `parse` refuses the section.
            inner[name] = value

    of_the_run = [key for o in argv if not _OF_EVALUATE.match(key := o.partition("=")[0].lstrip("+"))]
    if command == "evaluate" and of_the_run:
        raise UserError(
            f"{', '.join(of_the_run)}: evaluate acts as the run was scored, without such options; leave them out"
        )
    if command != "evaluate" and values.get("run") is not None:
        raise UserError(f"run= belongs to evaluate; {command} starts from a run with init_from=")
    for need in _NEEDS.get(command, ()):
        if values.get(need) is None:
            if need in GROUPS:
                raise UserError(f"choose one: +{need}={{{', '.join(options(need))}}}")
            raise UserError(f"{command} needs {need}=, the directory of a run")

    tasks = dict(values.pop("tasks", None) or {})
    algo = values.pop("algo", None) or {}
    where = "the command line"
    if is_task_set(name := line.chosen.get("tasks", "")):
        where = f"configs/tasks/{name}.yaml or {where}"
    parsed = parse(TasksConfig, tasks, where)
    if "algo_name" in values:
        raise UserError("the command line: algo_name is not an option; choose with +algo=")
    rest = {
        **values,
        "algo_name": line.chosen.get("algo", ""),
        "algo": algo,
        "tasks": dataclasses.asdict(parsed),
    }
    cfg = parse(Config, rest, "configs/config.yaml or the command line")
    _check(cfg, command)
    if show:
        print(_listed(cfg, command, line))
        raise SystemExit(0)
    return cfg


def check_address(where: str, key: str, address: str | None) -> None:
    """Raises UserError for an address with credentials, which must not be recorded."""
    if address and holds_credentials(address):
        raise UserError(
            f"{where}: {key} holds a password, token or query; an address is recorded, so set credentials in the "
            "environment, as the client of that place reads them"
        )


def _check(cfg: Config, command: str) -> None:
    where = "configs/config.yaml or the command line"
    check_sinks(cfg.sinks)
    if cfg.seeds is not None:
        if command != "train":
            raise UserError(f"seeds= belongs to train; {command} takes one seed=")
        if not cfg.seeds or len(set(cfg.seeds)) < len(cfg.seeds):
            raise UserError(f"{where}: seeds must be different ints, not {list(cfg.seeds)}")
    check_dataset(cfg.data.quality, f"{where}: data.quality")
    for key, address in (("hub.url", cfg.hub.url), ("tasks.hub", cfg.tasks.hub)):
        check_address(where, key, address)
    tasks = cfg.tasks
    if tasks.name:
        check_label(tasks.name, f"{where}: tasks.name")
    for part in ("train", "test"):
        for name in getattr(tasks, part):
            task_parts(name)
        twice = [t for t, count in Counter(getattr(tasks, part)).items() if count > 1]
        if twice:
            raise UserError(f"tasks {tasks.name or '(command line)'}: {part} lists {', '.join(twice)} twice")
    if command in ("train", "collect") and not tasks.train:
        raise UserError(f"tasks {tasks.name or '(command line)'}: train lists no task")
    if tasks.first is not None and not 1 <= tasks.first <= len(tasks.train):
        raise UserError(f"tasks.first must lie in 1 … {len(tasks.train)}, not {tasks.first}")


@dataclass(frozen=True)
class _Line:
    """A command line, read: what is chosen per group, the words for Hydra, and the texts that Hydra does not see.

    `layers`: the values of task set, profile and command line, in the order in which later ones win.
    """

    chosen: Mapping[str, str]
    words: list[str]
    texts: Mapping[str, Any]
    layers: list[Layer]


def _read_line(argv: list[str]) -> _Line:
    """Groups may be written with or without `+`. A task name (with a `/`) becomes an inline task set.

    Values are forced in (`++`): `parse` then refuses unknown keys with a better message than Hydra's.
    """
    chosen: dict[str, str] = {}
    plain: list[tuple[str, str]] = []
    texts: dict[str, Any] = {}
    for arg in argv:
        if arg.startswith("-"):
            raise UserError(f"unknown flag {arg}; options are written key=value, see --help")
        if arg.startswith("~"):
            raise UserError(f"{arg}: keys cannot be deleted")
        key, equals, value = arg.partition("=")
        if not equals:
            raise UserError(f"{arg}: options are written key=value, see --help")
        key, name = key.lstrip("+"), value.strip("'\"")
        if key == "experiment":
            key, name = "profile", _earlier("experiment").get(name, name)
        if key in AS_THEY_STAND:
            texts[key] = _text(key, value)
        elif key in GROUPS:
            if key in chosen:
                raise UserError(f"+{key}= is given twice; choose one")
            chosen[key] = name
        else:
            plain.append((key, value))
    by_name = {"algo_name": chosen["algo"]} if "algo" in chosen else {}
    said = Layer("the command line", {**dict(plain), **texts, **by_name})

    profile, _, family = chosen.get("profile", "").partition(":")
    used = profiles.expand(profile, _profile) if "profile" in chosen else []
    known = [profiles.NONE, *profiles.families(used)]
    if family and family not in known:
        raise UserError(f"+profile={profile}:{family}: no such family{suggest(family, known)}")
    chosen = {**{group: name for _, p in used for group, name in p.choices().items()}, **chosen}
    choices = [Layer(f"configs/profiles/{name}.yaml", {"algo_name": p.algo}) for name, p in used if p.algo]
    if "algo" in chosen:
        _known("algo", chosen["algo"])
    tasks, inline = _chosen_tasks(chosen.get("tasks"))
    train = read_value(dict(plain).get("tasks.train", "null")) or tasks.values.get("tasks.train")
    family = family or profiles.family_of(train if isinstance(train, list) else ())
    of_profile = list(profiles.layers(used, chosen.get("algo", ""), family))
    # Tasks that are named one by one win over those of a profile.
    put = [*of_profile, tasks] if inline else [tasks, *of_profile]
    values = [(key, value) for layer in put for key, value in layer.values.items()]
    words = [f"+algo={chosen['algo']}"] if "algo" in chosen else []
    words += [f"++{word(key, value)}" for key, value in values if key not in AS_THEY_STAND]
    words += [f"++{key}={value}" for key, value in plain]
    texts = {**{key: value for key, value in values if key in AS_THEY_STAND}, **texts}
    return _Line(chosen, words, texts, [*choices, *put, said])


def _chosen_tasks(name: str | None) -> tuple[Layer, bool]:
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


def _origins(line: _Line) -> list[Layer]:
    """All layers of a configuration, from config.yaml to the command line."""
    layers = [Layer("configs/config.yaml", flatten(read_yaml(config_dir() / "config.yaml")))]
    if algo := line.chosen.get("algo"):
        path = config_dir() / "algo" / f"{algo}.yaml"
        whole = path.read_text(encoding="utf-8").startswith("# @package _global_")
        values = flatten(read_yaml(path), "" if whole else "algo.")
        layers.append(Layer(f"configs/algo/{algo}.yaml", values))
    return layers + line.layers


def _listed(cfg: Config, command: str, line: _Line) -> str:
    """What `--show-config` prints: a command line of all keys, a word per line, and where each value comes from."""
    shown = flatten(to_dict(cfg))
    if command == "evaluate":
        shown = {key: value for key, value in shown.items() if _OF_EVALUATE.match(key)}
    where = profiles.sources(shown, _origins(line))
    spelled = lambda key, value: shell_line(word("algo" if key == "algo_name" else key, value))
    words = {key: spelled(key, value) for key, value in shown.items()}
    width = min(60, max(map(len, words.values())))
    return "\n".join(f"{text:<{width}}  # {where[key]}" for key, text in words.items())


def _text(key: str, value: str) -> str | None:
    """A value that is taken as it stands, but for quotes around all of it. Raises UserError."""
    if value == "null" and key != "data.quality":
        return None
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    if not value.strip() or any(unicodedata.category(c) in _NO_TEXT for c in value):
        raise UserError(f"{key}={ascii(value)}: give a text without control characters, or leave the key out")
    return value


def _known(group: str, name: str) -> None:
    known = options(group)
    if name not in known:
        hint = "; a single task is written family/scenario" if group == "tasks" else ""
        raise UserError(f"unknown +{group}={name}{suggest(name, known)}{hint}")


def _compose(overrides: list[str]) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(config_dir().absolute()), version_base=None):
            node = hydra_compose("config", overrides)
            values = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        if "sweep over it" in reason:
            reason = reason.split(" 1. ")[0].replace("'++", "'") + "; a list is written [a,b], a text 'a,b'"
        raise UserError(f"configuration: {reason}") from error
    assert isinstance(values, dict)
    return typing.cast(dict[str, Any], values)


def help_text(command: str, argv: Iterable[str] = ()) -> str:
    """What `--help` prints: usage, the options of each group, and every key with its default."""
    usage = {
        "train": "+algo=mt_oryx +tasks=lbf_5 [key=value …]",
        "collect": "+algo=sable +tasks=lbf_5 [key=value …]",
        "evaluate": "run=runs/… +tasks=lbf/8x8-2p-2f-coop [key=value …]",
    }
    lines = [f"usage: python -m mtmarl.{command} {usage.get(command, '[key=value …]')}", ""]
    groups = [g for g in GROUPS if command != "evaluate" or _OF_EVALUATE.match(g)]
    lines += [f"  +{g}=  {', '.join(options(g)) or '(none)'}" for g in groups]
    lines += [
        "  +tasks= also takes the name of one task, or of several joined by commas: family/scenario",
        f"  --help with {' or '.join(f'+{g}=' for g in groups)} chosen lists what it holds as well",
        "",
    ]
    text = (config_dir() / "config.yaml").read_text(encoding="utf-8")
    lines += ["keys and defaults (write nested keys with dots, as in data.quality=expert):", ""]
    body = text.split("- _self_", 1)[-1].strip("\n")
    if command == "evaluate":
        body = _of_evaluate(body)
    lines += ["  " + line if line else "" for line in body.splitlines()]
    for arg in argv:
        key, _, name = arg.lstrip("+").partition("=")
        if key in groups and name in options(key):
            lines += ["", f"  {key}:  # {name}"]
            text = (config_dir() / _FOLDERS.get(key, key) / f"{name}.yaml").read_text(encoding="utf-8")
            text = text.removeprefix("# @package _global_\n")  # For Hydra.
            lines += ["    " + line if line else "" for line in text.strip().splitlines()]
    return "\n".join(lines)


def _of_evaluate(body: str) -> str:
    """The lines of config.yaml with the keys that evaluate has."""
    kept, section = [], ""
    for line in body.splitlines():
        key = line.partition(":")[0]
        section = section if key.startswith(" ") else f"{key}."
        if _OF_EVALUATE.match(section + key.strip() if key.startswith(" ") else key):
            kept += ["", section[:-1] + ":"] * (key.startswith(" ")) + [line]
    return "\n".join(kept)


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
