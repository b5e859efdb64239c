"""What `--help` prints."""

from collections.abc import Iterable

from mtmarl.config import files
from mtmarl.config.command_line import GROUPS, OF_EVALUATE

_USAGE = {
    "train": "+algo=mt_oryx +tasks=lbf_5 [profile=cpu] [key=value …]",
    "collect": "+algo=sable +tasks=lbf_5 [profile=vaults_starter] [key=value …]",
    "evaluate": "run=runs/… +tasks=lbf/8x8-2p-2f-coop [key=value …]",
}
_GROUPS = {
    "algo": "",
    "tasks": "or tasks joined by commas, family/scenario; NAME:train and NAME:test are the halves of a set",
    "profile": "settings for a machine; NAME:FAMILY those for another family, NAME:none those for no family",
}


def help_text(command: str, argv: Iterable[str] = ()) -> str:
    """Usage, the options of each group, and every key with its default."""
    groups = [g for g in GROUPS if command != "evaluate" or OF_EVALUATE.match(g)]
    chosen = " or ".join(f"+{g}=" for g in groups)
    lines = [f"usage: python -m mtmarl.{command} {_USAGE.get(command, '[key=value …]')}", ""]
    for group in groups:
        lines += [f"  {f'+{group}=':<14} {', '.join(files.options(group)) or '(none)'}"]
        lines += [f"{'':<17}{_GROUPS[group]}"] if _GROUPS[group] else []
    lines += [
        "  --show-config  prints every setting of this command and where its value comes from, and runs nothing",
        f"  --help         with {chosen} chosen: what its file holds as well",
        "",
        "keys and defaults (write nested keys with dots, as in data.quality=expert):",
        "",
    ]
    body = (files.config_dir() / "config.yaml").read_text(encoding="utf-8").strip("\n")
    lines += _indented(_of_evaluate(body) if command == "evaluate" else body, 2)
    for arg in argv:
        group, _, name = arg.lstrip("+").partition("=")
        if group in groups and name in files.options(group):
            text = files.file_of(group, name).read_text(encoding="utf-8").strip()
            lines += ["", f"  {group}:  # {name}", *_indented(text, 4)]
    return "\n".join(lines)


def _indented(text: str, width: int) -> list[str]:
    return [" " * width + line if line else "" for line in text.splitlines()]


def _of_evaluate(body: str) -> str:
    """The lines of config.yaml with the keys that evaluate has."""
    kept, section = [], ""
    for line in body.splitlines():
        key = line.partition(":")[0]
        section = section if key.startswith(" ") else f"{key}."
        if OF_EVALUATE.match(section + key.strip() if key.startswith(" ") else key):
            kept += ["", section[:-1] + ":"] * (key.startswith(" ")) + [line]
    return "\n".join(kept)
