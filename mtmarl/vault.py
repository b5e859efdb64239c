"""The dataset side: `python -m mtmarl.vault ls|describe|pull|push|verify|subset|convert|export`."""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtmarl import config
from mtmarl.command_lines import command
from mtmarl.data import vault as vaults
from mtmarl.errors import UserError, exit_with, failed
from mtmarl.files import write_whole
from mtmarl.foreign import shown
from mtmarl.task_names import check_dataset

ROOTS = "folder of vaults; default: $MTMARL_VAULTS, ./vault_data, mtmarl/vaults in ~/.local/share, the package's own"
ROOT = "folder to write to; default: $MTMARL_VAULTS, else mtmarl/vaults in ~/.local/share"
HUB = "hf://datasets/ORG/NAME[@REVISION], s3://…, gs://…, https://…, or a folder; with #sha256=… only that very content"


def _roots(args: argparse.Namespace) -> list[Path]:
    return [Path(args.root)] if args.root else vaults.default_roots()


def _own_root(args: argparse.Namespace) -> Path:
    """Where new vaults go."""
    return Path(args.root) if args.root else vaults.own_root()


def _found(args: argparse.Namespace) -> dict[str, Path]:
    roots = reversed(_roots(args))  # earlier roots win, as in find_vault
    return {name: path for each in roots for name, path in vaults.list_vaults(each).items()}


def _named(args: argparse.Namespace) -> dict[str, Path]:
    found = {n: p for n, p in sorted(_found(args).items()) if args.name in (n, n.rpartition("/")[0])}
    if not found:
        ls = command("vault", "ls", *(("--root", args.root) if args.root else ()))
        raise UserError(f"no vault {args.name!r}; list those there are with {ls}")
    return found


def _one(args: argparse.Namespace) -> tuple[str, Path]:
    found = _named(args)
    if len(found) > 1:
        raise UserError(f"{args.name}: choose one of {', '.join(found)}")
    return next(iter(found.items()))


def _new_place(args: argparse.Namespace, task: str, quality: str) -> Path:
    return vaults.check_free(vaults.vault_path(_own_root(args), task, quality), args.replace)


def _keep(path: Path, recording: vaults.Recording, metadata: Mapping[str, Any]) -> None:
    entry = vaults.add_vault(path, recording, metadata)
    print(f"{path}: {entry['steps']:,} steps, {entry['episodes']:,} whole episodes")


