"""Archives and manifests whose makers meant ill, against `vault convert`, `pull`, `push` and `ls --hub`."""

import io
import json
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.faults.cases import Case, Door, Kind
from tests.faults.values import generator, mangle_file, pick, wrong_json
from tests.faults.vaults import TASKS, place, same, sound_root

FORMS = ("zip", "tar", "tar.gz")
FULL_WIDTH = "０１２３"
ESCAPE = "\x1b[31mred\x07"
HUGE = (2**31, 2**40, 2**63 - 1, 2**63, 10**30, 10**400)


class Member(NamedTuple):
    """One member of an archive. `kind`: a type of tar, which zip archives get as the mode of a file."""

    name: str
    content: bytes = b"x"
    kind: bytes = tarfile.REGTYPE
    link: str = ""


# -------------------------------------------------------------------------------------------------- places


def _place(scratch: Path) -> Path:
    """A fresh folder, two levels below what is watched: hub, root, and a folder for temporary files."""
    top = scratch / "archives-case"
    shutil.rmtree(top, ignore_errors=True)
    here = top / "outer" / "inner"
    (here / "tmp").mkdir(parents=True)
    return here


def _files(folder: Path) -> dict[str, int]:
    """{path: size} of all that lies below a folder, links and folders included."""
    return {
        found.relative_to(folder).as_posix(): found.lstat().st_size if found.is_file() else 0
        for found in folder.rglob("*")
    }


def _vaults(root: Path) -> dict[str, dict[str, np.ndarray]]:
    """What the vaults of a root hold."""
    from mtmarl.data import vault

    names = vault.list_vaults(root) if root.exists() else {}
    return {name: vault.read_vault(path).recording._asdict() for name, path in names.items()}


def _watched(here: Path, root: Path, sound: dict[str, Any]) -> Door:
    """Whether nothing appeared or changed outside the root, and all vaults below it are as they should be."""
    top = here.parents[1]
    inside = root.relative_to(top).as_posix()
    outside = lambda: {
        f: size for f, size in _files(top).items() if f != inside and not f.startswith(f"{inside}/")
    }
    before = outside()

    def fits(found: Any) -> bool:
        after, vaults = found
        return after == before and all(
            name in sound and same({name: vaults[name]}, {name: sound[name]}) for name in vaults
        )

    return Door("what lies there now", lambda: (outside(), _vaults(root)), fits)


def _case(here: Path, root: Path, sound: dict[str, Any], group: str, recipe: str, doors: list[Door]) -> Case:
    """Doors that write temporary files below `here`, without the pauses between attempts to reach a hub."""
    from mtmarl.data import stores

    kept = tempfile.tempdir, stores.PAUSES

    def undo() -> None:
        tempfile.tempdir, stores.PAUSES = kept

    tempfile.tempdir, stores.PAUSES = str(here / "tmp"), (0.0,) * len(kept[1])
    os.chdir(here)
    return Case(group, recipe, [*doors, _watched(here, root, sound)], undo)


# -------------------------------------------------------------------------------------------------- archives


@cache
def _honest(scratch: Path) -> tuple[Member, ...]:
    """The members of an archive with one vault of another library."""
    import jax.numpy as jnp
    from flashbax.buffers.trajectory_buffer import TrajectoryBufferState
    from flashbax.vault import Vault

    from mtmarl.data import vault

    read = vault.read_vault(place(sound_root(scratch)))
    r, scale = read.recording, np.asarray(read.metadata["obs_scale"], np.float32)
    each = lambda x: np.repeat(x[:, None], r.action.shape[1], axis=1)
    tree = {
        "obs": {
            "agents_view": r.obs * scale, "action_mask": r.mask, "step_count": each(r.step_count.astype(np.int32)),
        },
        "action": r.action.astype(np.int32), "reward": each(r.reward), "done": each(r.first),
        "done_mask": each(r.first),
    }  # fmt: skip
    import jax

    tree = jax.tree.map(lambda x: jnp.asarray(x)[None], tree)
    folder = scratch / "foreign"
    made = Vault(f"{TASKS[0]}.vlt", tree, rel_dir=str(folder), vault_uid="Good")
    made.write(
        TrajectoryBufferState(experience=tree, current_index=jnp.asarray(0), is_full=jnp.asarray(True)),
        source_interval=(0, len(r.first)),
    )
    files = sorted(f for f in folder.rglob("*") if f.is_file())
    return tuple(Member(f.relative_to(folder).as_posix(), f.read_bytes()) for f in files)


