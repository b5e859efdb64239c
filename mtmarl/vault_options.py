"""The options of `python -m mtmarl.vault`."""

import argparse
import math
from collections.abc import Callable, Mapping
from typing import Any

Command = Callable[[argparse.Namespace], None]

_ROOTS = "folder of vaults; default: $MTMARL_VAULTS, ./vault_data, mtmarl/vaults in ~/.local/share, the package's own"
_ROOT = "folder to write to; default: $MTMARL_VAULTS, else mtmarl/vaults in ~/.local/share"
_HUB = "hf://datasets/ORG/NAME[@REVISION], s3://…, gs://…, https://…, or a folder; with #sha256=… only that content"
_SEVERAL = "family, family/scenario or family/scenario/dataset; default: all"
_ONE = "family/scenario[/dataset]"


def _interval(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not written LOW:HIGH") from None
    return low, high


def _gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of gigabytes above 0")
    return value


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def _mapping(text: str) -> dict[str, str]:
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(all(pair) for pair in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} is not written FIELD=ARRAY,…")
    return {field: name for field, _, name in pairs}


def parser(run: Mapping[str, Command]) -> argparse.ArgumentParser:
    """`run` maps each command to the function that executes it."""
    top = argparse.ArgumentParser(
        prog="python -m mtmarl.vault",
        description="Find, describe, check, fetch, publish, import and convert recorded data.",
    )
    commands = top.add_subparsers(dest="command", required=True)

    def command(name: str, about: str, root: str = _ROOTS) -> Callable[..., Any]:
        sub = commands.add_parser(name, help=about, description=about)
        sub.add_argument("--root", help=root)
        sub.set_defaults(run=run[name])
        return sub.add_argument

    def replace(add: Callable[..., Any], what: str = "replace what is there") -> None:
        add("--replace", action="store_true", help=what)

    add = command("ls", "list vaults")
    add("--hub", help=f"list those of a hub: {_HUB}")

    add = command("describe", "figures and a plot of one task's vaults")
    add("name", help=_ONE)
    add("--out", default="runs/vaults", help="folder of the plots; default: %(default)s")
    add("--json", action="store_true", help="print the figures as JSON, draw nothing")

    add = command("pull", "fetch vaults from a hub, checked against their hashes", _ROOT)
    add("name", nargs="*", help=f"{_SEVERAL}; or a task set, such as lbf_5")
    add("--hub", help=f"{_HUB}; default: hub.url of the configuration, else that of the task set")
    add("--quality", default="replay", help="of the vaults of a task set; default: %(default)s")
    replace(add, "also replace vaults that were not pulled from a hub")
    add("--workers", type=_count, default=4, help="files at a time; default: %(default)s")

    add = command("push", "publish vaults with a card that describes them")
    add("name", nargs="*", help=_SEVERAL)
    add("--hub", required=True, help=_HUB)
    add("--title", help="of the card; default: the name of the data set")
    add("--license", help="of the data, as the card says it, such as cc-by-4.0")
    add("--create", action="store_true", help="make a private Hugging Face data set if there is none")
    replace(add)

    add = command("verify", "check files against the manifest and arrays against the schema")
    add("name", nargs="?", help=_ONE)
    add("--repair", action="store_true", help="first write the manifest anew, of the sound vaults")

    add = command("subset", "a part of a vault as another dataset")
    add("name", help=_ONE)
    add("quality", help="name of the new dataset")
    add("--steps", type=int, help="at most so many, complete episodes spread evenly")
    add("--policy-steps", type=_interval, metavar="LOW:HIGH", help="of policies at these training steps")
    add("--returns", type=_interval, metavar="LOW:HIGH", help="between these quantiles of return, as 0.5:1")
    replace(add)

    add = command("import", "write own data (.npz, .parquet, exports of this package) as vaults", _ROOT)
    add("files", nargs="+", help="one task each; arrays and shapes: docs/vault_format.md")
    add("--task", required=True, help="family/scenario; {stem} stands for the name of the file")
    add("--quality", default="replay", help="name of the dataset; default: %(default)s")
    add("--horizon", type=_count, help="time limit in env steps")
    add("--map", type=_mapping, help="names of arrays where they differ: action=actions,reward=rewards")
    replace(add)

    add = command("convert", "read OG-MARL, Oryx or Mava vaults into this library's schema", _ROOT)
    add("source", help="folder or archive (zip, tar) with Flashbax vaults")
    add(
        "--task",
        help="family/scenario, or only the family; default: from the path …/family/scenario.vlt/dataset",
    )
    add("--quality", help="default: the last part of the path")
    add("--horizon", type=_count, help="time limit in env steps; default: that of the task, if known here")
    add("--team-reward", choices=("mean", "sum"), help="of the agents' rewards where they differ")
    add("--rollout-length", type=_count, help="of a Mava recording, env steps per write")
    add(
        "--flags", choices=("start", "end"), help="step of an episode that a flag marks; default: by evidence"
    )
    add("--team-flags", choices=("all", "any"), help="agents flagged when an episode ends; default: all")
    add("--max-gigabytes", type=_gigabytes, default=64, help="of an archive, unpacked; default: %(default)s")
    replace(add)

    add = command("export", "write a vault as .npz (NumPy) or .parquet")
    add("name", help=_ONE)
    add("file", help="ends in .npz or .parquet")
    add("--scaled", action="store_true", help="observations as float32, as a network sees them")
    return top
