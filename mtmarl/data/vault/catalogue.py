"""Which vaults there are: folders of vaults (roots), the vaults and reference returns below them."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import mtmarl
from mtmarl import files, records
from mtmarl.command_lines import command, line, word
from mtmarl.data.vault.schema import METADATA
from mtmarl.data.vault.store import OLD, check_not_interrupted, check_place, read_metadata, to_json
from mtmarl.errors import UserError
from mtmarl.parsing import convert
from mtmarl.task_names import check_dataset, is_dataset, task_parts, vault_parts

# Datasets of one policy each, beside that of all policies of training: of the best, and of one half as good.
SINGLE_POLICIES = ("expert", "medium")


# -------------------------------------------------------------------------------------------------- paths


def default_roots() -> list[Path]:
    """Where vaults are looked for, in order: $MTMARL_VAULTS, ./vault_data, `own_root`, beside the package, in it."""
    package = Path(mtmarl.__file__).resolve().parent
    roots = [
        *_given_roots(), Path("vault_data"), _user_root(), package.parent / "vault_data", package / "_vault_data",
    ]  # fmt: skip
    return list(dict.fromkeys(p.expanduser().resolve() for p in roots))


def own_root() -> Path:
    """Where new vaults go: the first of $MTMARL_VAULTS, else mtmarl/vaults in $XDG_DATA_HOME or ~/.local/share.

    Not ./vault_data: git tracks the shipped vaults there.
    """
    return next(iter(_given_roots()), _user_root()).expanduser().resolve()


def _given_roots() -> list[Path]:
    return [Path(p) for p in os.environ.get("MTMARL_VAULTS", "").split(os.pathsep) if p]


def _user_root() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "mtmarl" / "vaults"


def vault_path(root: str | os.PathLike, task: str, dataset: str) -> Path:
    """Where the vault of a task (family/scenario) lies below a root. Raises UserError for a name that is not legal."""
    family, scenario = task_parts(task)
    check_dataset(dataset)
    path = Path(root).expanduser().resolve() / family / f"{scenario}.vlt" / dataset
    check_place(path)
    return path


def named_path(root: str | os.PathLike, name: str) -> Path:
    """Where the vault `family/scenario/dataset` lies below a root."""
    task, _, dataset = name.rpartition("/")
    return vault_path(root, task, dataset)


def name_of(path: Path) -> str:
    """`family/scenario/dataset` of the path of a vault."""
    return f"{path.parts[-3]}/{path.parent.stem}/{path.name}"


def has_vault(path: Path) -> bool:
    return (path / METADATA).exists()


# ------------------------------------------------------------------------------------------------- vaults


class Catalogue(NamedTuple):
    """The vaults below a root by name, `family/scenario/dataset`, and one line on each that cannot be used."""

    vaults: dict[str, Path]
    faults: dict[str, str]


def catalogue(root: str | os.PathLike) -> Catalogue:
    """What lies below a root, by the metadata of each vault; arrays are not read."""
    found = Catalogue({}, {})
    root = Path(root).expanduser().resolve()
    folders = {path for path in root.glob("[!.]*/[!.]*.vlt/[!.]*") if not path.is_file()}
    folders |= {p.with_name(p.name[1 : -len(OLD)]) for p in root.glob(f"[!.]*/[!.]*.vlt/.*{OLD}")}
    for path in sorted(folders):
        name = name_of(path)
        try:
            vault_parts(name)
            read_metadata(path)
            found.vaults[name] = path
        except UserError as error:
            found.faults[name] = str(error)
        except OSError as error:
            found.faults[name] = f"{error.filename or path}: {error.strerror}"
    return found


def list_vaults(root: str | os.PathLike) -> dict[str, Path]:
    """The usable vaults below a root by name; `catalogue` also says which are not usable."""
    return catalogue(root).vaults


def find_vault(
    task: str, dataset: str, roots: Sequence[str | os.PathLike] | None = None, hub: str | None = None
) -> Path:
    """The first root's vault of a task. If none has it, the UserError says how to get it, also from `hub`."""
    paths = [vault_path(root, task, dataset) for root in (default_roots() if roots is None else roots)]
    for path in paths:
        if has_vault(path):
            return path
        check_not_interrupted(path)
    if not paths:
        raise UserError(f"no folder to look for the {dataset!r} vault of {task} in; name one")
    raise UserError(_how_to_get(task, dataset, paths, own_folder=roots is not None, hub=hub or "URL"))


def _how_to_get(task: str, dataset: str, paths: Sequence[Path], own_folder: bool, hub: str) -> str:
    others = {p.name for path in paths for p in path.parent.glob("[!.]*") if has_vault(p)}
    others = sorted(filter(is_dataset, others))
    folder = str(paths[0].parents[2])
    root, to = (["--root", folder], [word("data.vault_dir", folder)]) if own_folder else ([], [])
    how, note = word("data.quality", dataset), ""
    if dataset in SINGLE_POLICIES:
        how = "collect.single_policies=true"
        if others:  # Recorded during training only, which does not run again where its vault is.
            to, note = ["data.vault_dir=FOLDER"], ", a new one"
    pull = command("vault", "pull", f"{task}/{dataset}", "--hub", hub, *root)
    collect = command("collect", "+algo=sable", f"+tasks={task}", how, *to)
    return (
        f"no {dataset!r} vault of {task}, expected at {' or '.join(map(str, paths))}"
        + (f"; there is {', '.join(others)}: add {word('data.quality', others[0])}" if others else "")
        + f"; fetch it: {pull}; or fetch what is missing while training: add "
        f"{line('data.download=true', word('hub.url', hub))}; or collect it: {collect}{note}"
    )


@contextmanager
def sole_collector(root: Path, task: str) -> Iterator[None]:
    """One collection of a task at a time into a root, so that vault and reference belong together. Raises UserError."""

    def refuse() -> None:
        raise UserError(
            f"{root}: another process collects {task} into it; wait for that, or give another data.vault_dir"
        )

    with files.locked(root / ".locks" / f"{task.replace('/', '--')}.collect.lock", refuse):
        yield


# --------------------------------------------------------------------------------------- reference returns


def reference_file(root: str | os.PathLike, task: str) -> Path:
    """One file per task, `<root>/references/<family>/<scenario>.json`: tasks may be collected in parallel."""
    family, scenario = task_parts(task)
    return Path(root).expanduser().resolve() / "references" / family / f"{scenario}.json"


def reference_files(root: Path) -> list[Path]:
    return sorted((root / "references").glob("[!.]*/[!.]*.json"))


def write_reference(root: str | os.PathLike, task: str, figures: Mapping[str, Any]) -> Path:
    """Writes what returns of a task are normalised by (`reference`, `random`, …), with or without a vault."""
    file = reference_file(root, task)
    files.write_whole(file, to_json(dict(figures)))
    return file


def read_references(
    root: str | os.PathLike, tasks: Collection[str] | None = None
) -> dict[str, dict[str, Any]]:
    """The reference returns below a root by task: of `tasks`, or of all. Raises UserError for a damaged file."""
    found = {}
    for file in reference_files(Path(root).expanduser().resolve()):
        task = f"{file.parent.name}/{file.stem}"
        if tasks is not None and task not in tasks:
            continue
        where = f"{file}: damaged (restore it or collect the task again)"
        found[task] = records.loads(file.read_bytes(), where)
        for key, value in found[task].items():
            if key.startswith(("reference", "random")) or key in ("final", "max_evaluation"):
                convert(cast(Any, float | None), value, where, key)
    return found
