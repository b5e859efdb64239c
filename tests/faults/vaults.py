"""Vaults that are damaged, exchanged, rewritten by hand or with odd neighbours, against training and the tools."""

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.cases import Case, Door, Kind
from tests.faults.values import flip, generator, mangle_file, pick, wrong_json

TASKS = ("lbf/8x8-2p-2f-coop", "lbf/10x10-2p-3f-l3")  # of equal shape
STEPS = 400


@cache
def sound_root(scratch: Path) -> Path:
    """Two small vaults with their references and manifest."""
    from mtmarl.data import subset, vault

    root, shipped = scratch / "sound", Path(__file__).parents[2] / "vault_data"
    if root.exists():
        return root
    for task in TASKS:
        part = subset.subset(vault.read_vault(vault.vault_path(shipped, task, "replay")), steps=STEPS)
        vault.write_vault(vault.vault_path(root, task, "replay"), part.recording, part.metadata)
        vault.write_reference(root, task, {"reference": 0.75, "random": 0.25})
    vault.update_manifest(root)
    return root


def place(root: Path, task: str = TASKS[0]) -> Path:
    family, scenario = task.split("/")
    return root / family / f"{scenario}.vlt" / "replay"


class _Seen(BaseException):
    """Training would begin now, with these vaults."""

    def __init__(self, vaults: Any):
        self.vaults = vaults


@cache
def _config(root: Path, mapped: bool) -> Any:
    from mtmarl import config

    argv = [
        "+algo=mt_bc_sable", f"+tasks={','.join(TASKS)}", f"data.vault_dir={root}", "quiet=true",
        "trainer.updates=4", "trainer.chunk=2", "trainer.checkpoint_every=2", "evaluator.every=4",
    ]  # fmt: skip
    return config.compose([*argv, "data.memory_mb=1"] if mapped else argv, "train")


def used(root: Path, mapped: bool) -> dict[str, Any]:
    """{task: what training would use of its vault}, by the way that training takes; `mapped`: left on disk."""
    from mtmarl import build
    from mtmarl.data import sources as data_sources

    def stop(vaults: Any, *args: Any, **options: Any) -> None:
        raise _Seen(vaults)

    kept = {name: getattr(data_sources, name) for name in ("make_task_data", "host_source", "exceeds_memory")}
    data_sources.make_task_data = data_sources.host_source = stop
    data_sources.exceeds_memory = lambda *args: mapped
    try:
        build.prepare(_config(root, mapped))
    except _Seen as seen:
        vaults = seen.vaults
    finally:
        for name, value in kept.items():
            setattr(data_sources, name, value)
    return {
        task: {
            "obs_scale": np.asarray(v.metadata["obs_scale"], np.float64),
            **{name: np.array(value) for name, value in v.recording._asdict().items()},
        }
        for task, v in zip(TASKS, vaults, strict=True)
    }


@cache
def _sound(scratch: Path, mapped: bool) -> dict[str, Any]:
    return used(sound_root(scratch), mapped)


def same(a: Any, b: Any) -> bool:
    """Whether the same names have the same arrays."""
    alike = lambda x, y: (
        x.keys() == y.keys()
        and all(x[k].dtype == y[k].dtype and np.array_equal(x[k], y[k], equal_nan=True) for k in x)
    )
    return a.keys() == b.keys() and all(alike(a[k], b[k]) for k in a)


