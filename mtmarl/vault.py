"""The command line of vaults: `python -m mtmarl.vault ls|describe|pull|push|verify|subset|import|convert|export`."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mtmarl import config, terminal
from mtmarl.command_lines import command
from mtmarl.data import vault as vaults
from mtmarl.errors import UserError, exit_with, failed
from mtmarl.files import write_whole
from mtmarl.task_names import check_dataset
from mtmarl.terminal import transfer_progress
from mtmarl.vault_options import parser


def _roots(args: argparse.Namespace) -> list[Path]:
    return [Path(args.root)] if args.root else vaults.default_roots()


def _own_root(args: argparse.Namespace) -> Path:
    return Path(args.root) if args.root else vaults.own_root()


def _named(args: argparse.Namespace) -> dict[str, Path]:
    """The vaults that `args.name` selects; the first root that has one wins, as in `find_vault`."""
    found = {n: path for root in reversed(_roots(args)) for n, path in vaults.list_vaults(root).items()}
    named = {n: path for n, path in sorted(found.items()) if args.name in (n, n.rpartition("/")[0])}
    if not named:
        ls = command("vault", "ls", *(("--root", args.root) if args.root else ()))
        raise UserError(f"no vault {args.name!r}; list those there are with {ls}")
    return named


def _one(args: argparse.Namespace) -> tuple[str, Path]:
    named = _named(args)
    if len(named) > 1:
        raise UserError(f"{args.name}: choose one of {', '.join(named)}")
    return next(iter(named.items()))


def ls(args: argparse.Namespace) -> None:
    rows: dict[str, tuple[int, int, Mapping[str, float], object]] = {}
    if args.hub:
        from mtmarl.data import hub

        manifest, store = hub.read_manifest(hub.connect(args.hub))
        rows = {n: (e["steps"], e["episodes"], e["returns"], "") for n, e in manifest["vaults"].items()}
        terminal.say(store.pinned)
    for root in () if args.hub else reversed(_roots(args)):
        found = vaults.catalogue(root)
        for name, path in found.vaults.items():
            about = vaults.read_metadata(path)
            rows[name] = (about["steps"], about["episodes"], about["episode_return"], path)
        for fault in found.faults.values():
            terminal.say(f"left out: {fault}", error=True)
    if not rows:
        raise UserError(f"no vaults in {args.hub or ', '.join(map(str, _roots(args)))}")
    for name, (steps, episodes, returns, path) in sorted(rows.items()):
        mean = returns.get("mean", float("nan"))
        row = f"{name:40s} {steps:>9d} steps {episodes:>7d} episodes  return {mean:8.3f}  {path}"
        terminal.say(row.rstrip())


def describe(args: argparse.Namespace) -> None:
    from mtmarl.data import describe

    for name, path in _named(args).items():
        vault = vaults.read_vault(path)
        figures = describe.describe(
            vault, vaults.read_references(path.parents[2]).get(vault.metadata["task"])
        )
        if args.json:
            terminal.say(json.dumps({"name": name, "path": str(path), **figures}))
            continue
        terminal.say(*describe.text(name, figures), f"  path             {path}")
        if "subset" in vault.metadata:
            terminal.say(f"  subset           {json.dumps(vault.metadata['subset'])}")
        picture = Path(args.out) / f"{name}.png"
        write_whole(picture, _draw(name, figures))
        terminal.say(f"  figure           {picture}")


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
    options = {"replace": args.replace, "workers": args.workers, "show": transfer_progress()}
    hub.pull(address, _own_root(args), names, **options)


def push(args: argparse.Namespace) -> None:
    from mtmarl.data import publish

    root = next((r for r in _roots(args) if vaults.list_vaults(r)), _roots(args)[0])
    pinned = publish.push(
        args.hub, root, args.name, title=args.title, license=args.license, create=args.create,
        replace=args.replace, draw=_draw,
    )  # fmt: skip
    terminal.say(f"pull it with: {command('vault', 'pull', '--hub', pinned)}")


def verify(args: argparse.Namespace) -> None:
    roots = (
        [args.root] if args.root else [r for r in vaults.default_roots() if (r / vaults.MANIFEST).exists()]
    )
    if not roots:
        raise UserError("no manifest.json in any root; give one with --root")
    faults = 0
    for each in roots:
        if args.repair:
            terminal.say(f"wrote {vaults.update_manifest(each)}")
        for name, fault in vaults.check_all(each, args.name):
            faults += fault is not None
            if fault is None:
                terminal.say(f"ok  {name}")
            else:
                terminal.say(f"bad {name}: {fault}", error=True)
    if faults:
        raise UserError(f"{faults} found bad; the lines above say how to mend each")


def subset(args: argparse.Namespace) -> None:
    from mtmarl.data.subset import subset

    check_dataset(args.quality, "quality")
    if args.steps is None and args.policy_steps is None and args.returns is None:
        raise UserError("a subset of what? give --steps, --policy-steps or --returns")
    name, source = _one(args)
    path = vaults.vault_path(_own_root(args), name.rpartition("/")[0], args.quality)
    vaults.check_free(path, args.replace)
    vault = vaults.read_vault(source)
    part = subset(vault, steps=args.steps, policy_steps=args.policy_steps, returns=args.returns)
    terminal.say(vaults.add_once(path, part.recording, part.metadata, args.replace))


def import_(args: argparse.Namespace) -> None:
    from mtmarl.data.imports import import_files

    import_files(
        args.files, _own_root(args), args.task, names=args.map, horizon=args.horizon, dataset=args.quality,
        replace=args.replace,
    )  # fmt: skip


def convert(args: argparse.Namespace) -> None:
    from mtmarl.data.convert import Options, convert_all

    options = Options(
        args.task, args.horizon, args.team_reward, args.rollout_length, args.flags, args.team_flags, args.quality
    )  # fmt: skip
    most = int(args.max_gigabytes * 1e9)
    convert_all(Path(args.source), _own_root(args), options, replace=args.replace, max_bytes=most)


def export(args: argparse.Namespace) -> None:
    from mtmarl.data.export import export

    _, source = _one(args)
    terminal.say(export(vaults.read_vault(source), args.file, args.scaled))


COMMANDS = {
    "ls": ls, "describe": describe, "pull": pull, "push": push, "verify": verify, "subset": subset, "import": import_,
    "convert": convert, "export": export,
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    args = parser(COMMANDS).parse_args(argv)
    try:
        args.run(args)
    except (UserError, OSError) as error:
        return failed(error)
    return 0


if __name__ == "__main__":
    exit_with(main)