def _progress() -> Callable[[int, int], None] | None:
    """A line that is written over, on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        return None
    began = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.2 or done == total:
            last = now
            rate = done / max(now - began, 1e-3)
            end = "\n" if done == total else ""
            line = f"\r{done / 1e6:,.1f} of {total / 1e6:,.1f} MB, {rate / 1e6:.1f} MB/s "
            print(line, end=end, file=sys.stderr, flush=True)

    return show


def list_all(args: argparse.Namespace) -> None:
    if args.hub:
        from mtmarl.data import hub

        manifest, store = hub.read_manifest(hub.connect(args.hub))
        rows = {n: (e["steps"], e["episodes"], e["returns"], "") for n, e in manifest["vaults"].items()}
        print(shown(store.pinned))
    else:
        rows = {}
        for each in reversed(_roots(args)):
            found = vaults.catalogue(each)
            for name, path in found.vaults.items():
                about = vaults.read_metadata(path)
                rows[name] = (about["steps"], about["episodes"], about["episode_return"], path)
            for fault in found.faults.values():
                print(f"left out: {fault}", file=sys.stderr)
    if not rows:
        raise UserError(f"no vaults in {args.hub or ', '.join(map(str, _roots(args)))}")
    for name, (steps, episodes, returns, path) in sorted(rows.items()):
        mean = returns.get("mean", float("nan"))
        row = f"{name:40s} {steps:>9d} steps {episodes:>7d} episodes  return {mean:8.3f}  {path}"
        print(shown(row.rstrip()))


def describe(args: argparse.Namespace) -> None:
    from mtmarl.data import describe

    for name, path in _named(args).items():
        vault = vaults.read_vault(path)
        figures = describe.describe(
            vault, vaults.read_references(path.parents[2]).get(vault.metadata["task"])
        )
        if args.json:
            print(json.dumps({"name": name, "path": str(path), **figures}))
            continue
        print(shown("\n".join([*describe.text(name, figures), f"  path             {path}"])))
        if "subset" in vault.metadata:
            print(f"  subset           {json.dumps(vault.metadata['subset'])}")
        picture = Path(args.out) / f"{name}.png"
        write_whole(picture, _draw(name, figures))
        print(f"  figure           {picture}")


def _draw(name: str, figures: Mapping[str, Any]) -> bytes:
    from mtmarl.analysis.document import Picture
    from mtmarl.analysis.vaults import vault_figure

    return Picture(name, vault_figure(name, figures), "").png


def pull(args: argparse.Namespace) -> None:
    from mtmarl.data import hub

    names, address = [], args.hub or config.hub_address()
    for name in args.name:
        if "/" not in name and config.is_task_set(name):
            tasks = config.task_set(name)
            names += [f"{task}/{args.quality}" for task in tasks.train]
            address = address or tasks.hub
        else:
            names.append(name)
    if args.name and not names:
        raise UserError(f"{', '.join(args.name)}: lists no training task, and held-out tasks have no vaults")
    if address is None:
        raise UserError(
            "pull from where? give --hub ADDRESS, or set hub.url in configs/config.yaml or hub in a task set"
        )
    hub.pull(
        address,
        _own_root(args),
        names,
        replace=args.replace,
        workers=args.workers,
        say=print,
        show=_progress(),
    )


def push(args: argparse.Namespace) -> None:
    from mtmarl.data import publish

    root = next((r for r in _roots(args) if vaults.list_vaults(r)), _roots(args)[0])
    pinned = publish.push(
        args.hub, root, args.name, title=args.title, license=args.license, create=args.create,
        replace=args.replace, draw=_draw, say=print,
    )  # fmt: skip
    print(f"pull it with: {command('vault', 'pull', '--hub', pinned)}")


def verify(args: argparse.Namespace) -> None:
    roots = (
        [args.root] if args.root else [r for r in vaults.default_roots() if (r / vaults.MANIFEST).exists()]
    )
    if not roots:
        raise UserError("no manifest.json in any root; give one with --root")
    faults = 0
    for each in roots:
        if args.repair:
            print(f"wrote {vaults.update_manifest(each)}")
        for name, fault in vaults.check_all(each, args.name):
            faults += fault is not None
            if fault is None:
                print(f"ok  {name}")
            else:
                print(f"bad {name}: {fault}", file=sys.stderr)
    if faults:
        raise UserError(f"{faults} found bad; the lines above say how to mend each")


def subset(args: argparse.Namespace) -> None:
    from mtmarl.data.subset import subset

    check_dataset(args.quality, "quality")
    if args.steps is None and args.policy_steps is None and args.returns is None:
        raise UserError("a subset of what? give --steps, --policy-steps or --returns")
    name, source = _one(args)
    path = _new_place(args, name.rpartition("/")[0], args.quality)
    part = subset(
        vaults.read_vault(source), steps=args.steps, policy_steps=args.policy_steps, returns=args.returns
    )
    _keep(path, part.recording, part.metadata)


def convert(args: argparse.Namespace) -> None:
    from mtmarl.data import convert

    options = convert.Options(
        args.task,
        args.horizon,
        args.team_reward,
        args.rollout_length,
        args.flags,
        args.team_flags,
        args.quality,
    )
    convert.check_names(args.task, args.quality)
    with convert.found_vaults(Path(args.source), int(args.max_gigabytes * 1e9)) as found:
        if args.quality and len(found) > 1:
            raise UserError(f"{args.source}: holds {len(found)} vaults; --quality names one")
        made: dict[Path, Path] = {}
        failures = 0
        for source in found:
            try:
                _convert(source, options, args, made)
            except (UserError, OSError) as error:
                if len(found) == 1:
                    raise
                failures += 1
                failed(error)
    if failures:
        raise UserError(
            f"{args.source}: {failures} of {len(found)} vaults not converted, see above; the same command does the rest"
        )


def _convert(source: Path, options: Any, args: argparse.Namespace, made: dict[Path, Path]) -> None:
    """One vault of several; `made` maps what this command has written to where it came from."""
    from mtmarl.data import convert

    task, quality = convert.names(source, options)
    path = vaults.vault_path(_own_root(args), task, quality)
    if path in made:
        raise UserError(
            f"{source}: would become {path}, as {made[path]} has; convert one at a time with --quality"
        )
    done = convert.convert(source, options)
    if path.exists() and not args.replace and convert.holds(path, done):
        vaults.list_vault(path)
        print(f"{path}: is there already, the same")
    else:
        _keep(_new_place(args, task, quality), done.recording, done.metadata)
    made[path] = source
    for remark in done.remarks:
        print(f"  {remark}")


def export(args: argparse.Namespace) -> None:
    from mtmarl.data.export import export

    _, source = _one(args)
    print(export(vaults.read_vault(source), args.file, args.scaled))


def _span(text: str) -> tuple[float, float]:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mtmarl.vault",
        description="Find, look at, check, fetch, publish and convert recorded data.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(run: Callable[[argparse.Namespace], None], name: str, about: str, root: str = ROOTS):
        sub = commands.add_parser(name, help=about, description=about)
        sub.add_argument("--root", help=root)
        sub.set_defaults(run=run)
        return sub

    several: dict[str, Any] = {
        "nargs": "*",
        "help": "family, family/scenario or family/scenario/quality; default: all",
    }
    replace: dict[str, Any] = {"action": "store_true", "help": "replace what is there"}
    sub = command(list_all, "ls", "list vaults")
    sub.add_argument("--hub", help=f"list those of a hub: {HUB}")
    sub = command(describe, "describe", "figures and a plot of one task's vaults")
    sub.add_argument("name", help="family/scenario[/quality]")
    sub.add_argument("--out", default="runs/vaults", help="folder of the plots; default: %(default)s")
    sub.add_argument("--json", action="store_true", help="print the figures as JSON, draw nothing")
    sub = command(pull, "pull", "fetch vaults from a hub, checked against their hashes", ROOT)
    sub.add_argument("name", **{**several, "help": several["help"] + "; or a task set, such as lbf_5"})
    sub.add_argument("--hub", help=f"{HUB}; default: hub.url of the configuration, else that of the task set")
    sub.add_argument("--quality", default="replay", help="of the vaults of a task set; default: %(default)s")
    sub.add_argument(
        "--replace", action="store_true", help="also replace vaults that were not pulled from a hub"
    )
    sub.add_argument("--workers", type=_count, default=4, help="files at a time; default: %(default)s")
    sub = command(push, "push", "publish vaults with a card that describes them")
    sub.add_argument("name", **several)
    sub.add_argument("--hub", required=True, help=HUB)
    sub.add_argument("--title", help="of the card; default: the name of the data set")
    sub.add_argument("--license", help="of the data, as the card says it, such as cc-by-4.0")
    sub.add_argument(
        "--create", action="store_true", help="make a private Hugging Face data set if there is none"
    )
    sub.add_argument("--replace", **replace)
    sub = command(verify, "verify", "check files against the manifest and arrays against the schema")
    sub.add_argument("name", nargs="?", help="family/scenario[/quality]")
    sub.add_argument(
        "--repair",
        action="store_true",
        help="first write the manifest anew, of the sound vaults that are there",
    )
    sub = command(subset, "subset", "a part of a vault as one of another quality")
    sub.add_argument("name", help="family/scenario[/quality]")
    sub.add_argument("quality", help="name of the new one")
    sub.add_argument("--steps", type=int, help="at most so many, whole episodes spread evenly")
    sub.add_argument(
        "--policy-steps", type=_span, metavar="LOW:HIGH", help="of policies at these training steps"
    )
    sub.add_argument(
        "--returns", type=_span, metavar="LOW:HIGH", help="between these quantiles of return, as 0.5:1"
    )
    sub.add_argument("--replace", **replace)
    sub = command(convert, "convert", "read OG-MARL, Oryx or Mava vaults into this library's schema", ROOT)
    sub.add_argument("source", help="folder or archive (zip, tar) with Flashbax vaults")
    sub.add_argument(
        "--task",
        help="family/scenario, or only the family; default: from the path …/family/scenario.vlt/quality",
    )
    sub.add_argument("--quality", help="default: the last part of the path")
    sub.add_argument(
        "--horizon", type=_count, help="time limit in env steps; default: that of the task, if known here"
    )
    sub.add_argument(
        "--team-reward", choices=("mean", "sum"), help="of the agents' rewards where they differ"
    )
    sub.add_argument("--rollout-length", type=_count, help="of a Mava recording, env steps per write")
    sub.add_argument(
        "--flags",
        choices=("start", "end"),
        help="step of an episode that a flag marks; default: what the recording proves",
    )
    sub.add_argument(
        "--team-flags",
        choices=("all", "any"),
        help="an episode ends when all agents have been flagged, or at the first flag; default: all",
    )
    sub.add_argument(
        "--max-gigabytes", type=_gigabytes, default=64, help="of an archive, unpacked; default: %(default)s"
    )
    sub.add_argument("--replace", **replace)
    sub = command(export, "export", "write a vault as .npz (NumPy) or .parquet")
    sub.add_argument("name", help="family/scenario[/quality]")
    sub.add_argument("file", help="ends in .npz or .parquet")
    sub.add_argument("--scaled", action="store_true", help="observations as float32, as a network sees them")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except (UserError, OSError) as error:
        return failed(error)
    return 0


if __name__ == "__main__":
    exit_with(main)