def doors(scratch: Path, root: Path, index: int) -> list[Door]:
    """Training, in memory and mapped by turns, then one of the tools."""
    from mtmarl import vault as tool

    mapped = index % 2 == 1
    sound = _sound(scratch, mapped)
    train = Door("train, mapped" if mapped else "train", lambda: used(root, mapped), lambda v: same(v, sound))
    tools = (
        ["ls", "--root", str(root)],
        ["verify", "--root", str(root)],
        ["describe", TASKS[0], "--root", str(root), "--json"],
        ["subset", TASKS[0], "part", "--steps", "100", "--root", str(root)],
        ["export", f"{TASKS[0]}/replay", str(root / "out.npz"), "--root", str(root)],
        ["push", "--hub", str(root.parent / "hub"), "--root", str(root)],
    )
    argv = tools[index // 2 % len(tools)]
    return [train, Door(f"vault {argv[0]}", lambda: tool.main(argv))]


def _fresh(scratch: Path) -> Path:
    root, source = scratch / "vaults-case", sound_root(scratch)
    for old in (root, scratch / "hub"):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(source, root, symlinks=True)
    return root


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file())


# ------------------------------------------------------------------------------------------------ the faults


def _file(root: Path, rng: np.random.Generator) -> str:
    file = pick(rng, _files(place(root)))
    return f"{file.relative_to(root)}: {mangle_file(file, rng)}"


def _bit(root: Path, rng: np.random.Generator) -> str:
    file = pick(rng, _files(place(root) / "d"))
    return f"{file.relative_to(root)}: {flip(file, rng)}"


def _field(root: Path, rng: np.random.Generator) -> str:
    file = place(root) / "metadata.json"
    value = json.loads(file.read_text())
    said = wrong_json(value, rng)
    file.write_text(json.dumps(value))
    return f"{file.relative_to(root)}: {said}"


def _exchanged(root: Path, rng: np.random.Generator) -> str:
    a, b = place(root, TASKS[0]), place(root, TASKS[1])
    what = pick(rng, ["vault", "copy", "arrays", "metadata.json", "manifest.ocdbt", "quality"])
    if what == "vault":
        a.rename(root / "aside"), b.rename(a), (root / "aside").rename(b)
    elif what in ("copy", "quality"):
        shutil.rmtree(a)
        shutil.copytree(b, a)
    elif what == "arrays":
        for name in ("d", "manifest.ocdbt"):
            (a / name).rename(root / "aside"), (b / name).rename(a / name), (root / "aside").rename(b / name)
    else:
        shutil.copy(b / what, a / what)
    return f"{what} of {TASKS[0]} and {TASKS[1]} exchanged"