@cache
def _converted(scratch: Path) -> dict[str, Any]:
    """What the honest archive becomes."""
    from mtmarl import vault

    archive, root = scratch / "honest.zip", scratch / "honest-root"
    pack(archive, "zip", _honest(scratch))
    assert vault.main(["convert", str(archive), "--root", str(root)]) == 0
    return _vaults(root)


def _header(member: Member, size: int | None = None) -> tarfile.TarInfo:
    header = tarfile.TarInfo(member.name)
    header.type, header.linkname = member.kind, member.link
    header.size = (len(member.content) if member.kind == tarfile.REGTYPE else 0) if size is None else size
    return header


def pack(archive: Path, form: str, members: Any) -> None:
    """Members as they are given, whatever they are named."""
    if form == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for member in members:
                info = zipfile.ZipInfo("x")
                info.filename = member.name
                info.compress_type = zipfile.ZIP_DEFLATED
                mode = {
                    tarfile.SYMTYPE: stat.S_IFLNK, tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK,
                    tarfile.FIFOTYPE: stat.S_IFIFO, tarfile.LNKTYPE: stat.S_IFLNK, tarfile.CONTTYPE: stat.S_IFSOCK,
                }.get(member.kind, stat.S_IFREG)  # fmt: skip
                info.external_attr = (mode | 0o644) << 16
                packed.writestr(info, member.link.encode() if member.link else member.content)
        return
    with tarfile.open(archive, "w:gz" if form == "tar.gz" else "w") as packed:
        for member in members:
            packed.addfile(_header(member), io.BytesIO(member.content))


def _mixed(rng: np.random.Generator, honest: tuple[Member, ...], *more: Member) -> list[Member]:
    """Hostile members before, between or behind honest ones."""
    at = int(rng.integers(len(honest) + 1))
    return [*honest[:at], *more, *honest[at:]]


Fault = Callable[[Path, str, tuple[Member, ...], np.random.Generator], str]


def _names(archive: Path, form: str, honest: tuple[Member, ...], rng: np.random.Generator) -> str:
    top = archive.parents[2]
    own = honest[0].name
    name = pick(rng, [
        f"{top}/evil", "/tmp/evil", "../evil", "../../../evil", f"{own}/../../../../../../evil",
        "a/../../evil", "..", ".",
        "/", "//", "", " ", "./", "./../evil", "..\\evil", "a\\..\\..\\evil", "C:\\evil", "C:evil",
        "\\\\server\\share\\evil",
        "a\0b", "a" * 300, "a/" * 3000 + "b", "a" * 70_000, f"{ESCAPE}/x", f"lbf/{FULL_WIDTH}.vlt/x/metadata.json",
        "~/evil", "~root/evil", "$HOME/evil", "a\nb", "a\rb", "\u202ecod.exe", "\udcff", own + "/x", own.split("/")[0],
        own.upper(), f"{ESCAPE}.vlt/{ESCAPE}/metadata.json", "../" * 50 + "tmp/evil", "%2e%2e/evil", "．．/evil", "-rf",
    ])  # fmt: skip
    try:
        pack(archive, form, _mixed(rng, honest, Member(name)))
    except (UnicodeError, ValueError, OverflowError, zipfile.LargeZipFile):
        pack(archive, form, _mixed(rng, honest, Member("../evil")))
        name = "../evil"
    return f"a member {name[:60]!r} of {len(name)} characters"


def _links(archive: Path, form: str, honest: tuple[Member, ...], rng: np.random.Generator) -> str:
    top = archive.parents[2]
    kind = pick(rng, [
        tarfile.SYMTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
        tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE,
    ])  # fmt: skip
    link = pick(
        rng, ["..", f"{top}", "/etc/passwd", "/dev/zero", "link", "../../../..", "nowhere", honest[0].name]
    )
    more = [Member("link", b"", kind, link if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else "")]
    if rng.random() < 0.5:
        more.append(Member("link/evil"))
    pack(archive, form, _mixed(rng, honest, *more))
    return f"a member of type {kind!r} to {link}, {len(more) - 1} behind it"


