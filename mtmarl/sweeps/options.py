"""The command line of a sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtmarl import config
from mtmarl.errors import UserError
from mtmarl.ranges import Count, Seeds
from mtmarl.sweeps.spec import OWN, read_sweep

USAGE = """usage: python -m mtmarl.sweep +sweep=NAME [profile=cpu] [key=value …]

  +sweep=    one of those below, or a YAML file of your own
  profile=   smoke (does it run?), cpu (a thinned grid) or paper (the published settings)
  jobs=      runs at a time
  launcher=  local (processes of this machine) or slurm; launcher.KEY= changes what configs/launcher says
  seeds=     instead of those of the sweep
  only.AXIS= run only these levels of an axis now, as in only.algo=mt_oryx; the plan and the report keep the rest
  only.seed= run only these of the sweep's seeds now, as when several machines share a sweep
  results=   facts.jsonl of this sweep or another, or a results.json of before; runs that it holds are not made
             again; several: a,b
  out=       default: runs/sweeps/NAME-PROFILE
  --dry-run  check the runs, print the commands of those that are left, run nothing
  key=value  any option of mtmarl.train, for every run (see python -m mtmarl.train --help)
"""


@dataclass(frozen=True)
class Options:
    """The command line; `overrides` are those of every run, `only` the levels per axis that are run now."""

    sweep: str
    profile: str = "cpu"
    jobs: Count = 1
    launcher: str = "local"
    launcher_options: Mapping[str, str] = field(default_factory=dict)
    seeds: Seeds | None = None
    results: tuple[str, ...] = ()
    out: str | None = None
    dry_run: bool = False
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()

    @property
    def directory(self) -> Path:
        default = Path("runs/sweeps") / f"{Path(self.sweep).stem}-{self.profile}"
        return Path(self.out).expanduser() if self.out else default


def read_options(argv: Sequence[str]) -> Options:
    """Raises UserError."""
    values: dict[str, Any] = {}
    only, places, overrides = {}, {}, []
    for arg in argv:
        if arg == "--dry-run":
            values["dry_run"] = True
            continue
        key, equals, value = arg.partition("=")
        key = key.lstrip("+")
        if key in ("sweep", "profile", "out", "launcher"):
            values[key] = value
        elif key in ("jobs", "seeds"):
            values[key] = config.read_value(value if key == "jobs" else f"[{value.strip('[]')}]")
        elif key == "results":
            values[key] = [v.strip() for v in value.split(",")]
        elif key.startswith("launcher."):
            places[key.removeprefix("launcher.")] = value
        elif key.startswith("only."):
            only[key.removeprefix("only.")] = [v.strip() for v in value.split(",")]
        elif arg.startswith("-") or not equals:
            raise UserError(f"{arg}: options are written key=value, see --help")
        elif key in ("dry_run", "dry-run"):
            raise UserError(f"{arg}: write --dry-run")
        elif key in OWN:
            raise UserError(f"{key}= belongs to the single run; {OWN[key]}")
        else:
            overrides.append(arg)
    if not values.get("sweep"):
        raise UserError(f"choose one: +sweep={{{', '.join(config.options('sweep'))}}}")
    values |= {"only": only, "launcher_options": places, "overrides": overrides}
    return config.parse(Options, values, "the command line")


def help_text() -> str:
    lines = [USAGE]
    for name in config.options("sweep"):
        sweep, _ = read_sweep(name)
        lines.append(f"  {name:<26}{sweep.title}")
    return "\n".join(lines)