def _array(root: Path, rng: np.random.Generator) -> str:
    """One array written again with another type, shape, length or one other value, in the store alone."""
    from mtmarl.data import vault

    path = place(root)
    field = pick(rng, list(vault.Recording._fields))
    value = getattr(vault.read_vault(path, check=False).recording, field)
    how = pick(rng, ["dtype", "shape", "value", "count", "reversed"])
    if how == "count":
        steps = pick(rng, [0, -1, 1, STEPS // 2, 2**31 - 1, -(2**31), 10**6])
        vault.open_leaf(path, "vault_index").write(np.array([steps], np.int32)).result()
        return f"vault_index set to {steps}"
    if how == "dtype":
        value = value.astype(pick(rng, ["float64", "int32", "uint8", "int64", "float16"]))
    elif how == "shape":
        value = pick(rng, [lambda v: v[..., None], lambda v: v[:, None], lambda v: np.stack([v, v], 1)])(
            value
        )
    elif how == "value":
        value = value.copy()
        flat = value.reshape(-1)
        at = int(rng.integers(flat.size))
        flat[at] = not flat[at] if value.dtype == bool else flat[at] + 1
    else:
        value = value[::-1]
    file = pick_leaf_delete(path, field)
    vault.store.create_leaf(path, field, value)[0, 0 : len(value)].write(value).result()
    return f"{field} written again: {how}{file}"


def pick_leaf_delete(path: Path, field: str) -> str:
    """Takes an array out of the store."""
    import tensorstore as ts

    store = ts.KvStore.open({"driver": "ocdbt", "base": f"file://{path}/"}).result()
    store.delete_range(ts.KvStore.KeyRange(f"{field}./", f"{field}./\xff")).result()
    return ""


def _link(root: Path, rng: np.random.Generator) -> str:
    target = pick(
        rng, [*_files(place(root)), place(root), place(root) / "d", place(root).parent, root / "references"]
    )
    how = pick(rng, ["moved", "dangling", "itself", "other"])
    aside = root.parent / "linked"
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    aside.unlink(missing_ok=True)
    target.rename(aside)
    if how == "moved":
        target.symlink_to(aside)
    elif how == "dangling":
        target.symlink_to(root / "nowhere")
    elif how == "itself":
        target.symlink_to(target.name)
    else:
        target.symlink_to(place(root, TASKS[1]) / "metadata.json")
    return f"{target.relative_to(root)} replaced by a link: {how}"


def _neighbour(root: Path, rng: np.random.Generator) -> str:
    """Something below the root that is none of ours: the vaults are as they were."""
    family = pick(rng, ["lbf", "other", "..odd", "with blank", "references"])
    folder = (
        root
        / family
        / pick(rng, ["a.vlt", "10x10-2p-3f.vlt", "8x8-2p-2f-coop.vlt"])
        / pick(rng, ["replay2", "Good", "x y"])
    )
    what = pick(
        rng,
        ["flashbax", "empty", "garbage", "file", "folder", "copy", "reference", "half", "list", "unreadable"],
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    if what == "file":
        folder.write_text("?")
    elif what == "reference":
        other = root / "references" / "lbf" / "other.json"
        other.write_text(
            pick(rng, ["", "[]", "{", '{"reference": "x"}', "null", "NaN", '{"reference": NaN}'])
        )
        return f"{other.relative_to(root)}: {other.read_text()!r}"
    elif what in ("copy", "half"):
        shutil.copytree(place(root), folder)
        if what == "half":
            shutil.rmtree(folder / "d")
    else:
        folder.mkdir()
        text = {
            "flashbax": json.dumps({"version": 1.2, "structure_shape": {"obs": "(1, 3)"},
            "structure_dtype": {"obs": "int8"}}),
            "empty": "{}", "garbage": "\x00\x01", "list": "[1]",
            "unreadable": '{"version": 1.2, "schema_version": "1"}',
        }.get(what)  # fmt: skip
        if text is None:
            (folder / "metadata.json").mkdir()
        else:
            (folder / "metadata.json").write_text(text)
    return f"{folder.relative_to(root)}: {what}"


def _manifest(root: Path, rng: np.random.Generator) -> str:
    file = root / "manifest.json"
    if rng.random() < 0.3:
        return f"manifest.json: {mangle_file(file, rng)}"
    value = json.loads(file.read_text())
    said = wrong_json(value, rng)
    file.write_text(json.dumps(value))
    return f"manifest.json: {said}"


FAULTS: dict[str, tuple[int, Callable[[Path, np.random.Generator], str]]] = {
    "bytes and files": (200, _file),
    "metadata fields": (120, _field),
    "exchanged": (40, _exchanged),
    "arrays": (80, _array),
    "links": (40, _link),
    "neighbours": (50, _neighbour),
    "manifest": (50, _manifest),
}


def _case(scratch: Path, number: int) -> Case:
    groups = [(group, damage) for group, (count, damage) in FAULTS.items() for _ in range(count)]
    return _one(scratch, "vaults", *groups[number], number)


def _one(scratch: Path, kind: str, group: str, damage: Callable, number: int) -> Case:
    root = _fresh(scratch)
    for mapped in (False, True):
        _sound(scratch, mapped)
    recipe = damage(root, generator(kind, number))
    os.chdir(scratch)
    return Case(group, recipe, doors(scratch, root, number))


KINDS = {
    "vaults": Kind("vaults", sum(count for count, _ in FAULTS.values()), _case),
    "vault-bits": Kind("vault-bits", 250, lambda s, n: _one(s, "vault-bits", "bits of data files", _bit, n)),
}
