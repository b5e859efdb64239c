"""Roots whose names mean something in an address, a pattern or a shell: what is written lies there and is read back."""

import json
import shlex

import numpy as np
import pytest
from recordings import make_recording, metadata, save

from mtmarl import vault as cli
from mtmarl.data import vault as v
from mtmarl.data.vault import store
from mtmarl.errors import UserError

GOOD = "lbf/toy/replay"
ODD = (
    "a#b", "a?b", "a%20b", "a%2Fb", "a%", "a|b", "a[b]", "[!a]*", "{a,b}", "two  blanks ", "a&b=c;d", "~a", "$HOME",
    "'a\"", "a:b", "s3:", "-a", "ä", "データ", "a\tb",
)  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_an_odd_root_is_written_and_read_as_any(tmp_path, name):
    root = tmp_path / "in" / name
    path, recording = save(root, steps=20)
    found = v.read_vault(path)
    for field, value in recording._asdict().items():
        np.testing.assert_array_equal(getattr(found.recording, field), value)
    columns = store.open_columns(path, v.read_metadata(path))
    np.testing.assert_array_equal(columns["reward"].read().result(), recording.reward)
    v.write_reference(root, "lbf/toy", {"reference": 1.5})
    assert v.read_references(root) == {"lbf/toy": {"reference": 1.5}}
    v.update_manifest(root)
    assert v.verify(root) == [GOOD] == list(v.list_vaults(root))
    assert v.find_vault("lbf/toy", "replay", [root]) == path
    assert [p.name for p in root.parent.iterdir()] == [name], "nothing lies in another folder"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("name", ["[!a]#b?%20|"])
def test_commands_take_an_odd_root(tmp_path, capsys, name):
    root, hub = tmp_path / name, tmp_path / f"hub {name}"
    save(root, steps=20)
    assert cli.main(["describe", "lbf/toy", "--root", str(root), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert cli.main(["subset", "lbf/toy", "part", "--steps", "10", "--root", str(root)]) == 0
    assert sorted(v.list_vaults(root)) == ["lbf/toy/part", GOOD]
    hub.mkdir()
    assert cli.main(["push", "--hub", str(hub), "--root", str(root)]) == 0
    pinned = shlex.split(capsys.readouterr().out.splitlines()[-1])[-1]
    assert cli.main(["pull", "--hub", pinned, "--root", str(tmp_path / f"{name} again")]) == 0
    assert v.verify(tmp_path / f"{name} again") == ["lbf/toy/part", GOOD]


@pytest.mark.parametrize("name", ["a\\b", "a\udcffb"])
def test_a_name_that_the_store_cannot_hold_is_refused_before_anything_is_written(tmp_path, capsys, name):
    root = tmp_path / name
    with pytest.raises(UserError, match="a backslash or one that is not UTF-8; rename it"):
        v.vault_path(root, "lbf/toy", "replay")
    with pytest.raises(UserError, match="rename it"):
        v.write_vault(root / "lbf/toy.vlt/replay", make_recording(), metadata())
    for argv in (["describe", "lbf/toy"], ["subset", "lbf/toy", "x", "--steps", "5"], ["ls"], ["verify"]):
        assert cli.main([*argv, "--root", str(root)]) in (0, 2)
        assert len(capsys.readouterr().err.splitlines()) <= 1
    assert not root.exists()


@pytest.mark.parametrize("steps", [2**31 - 1, 201, 0, -1])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_a_store_that_counts_other_steps_than_its_metadata_is_refused(tmp_path, steps, dtype):
    path, _ = save(tmp_path, steps=200)
    index = v.open_leaf(path, "vault_index", dtype=dtype, shape=(1,), create=True, delete_existing=True)
    index.write(np.array([steps], dtype)).result()
    with pytest.raises(UserError, match=f"says steps = 200, the store has \\[{steps}]; restore the vault"):
        v.read_vault(path)
    with pytest.raises(UserError, match="restore the vault"):
        store.open_columns(path, v.read_metadata(path))


def test_both_counts_raised_alike_are_refused(tmp_path):
    path, _ = save(tmp_path, steps=200)
    file = path / v.METADATA
    file.write_text(json.dumps(json.loads(file.read_text()) | {"steps": 2**31 - 1}))
    v.open_leaf(path, "vault_index", open=True).write(np.array([2**31 - 1], np.int32)).result()
    with pytest.raises(UserError, match="more than this machine's memory"):
        v.read_vault(path)
