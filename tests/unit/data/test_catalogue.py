"""What lies below a root: good vaults are served, bad ones are named, and the manifest follows the folders."""

import json
import shutil

import pytest
from recordings import make_recording, metadata, save

from mtmarl import vault as cli
from mtmarl.data import publish
from mtmarl.data import vault as v
from mtmarl.data.vault import manifest
from mtmarl.errors import UserError

GOOD = "lbf/toy/replay"


def foreign(folder):
    """Metadata as another library writes them."""
    folder.mkdir(parents=True)
    (folder / v.METADATA).write_text(json.dumps({"version": 1.2, "structure_shape": "{}"}))


def listed_as(folder, **wrong):
    file = folder / v.METADATA
    file.write_text(json.dumps(json.loads(file.read_text()) | wrong))


def copied(root):
    shutil.copytree(root / "lbf/toy.vlt/replay", root / "lbf/other.vlt/replay")
    return root / "lbf/other.vlt/replay"


def emptied(root):
    folder = root / "lbf/other.vlt/replay"
    folder.mkdir(parents=True)
    return folder


def linked_to_nothing(root):
    folder = root / "lbf/other.vlt/replay"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(root / "gone")
    return folder


def of_another_type(**wrong):
    def spoil(root):
        path, _ = save(root, 1, "lbf/other")
        listed_as(path, **wrong)
        return path

    return spoil


def written(content):
    def spoil(root):
        path, _ = save(root, 1, "lbf/other")
        (path / v.METADATA).write_bytes(content)
        return path

    return spoil


def converted_nowhere(root):
    foreign(root / "lbf/other.vlt/replay")
    return root / "lbf/other.vlt/replay"


def replaced_by_half(root):
    path, _ = save(root, 1, "lbf/other")
    path.rename(path.with_name(".replay.old"))
    return path


BAD = {
    "foreign": converted_nowhere,
    "copied": copied,
    "emptied": emptied,
    "link": linked_to_nothing,
    "replaced": replaced_by_half,
    "no object": written(b"[1]"),
    "deep": written(b"[" * 100_000),
    "no text": written(b"\xff\xfe\x00"),
    **{
        f"{key}={value!r}": of_another_type(**{key: value})
        for key, value in {
            "steps": "200", "episodes": 1.5, "dims": [3, 5, 4, 12], "obs_scale": {"0": 1.0},
            "task": ["lbf/other"], "version": "1.2", "schema_version": "1", "structure_shape": {"obs": "(1, 2"},
            "structure_dtype": {"obs": 8}, "episode_return": {"mean": "1"}, "contents": 7, "returns": [1.0],
        }.items()
    },
}  # fmt: skip