def _sizes(archive: Path, form: str, honest: tuple[Member, ...], rng: np.random.Generator) -> str:
    """More bytes than are there, fewer, or more than the limit of 10 MB."""
    how = pick(rng, ["bomb", "many", "declared", "declared", "less"])
    if how == "bomb":
        pack(archive, form, _mixed(rng, honest, Member("zeros", bytes(60 * 10**6))))
    elif how == "many":
        pack(archive, form, [*honest, *(Member(f"zeros{i}", bytes(10**6)) for i in range(12))])
    elif form == "zip":
        pack(archive, form, [*honest, Member("big", bytes(1000))])
        size = pick(rng, [0, 1, 999]) if how == "less" else pick(rng, [1001, 2**31, 2**32 - 2])
        content = bytearray(archive.read_bytes())
        for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            at = content.rfind(mark) + offset
            content[at : at + 4] = size.to_bytes(4, "little")
        archive.write_bytes(content)
        how = f"{how} {size}"
    else:
        size = pick(rng, [-1, 0, 1] if how == "less" else [1001, 2**33, 2**60, 2**62])
        member = Member("big", bytes(1000))
        raw = _header(member, size).tobuf(tarfile.GNU_FORMAT) + member.content + bytes(24)
        _raw(archive, form, honest, raw)
        how = f"{how} {size}"
    return f"sizes: {how}"


def _raw(archive: Path, form: str, honest: tuple[Member, ...], raw: bytes) -> None:
    """A tar archive with blocks written by hand behind the honest members."""
    import gzip

    blocks = b"".join(
        _header(m).tobuf(tarfile.GNU_FORMAT) + m.content + bytes(-len(m.content) % 512) for m in honest
    )
    content = blocks + raw + bytes(1024)
    archive.write_bytes(gzip.compress(content, 1) if form == "tar.gz" else content)


