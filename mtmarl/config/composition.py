"""Composes the settings of one run: YAML files, then the command line. The only module that imports Hydra.

Hydra and OmegaConf are imported when they are used, and jax is not imported, so that `--help` is instant.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from mtmarl import terminal
from mtmarl.command_lines import AS_THEY_STAND, word
from mtmarl.command_lines import line as shell_line
from mtmarl.config import command_line, files, layers
from mtmarl.config.command_line import GROUPS, OF_EVALUATE, Line
from mtmarl.config.help import help_text
from mtmarl.config.layers import Layer
from mtmarl.config.recorded import to_dict
from mtmarl.config.schema import Config, HubConfig, TasksConfig
from mtmarl.errors import UserError
from mtmarl.foreign import holds_credentials
from mtmarl.parsing import parse
from mtmarl.settings import flatten
from mtmarl.sinks import check_sinks
from mtmarl.task_names import check_dataset, check_label, task_parts

_NEEDS = {"train": ("algo", "tasks"), "collect": ("algo", "tasks"), "evaluate": ("run",)}
_WHERE = "configs/config.yaml or the command line"


def compose(argv: Sequence[str], command: str) -> Config:
    """The configuration of one run from its command line, e.g. `["+algo=mt_oryx", "+tasks=lbf_5", "seed=1"]`.

    `command` is the verb: train, collect or evaluate. `--help` prints and exits. Raises UserError.
    """
    if any(a in ("-h", "--help") for a in argv):
        terminal.say(*help_text(command, argv).splitlines())
        raise SystemExit(0)
    line = command_line.read([a for a in argv if a != "--show-config"], command)
    values = _merged(line.layers, line.words, line.texts)
    keys = [*line.said, *line.words, *line.texts]
    if command == "evaluate" and (others := [key for key in keys if not OF_EVALUATE.match(key)]):
        raise UserError(
            f"{', '.join(others)}: evaluate acts as the run was scored, without such options; leave them out"
        )
    if command != "evaluate" and values.get("run") is not None:
        raise UserError(f"run= belongs to evaluate; {command} starts from a run with init_from=")
    for need in _NEEDS.get(command, ()):
        if values.get(need) is None:
            if need in GROUPS:
                raise UserError(f"choose one: +{need}={{{', '.join(files.options(need))}}}")
            raise UserError(f"{command} needs {need}=, the directory of a run")
    if "algo_name" in line.words:
        raise UserError("the command line: algo_name is not an option; choose with +algo=")

    file = line.chosen.get("tasks", "")
    where = (
        f"configs/tasks/{file}.yaml or the command line"
        if command_line.is_task_set(file)
        else "the command line"
    )
    parse(
        TasksConfig, values.get("tasks") or {}, where, "tasks"
    )  # Names the file where a key of it is wrong.
    cfg = parse(
        Config,
        {key: value for key, value in values.items() if value is not None or key not in GROUPS},
        _WHERE,
    )
    _check(cfg, command)
    if "--show-config" in argv:
        terminal.say(*_listed(cfg, command, line).splitlines())
        raise SystemExit(0)
    return cfg


@cache
def defaults(algo: str) -> Mapping[str, Any]:
    """The settings of a run that was told nothing but its algorithm; of an unknown algorithm, no settings of it."""
    return _merged(command_line.base(algo if algo in files.options("algo") else ""), {}, {})


def hub_address() -> str | None:
    """`hub.url` of config.yaml."""
    path = files.config_dir() / "config.yaml"
    return parse(HubConfig, files.read_keys(path).get("hub") or {}, str(path)).url


def _merged(found: Iterable[Layer], words: Mapping[str, str], texts: Mapping[str, Any]) -> dict[str, Any]:
    """The values of layers, later ones over earlier ones, and those of the command line over them. Raises UserError."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    tree: dict[str, Any] = {}
    given = [item for layer in found for item in layer.values.items()]
    for key, value in given:
        if key not in AS_THEY_STAND:
            _put(tree, key, value)
    where = "configuration"
    try:
        node = OmegaConf.create(tree)
        for override in OverridesParser.create().parse_overrides([f"++{k}={v}" for k, v in words.items()]):
            text, key = (
                part.removeprefix("++") for part in (str(override.input_line), override.get_key_element())
            )
            if override.is_sweep_override():
                raise ValueError(f"{text}: a list is written [a,b], a text 'a,b'")
            where = key
            value = override.value()
            # A list in place of a section replaces it: `parse` refuses it.
            OmegaConf.update(node, key, value, merge=isinstance(value, dict), force_add=True)
        where = "configuration"
        values: Any = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise UserError(f"{where}: {' '.join(str(error.__cause__ or error).split())}") from error
    sections = {key for key in AS_THEY_STAND if any(word.startswith(f"{key}.") for word in words)}
    for key, value in (*given, *texts.items()):
        if (
            key in AS_THEY_STAND and key not in sections
        ):  # A section in its place stays, for `parse` to refuse.
            _put(values, key, value)
    return values


def _put(tree: dict[Any, Any], key: str, value: Any) -> None:
    """Sets a dotted key; in a section that is a value and no section, nothing: `parse` refuses it."""
    *sections, name = key.split(".")
    for section in sections:
        if tree.get(section) is None:
            tree[section] = {}
        tree = tree[section]
        if not isinstance(tree, dict):
            return
    tree[name] = value


def check_address(where: str, key: str, address: str | None) -> None:
    """Raises UserError for an address with credentials, which must not be recorded."""
    if address and holds_credentials(address):
        raise UserError(
            f"{where}: {key} holds a password, token or query; an address is recorded, so set credentials in the "
            "environment, as the client of that place reads them"
        )


def _check(cfg: Config, command: str) -> None:
    check_sinks(cfg.sinks)
    if cfg.seeds is not None and command != "train":
        raise UserError(f"seeds= belongs to train; {command} takes one seed=")
    check_dataset(cfg.data.quality, f"{_WHERE}: data.quality")
    for key, address in (("hub.url", cfg.hub.url), ("tasks.hub", cfg.tasks.hub)):
        check_address(_WHERE, key, address)
    tasks = cfg.tasks
    if tasks.name:
        check_label(tasks.name, f"{_WHERE}: tasks.name")
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


def _listed(cfg: Config, command: str, line: Line) -> str:
    """What `--show-config` prints: a command line of all keys, a word per line, and where each value comes from."""
    shown = flatten(to_dict(cfg))
    if command == "evaluate":
        shown = {key: value for key, value in shown.items() if OF_EVALUATE.match(key)}
    where = layers.sources(shown, line.origins)
    spelled = lambda key, value: shell_line(word("algo" if key == "algo_name" else key, value))
    words = {key: spelled(key, value) for key, value in shown.items()}
    width = min(60, max(map(len, words.values())))
    return "\n".join(f"{text:<{width}}  # {where[key]}" for key, text in words.items())
