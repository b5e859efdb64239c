"""What the shipped command lines mean, as hashes: `python -m tests.config.composed` writes composed.json anew.

Write it anew after a change of settings that is meant, such as a new key.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from mtmarl import config
from mtmarl.errors import UserError
from mtmarl.sweeps.options import Options
from mtmarl.sweeps.plan import make_plan
from mtmarl.sweeps.spec import read_sweep

FILE = Path(__file__).with_suffix(".json")
PROFILES = (
    "cpu", "cpu_all_30", "cpu_connector_10", "cpu_lbf_5", "cpu_rware_15", "fine_tuning_cpu", "fine_tuning_paper",
    "fine_tuning_smoke", "paper", "paper_all_30", "paper_connector_10", "paper_lbf_5", "paper_rware_15", "quickstart",
    "smoke", "vaults_paper", "vaults_starter",
)  # fmt: skip
TASKS = (
    "all_30", "connector_10", "connector_test", "lbf_5", "lbf_test", "m3_easy", "m3_mixed", "marine_easy",
    "marine_hard", "micro", "rware_15", "rware_test", "stalker_zealot", "rware/tiny-2ag,lbf/8x8-2p-2f-coop",
)  # fmt: skip


def command_lines(profile: str, algo: str) -> list[list[str]]:
    """Under the name by which recorded commands call the profile: without a task set, and with each."""
    start = [f"+experiment={profile}", f"+algo={algo}"]
    return [start, *([*start, f"+tasks={tasks}"] for tasks in TASKS)]


def cells(name: str) -> Iterator[tuple[str, list[list[str]]]]:
    """The profiles of a sweep, each with the command line of every cell at its first seed."""
    read, where = read_sweep(name)
    for profile in read.profiles:
        runs = make_plan(read, where, Options(name, profile))["runs"]
        yield f"{name} {profile}", list({str(r["cell"]): r["argv"] for r in reversed(runs)}.values())


def digest(argv: list[str], command: str = "train") -> str:
    """Of all settings that a command line comes to."""
    try:
        settings = config.to_dict(config.compose(argv, command))
    except UserError:
        return "refused"
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:6]


def main() -> None:
    found = {f"{p} {a}": command_lines(p, a) for p in PROFILES for a in config.options("algo")}
    found |= {key: argvs for name in config.options("sweep") for key, argvs in cells(name)}
    found |= {"no profile": [[f"+algo={a}", "+tasks=all_30"] for a in config.options("algo")]}
    text = json.dumps({key: " ".join(map(digest, argvs)) for key, argvs in found.items()}, indent=0)
    FILE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