def _headers(archive: Path, form: str, honest: tuple[Member, ...], rng: np.random.Generator) -> str:
    """Further headers of a tar that are long, many, malformed or name a place outside; comments of a zip."""
    if form == "zip":
        pack(archive, form, honest)
        size = pick(rng, [10, 65_535])
        with zipfile.ZipFile(archive, "a") as packed:
            packed.comment = bytes(rng.integers(0, 256, size, np.uint8))
        return f"a comment of {size} bytes"
    kind = pick(rng, [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
    what = pick(rng, ["long", "many", "garbage", "outside", "size", "number", "empty", "endless"])
    record = lambda text: f"{len(text) + 4:02d} {text}\n".encode()
    own = {
        "long": b"1" * pick(rng, [9000, 10**6, 5 * 10**7]),
        "many": record("comment=1") * 500,
        "garbage": rng.bytes(300),
        "outside": record("path=../evil") if kind in (tarfile.XHDTYPE, tarfile.XGLTYPE) else b"../evil\0",
        "size": record(f"size={pick(rng, ['-1', '9' * 30, 'x', FULL_WIDTH, '1e9'])}"),
        "number": b"99999999999 path=x\n",
        "empty": b"",
        "endless": b"0 path=x\n",
    }[what]
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, len(own)
    raw = header.tobuf(tarfile.GNU_FORMAT) + own + bytes(-len(own) % 512)
    member = Member("y", b"z" * 512)
    if what == "many":
        raw *= 300
    _raw(archive, form, honest, raw + _header(member).tobuf(tarfile.GNU_FORMAT) + member.content)
    return f"a further header {kind!r}: {what}, {len(own)} bytes"


def _duplicates(archive: Path, form: str, honest: tuple[Member, ...], rng: np.random.Generator) -> str:
    member = pick(rng, honest)
    how = pick(rng, ["same", "other", "dot", "backslash", "folder", "slashes"])
    name = {
        "dot": f"./{member.name}", "backslash": member.name.replace("/", "\\"),
        "slashes": member.name.replace("/", "//"),
        "folder": f"{member.name}/x",
    }.get(how, member.name)  # fmt: skip
    pack(archive, form, [*honest, Member(name, member.content if how == "same" else b"x")])
    return f"{member.name} twice: {how}"


def _closed(archive: Path, form: str, honest: tuple[Member, ...], rng: np.random.Generator) -> str:
    """Encrypted, or of an unknown compression; of a tar, of another compression than its name says."""
    if form != "zip":
        import bz2
        import gzip
        import lzma

        pack(archive, "tar", honest)
        packer = pick(rng, [gzip.compress, bz2.compress, lzma.compress])
        times = pick(rng, [1, 2])
        content = archive.read_bytes()
        for _ in range(times):
            content = packer(content)
        archive.write_bytes(content)
        return f"{times} times {packer.__module__}"
    pack(archive, form, honest)
    content = bytearray(archive.read_bytes())
    what = pick(rng, ["encrypted", "strong", "method"])
    at = 0
    method = pick(rng, [1, 9, 93, 97, 99])
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(mark) + offset
        if what == "method":
            content[at + 2] = method
        else:
            content[at] |= 1 if what == "encrypted" else 65
    archive.write_bytes(content)
    return f"{what} {method if what == 'method' else ''}".strip()


def _damaged(archive: Path, form: str, honest: tuple[Member, ...], rng: np.random.Generator) -> str:
    # A bare tar has no checksums of what it holds.
    form = "zip" if form == "tar" else form
    pack(archive, form, honest)
    return f"{form}: {mangle_file(archive, rng)}"


def _nested(archive: Path, form: str, honest: tuple[Member, ...], rng: np.random.Generator) -> str:
    inner, within = archive.with_name("inner"), pick(rng, FORMS)
    pack(inner, within, pick(rng, [honest, (Member("../evil"),)]))
    content = inner.read_bytes()
    inner.unlink()
    name = pick(rng, [f"inner.{within}", f"lbf/x.vlt/Good.{within}", honest[-1].name + ".zip"])
    pack(archive, form, pick(rng, [[Member(name, content)], [*honest, Member(name, content)]]))
    return f"{within} within, as {name}"


def _metadata(archive: Path, form: str, honest: tuple[Member, ...], rng: np.random.Generator) -> str:
    """Wrong shapes, types and versions in the metadata of the vault within."""
    at = next(i for i, m in enumerate(honest) if m.name.endswith("metadata.json"))
    value = json.loads(honest[at].content)
    said = wrong_json(value, rng)
    changed = honest[at]._replace(content=json.dumps(value).encode())
    pack(archive, form, [*honest[:at], changed, *honest[at + 1 :]])
    return f"{changed.name}: {said}"


PACKED: dict[str, tuple[int, Fault]] = {
    "names": (48, _names),
    "links and devices": (24, _links),
    "sizes": (18, _sizes),
    "headers": (24, _headers),
    "duplicates": (15, _duplicates),
    "encrypted": (12, _closed),
    "damaged": (24, _damaged),
    "nested": (9, _nested),
    "metadata within": (18, _metadata),
}


def _archive(scratch: Path, number: int, group: str, fault: Fault) -> Case:
    from mtmarl import vault

    rng, honest, sound = generator("archives", number), _honest(scratch), _converted(scratch)
    here = _place(scratch)
    root, form = here / "root", FORMS[number % 3]
    archive = here / f"hostile.{form}"
    recipe = f"{form}: {fault(archive, form, honest, rng)}"
    argv = ["convert", str(archive), "--root", str(root), "--max-gigabytes", "0.01"]
    return _case(here, root, sound, group, recipe, [Door("vault convert", lambda: vault.main(argv))])


# -------------------------------------------------------------------------------------------------- hubs


@cache
def _recordings(scratch: Path) -> dict[str, Any]:
    return _vaults(sound_root(scratch))


def _fields(manifest: dict[str, Any], rng: np.random.Generator) -> str:
    return wrong_json(manifest, rng)


def _hashes(manifest: dict[str, Any], rng: np.random.Generator) -> str:
    files = pick(rng, [*(v["files"] for v in manifest["vaults"].values()), manifest["references"]])
    file = pick(rng, sorted(files))
    old = files[file]["sha256"]
    files[file]["sha256"] = pick(rng, [
        "0" * 64, "０" * 64, old.upper(), old[:-1], old + "0", old[::-1], "", "g" * 64, f"{old}\n",
        f" {old[1:]}", ESCAPE, None,
    ])  # fmt: skip
    return f"{file}: SHA-256 {files[file]['sha256']!r}"


def _file_sizes(manifest: dict[str, Any], rng: np.random.Generator) -> str:
    files = pick(rng, [*(v["files"] for v in manifest["vaults"].values()), manifest["references"]])
    file = pick(rng, sorted(files))
    old = files[file]["size"]
    files[file]["size"] = pick(
        rng, [*HUGE, 0, 1, old - 1, old + 1, -1, -old, str(old), FULL_WIDTH, float(old), True]
    )
    return f"{file}: size {str(files[file]['size'])[:40]}"


def _file_names(manifest: dict[str, Any], rng: np.random.Generator) -> str:
    """A file of a vault, or a reference, that lies elsewhere."""
    files = pick(rng, [*(v["files"] for v in manifest["vaults"].values()), manifest["references"]])
    file = pick(rng, sorted(files))
    folder = file.rpartition("/")[0]
    new = pick(rng, [
        "../evil", f"{folder}/../../../../evil", "/tmp/evil", f"{folder}//x", f"{folder}/./x", f"{folder}/..",
        f"{folder}/",
        f"{folder}\\..\\x", f"{folder}/C:x", f"{folder}/{ESCAPE}", f"{folder}/" + "a" * 300,
        f"{folder}/{'a/' * 2000}b", "",
        f"{folder}/x\0y", f"{folder}/{FULL_WIDTH}", f"{folder}/．．/x", "manifest.json", ".locks/x",
        "references/lbf/../x.json",
        "references/../x.json", "references/a/b/c.json", f"references/lbf/{ESCAPE}.json", "references/lbf/.json",
    ])  # fmt: skip
    files[new] = files.pop(file) if rng.random() < 0.5 else files[file]
    return f"{file} as {new[:80]!r}"


def _vault_names(manifest: dict[str, Any], rng: np.random.Generator) -> str:
    """A vault by another name, its task and files with it."""
    name = pick(rng, sorted(manifest["vaults"]))
    new = pick(rng, [
        "../x/y", "lbf/../x", "lbf/x/..", "/lbf/x/y", "lbf/x", "lbf//y", "a/b/c/d", "", "lbf/x/" + "q" * 300,
        f"lbf/{ESCAPE}/y",
        f"lbf/{FULL_WIDTH}/y", "lbf/８x8-2p-2f-coop/replay", "lbf/x y/z", "lbf/x/.hidden", "lbf/x/-rf",
        "references/x/y", "lbf/x\0/y",
        ".locks/x/y", "lbf/x/replay.vlt", "LBF/8x8-2p-2f-coop/replay", f"{TASKS[0]}/other",
        f"{TASKS[1]}/other", "lbf/x\n/y",
    ])  # fmt: skip
    entry = json.loads(json.dumps(manifest["vaults"].pop(name)))
    task, _, quality = new.rpartition("/")
    old_task, _, old_quality = name.rpartition("/")
    entry["task"] = task
    entry["files"] = {
        f.replace(f"{old_task}.vlt/{old_quality}/", f"{task}.vlt/{quality}/"): of
        for f, of in entry["files"].items()
    }
    manifest["vaults"][new] = entry
    return f"{name} as {new[:80]!r}"


def _texts(manifest: dict[str, Any], rng: np.random.Generator) -> str:
    """Escape codes, credentials and long texts where the commands print what a hub says."""
    name = pick(rng, sorted(manifest["vaults"]))
    key = pick(rng, ["source", "returns", "description", "steps", "episodes", "extra"])
    value = pick(
        rng,
        [ESCAPE, "a" * 10**6, {ESCAPE: 1}, {"mean": FULL_WIDTH}, {"mean": 10**400}, FULL_WIDTH, [[]] * 1000],
    )
    manifest["vaults"][name][key] = value
    return f"{name}: {key} = {str(value)[:40]!r}"


Lie = Callable[[dict[str, Any], np.random.Generator], str]
LIES: dict[str, tuple[int, Lie]] = {
    "manifest fields": (40, _fields),
    "hashes": (20, _hashes),
    "sizes of files": (24, _file_sizes),
    "names of files": (36, _file_names),
    "names of vaults": (36, _vault_names),
    "texts": (14, _texts),
}


def _hub(scratch: Path, number: int, group: str, lie: Lie) -> Case:
    from mtmarl import vault
    from mtmarl.data import publish

    rng, sound, here = generator("archives", number), _recordings(scratch), _place(scratch)
    hub, root, file = here / "hub", here / "root", here / "hub" / "manifest.json"
    shutil.copytree(sound_root(scratch), hub)
    manifest = json.loads(file.read_text())
    recipe = f"manifest.json of a hub: {lie(manifest, rng)}"
    file.write_text(json.dumps(manifest))
    if number % 3 == 2:  # Somebody pushes to it: what changes is the hub.
        push = lambda: publish.push(str(hub), sound_root(scratch), say=lambda text: None)
        return _case(here, hub, sound, group, recipe, [Door("vault push", push, lambda pinned: True)])
    doors = [
        Door("vault pull", lambda: vault.main(["pull", "--hub", str(hub), "--root", str(root)])),
        Door("vault ls", lambda: vault.main(["ls", "--hub", str(hub)])),
    ]
    return _case(here, root, sound, group, recipe, doors)


def _numbered(scratch: Path, number: int) -> Case:
    archives = [(group, fault) for group, (count, fault) in PACKED.items() for _ in range(count)]
    if number < len(archives):
        return _archive(scratch, number, *archives[number])
    lies = [(group, lie) for group, (count, lie) in LIES.items() for _ in range(count)]
    return _hub(scratch, number, *lies[number - len(archives)])


COUNT = sum(count for count, _ in (*PACKED.values(), *LIES.values()))
KINDS = {"archives": Kind("archives", COUNT, _numbered)}
