"""From a command line and YAML files to frozen dataclasses: YAML holds values, Python holds types."""

from mtmarl.config.command_line import deciding_words, is_task_set, task_set
from mtmarl.config.composition import check_address, compose, defaults, hub_address
from mtmarl.config.files import config_dir, file_of, options, read_value, read_yaml
from mtmarl.config.help import help_text
from mtmarl.config.recorded import load, parse_recorded, to_dict
from mtmarl.config.schema import (
    CollectConfig,
    Config,
    DataConfig,
    EvaluatorConfig,
    HubConfig,
    TasksConfig,
    TrainerConfig,
)
from mtmarl.parsing import convert, parse, suggest

__all__ = [
    "CollectConfig", "Config", "DataConfig", "EvaluatorConfig", "HubConfig", "TasksConfig", "TrainerConfig",
    "check_address", "compose", "config_dir", "convert", "deciding_words", "defaults", "file_of", "help_text",
    "hub_address", "is_task_set", "load", "options", "parse", "parse_recorded", "read_value", "read_yaml", "suggest",
    "task_set", "to_dict",
]  # fmt: skip