@pytest.mark.parametrize("spoil", BAD.values(), ids=BAD)
def test_a_bad_neighbour_is_named_and_stops_nothing(tmp_path, capsys, spoil):
    save(tmp_path)
    bad = spoil(tmp_path)
    found = v.catalogue(tmp_path)
    assert list(found.vaults) == [GOOD] == list(v.list_vaults(tmp_path))
    assert list(found.faults) == ["lbf/other/replay"]
    (fault,) = found.faults.values()
    assert str(bad) in fault and "\n" not in fault

    assert cli.main(["ls", "--root", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert GOOD in out and str(bad) in err and str(bad) not in out
    said = []
    manifest = json.loads(v.update_manifest(tmp_path, said.append).read_text())
    assert list(manifest["vaults"]) == [GOOD] and said == [f"left out: {fault}"]
    assert cli.main(["verify", "--root", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert f"ok  {GOOD}" in out and str(bad) in err
    v.read_manifest(tmp_path)


def test_push_serves_the_good_ones(tmp_path):
    save(tmp_path / "root")
    foreign(tmp_path / "root/lbf/other.vlt/replay")
    with pytest.raises(UserError, match="1 of 2 vaults not pushed: lbf/other/replay"):
        publish.push(f"{tmp_path}/hub", tmp_path / "root", [], say=lambda line: None)
    assert list(v.list_vaults(tmp_path / "hub")) == [GOOD]


def test_files_behind_links_are_listed(tmp_path):
    path, _ = save(tmp_path / "root")
    (path / "d").rename(tmp_path / "elsewhere")
    (path / "d").symlink_to(tmp_path / "elsewhere")
    files = json.loads(v.update_manifest(tmp_path / "root").read_text())["vaults"][GOOD]["files"]
    data = [f for f in files if "/d/" in f]
    assert len(data) == len(list((tmp_path / "elsewhere").iterdir())) > 0
    victim = tmp_path / "elsewhere" / data[0].rpartition("/")[2]
    victim.write_bytes(b"other")
    with pytest.raises(UserError, match=victim.name):
        v.verify(tmp_path / "root")
    (path / "d/round").symlink_to(path)
    with pytest.raises(UserError, match="round: a link to one of its parent"):
        v.manifest_entry(tmp_path / "root", path)


def test_a_vault_left_unlisted_by_a_kill_is_listed_by_the_rerun(tmp_path, capsys, monkeypatch):
    save(tmp_path)
    command = ["subset", GOOD, "half", "--steps", "100", "--root", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "record", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            cli.main(command)
    v.update_manifest(tmp_path)
    kept = v.read_manifest(tmp_path)["vaults"]
    (tmp_path / v.MANIFEST).write_text(json.dumps({"schema_version": 1, "vaults": {GOOD: kept[GOOD]}}))
    assert cli.main(command) == 2 and "is there already" in capsys.readouterr().err
    assert v.verify(tmp_path) == ["lbf/toy/half", GOOD]


@pytest.mark.parametrize("key, value", [("steps", 7), ("episodes", 0), ("returns", {"mean": 99.0})])
def test_wrong_figures_in_a_manifest_are_found_and_repaired(tmp_path, capsys, key, value):
    save(tmp_path)
    file = v.update_manifest(tmp_path)
    manifest = json.loads(file.read_text())
    manifest["vaults"][GOOD][key] = value
    file.write_text(json.dumps(manifest))
    root = ["--root", str(tmp_path)]
    assert cli.main(["verify", *root]) == 2 and f"says {key}" in capsys.readouterr().err
    assert cli.main(["verify", "--repair", *root]) == 0 == cli.main(["verify", *root])


def test_a_vault_that_the_manifest_does_not_list_is_found(tmp_path):
    save(tmp_path)
    v.update_manifest(tmp_path)
    path, _ = save(tmp_path, 1, "rware/toy")
    with pytest.raises(UserError, match=f"{path}: not in manifest.json"):
        v.verify(tmp_path)
    v.update_manifest(tmp_path)
    assert len(v.verify(tmp_path)) == 2
    (path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="note.txt: not a file of"):
        v.verify(tmp_path)


def test_a_damaged_manifest_is_written_anew(tmp_path):
    save(tmp_path)
    v.update_manifest(tmp_path)
    for content in ("{", "[]", '{"schema_version": "1", "vaults": {}}', '{"schema_version": 1, "vaults": 3}'):
        (tmp_path / v.MANIFEST).write_text(content)
        with pytest.raises(UserError, match="manifest.json: damaged"):
            v.verify(tmp_path)
        said = []
        v.update_manifest(tmp_path, said.append)
        assert "damaged" in said[0] and v.verify(tmp_path) == [GOOD]


@pytest.mark.parametrize("name", ["a:b", "a b", "ü"])
def test_no_manifest_is_written_that_its_reader_refuses(tmp_path, name):
    save(tmp_path)
    with pytest.raises(UserError, match="not a legal name"):
        v.write_vault(tmp_path / f"lbf/{name}.vlt/replay", make_recording(), metadata(f"lbf/{name}"))
    # A folder may have been given such a name by hand.
    path = v.write_vault(tmp_path / "lbf/other.vlt/replay", make_recording(), metadata("lbf/other"))
    path.parent.rename(tmp_path / f"lbf/{name}.vlt")
    v.update_manifest(tmp_path, lambda line: None)
    assert GOOD in v.read_manifest(tmp_path)["vaults"]


@pytest.mark.parametrize(
    "figures", ['{"reference": "1"}', '{"random": [1]}', "[]", '{"reference": NaN}', "{"]
)
def test_references_of_a_wrong_type_are_named(tmp_path, figures):
    file = v.write_reference(tmp_path, "lbf/toy", {"reference": 1.0})
    v.write_reference(tmp_path, "lbf/other", {"reference": 2.0, "random": 0.5, "algorithm": "sable"})
    file.write_text(figures)
    with pytest.raises(UserError, match=r"toy.json: damaged"):
        v.read_references(tmp_path)
    assert v.read_references(tmp_path, ["lbf/other"])["lbf/other"]["reference"] == 2.0


def test_what_a_killed_process_left_of_writing_is_removed(tmp_path):
    path, recording = save(tmp_path)
    left = path.with_name(".replay.new-0123")
    left.mkdir()
    left.with_name(".replay.new-0123.lock").touch()  # held by nobody
    (left / "part").touch()
    v.write_vault(path, recording, metadata())
    assert not left.exists() and sorted(p.name for p in path.parent.iterdir()) == ["replay"]
