"""The dataset side: `python -m mtmarl.vault ls|describe|verify`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mtmarl.data import vault as vaults
from mtmarl.errors import UserError


def _found(root: str | None) -> dict[str, Path]:
    roots = [root] if root else reversed(vaults.default_roots())  # earlier roots win, as in find_vault
    return {name: path for each in roots for name, path in vaults.list_vaults(each).items()}


def list_all(root: str | None) -> None:
    for name, path in sorted(_found(root).items()):
        about = vaults.read_metadata(path)
        mean = about["episode_return"].get("mean", float("nan"))
        print(
            f"{name:40s} {about['steps']:>9d} steps {about['episodes']:>7d} episodes  "
            f"return {mean:8.3f}  {path}"
        )


def describe(root: str | None, name: str) -> None:
    found = {n: p for n, p in _found(root).items() if name in (n, n.rpartition("/")[0])}
    if not found:
        raise UserError(f"no vault {name!r}; `python -m mtmarl.vault ls` lists those there are")
    for each, path in sorted(found.items()):
        vault = vaults.read_vault(path)
        r, about = vault.recording, vault.metadata
        legal = r.mask.sum((0, 1))
        taken = np.bincount(r.action.ravel(), minlength=len(legal))
        print(f"{each}\n  path           {path}")
        for key, value in about.items():
            if key == "obs_scale":
                value = sorted(set(value))
            print(f"  {key:14s} {json.dumps(value)}")
        print(f"  policy_step    {r.policy_step.min()} … {r.policy_step.max()}")
        print(f"  size           {sum(x.nbytes for x in r) / 2**20:.1f} MiB in memory")
        rates = (f"{a}: {t / max(n, 1):.3f}" for a, (t, n) in enumerate(zip(taken, legal, strict=True)))
        print(f"  taken if legal {', '.join(rates)}")


def verify(root: str | None, name: str | None) -> None:
    roots = [root] if root else [r for r in vaults.default_roots() if (r / vaults.MANIFEST).exists()]
    if not roots:
        raise UserError("no manifest.json in any root; give one with --root")
    for each in roots:
        for sound in vaults.verify(each, name):
            print(f"ok  {sound}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mtmarl.vault", description="Look at and check recorded data."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command, about in (
        ("ls", "list vaults"),
        ("describe", "everything about one vault"),
        ("verify", "check files against the manifest and arrays against the schema"),
    ):
        sub = commands.add_parser(command, help=about)
        sub.add_argument(
            "--root", help="folder of vaults; default: $MTMARL_VAULTS, ./vault_data, the package's own"
        )
        if command != "ls":
            sub.add_argument(
                "name", nargs=None if command == "describe" else "?", help="family/scenario[/quality]"
            )
    args = parser.parse_args(argv)
    try:
        if args.command == "ls":
            list_all(args.root)
        elif args.command == "describe":
            describe(args.root, args.name)
        else:
            verify(args.root, args.name)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
