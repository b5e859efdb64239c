"""Files that are there whole or not at all."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mtmarl.errors import UserError
from mtmarl.files import (
    files_below,
    only_writer,
    remove,
    scratch_folder,
    write_json,
    write_together,
    write_whole,
)


def test_the_old_file_stays_whole_until_the_new_one_is(tmp_path, monkeypatch):
    file = tmp_path / "new" / "record.json"
    write_json(file, {"updates": 1, "name": "größe"})
    assert json.loads(file.read_bytes()) == {"updates": 1, "name": "größe"}

    def killed(self, target):
        assert Path(self).read_bytes() == b"later" and target == file
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_whole(file, "later")
    with pytest.raises(TypeError):
        write_json(file, {"updates": object()})
    assert json.loads(file.read_bytes())["updates"] == 1
    assert list(file.parent.iterdir()) == [file], "nothing half-made lies about"


def test_a_run_has_one_writer_at_a_time(tmp_path):
    run = tmp_path / "seed_0"
    with only_writer(run):
        with pytest.raises(UserError, match="another process is writing"), only_writer(run):
            pass
        with only_writer(tmp_path / "seed_1"):
            pass
    with only_writer(run):
        pass


def test_what_is_listed_is_what_is_on_disk(tmp_path):
    """Links to files and folders are followed; what cannot be is named."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for file in (root / "a", elsewhere / "b/run.json", tmp_path / "c"):
        write_whole(file, "x")
    (root / "linked").symlink_to(elsewhere)
    (root / "d").symlink_to(tmp_path / "c")
    assert files_below(root) == [root / "a", root / "d", root / "linked/b/run.json"]
    assert files_below(root, "run.*") == [root / "linked/b/run.json"]
    (elsewhere / "up").symlink_to(root)
    (root / "lost").symlink_to(tmp_path / "nothing")
    os.mkfifo(root / "pipe")
    refused = []
    assert files_below(root, refused=refused) == [root / "a", root / "d", root / "linked/b/run.json"]
    assert [(p.relative_to(root).as_posix(), why) for p, why in refused] == [
        ("linked/up", "a link to one of its parent folders"),
        ("lost", "a broken link"),
        ("pipe", "neither a file nor a folder"),
    ]
    with pytest.raises(UserError, match="linked/up: a link to one of its parent"):
        files_below(root)


def test_removing_a_link_keeps_what_it_leads_to(tmp_path):
    write_whole(tmp_path / "data/file", "x")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    remove(tmp_path / "link")
    assert (tmp_path / "data/file").exists() and not (tmp_path / "link").is_symlink()
    remove(tmp_path / "data")
    remove(tmp_path / "none")
    assert not list(tmp_path.iterdir())


def test_leftovers_of_killed_processes_are_removed(tmp_path, monkeypatch):
    """… and those of living ones are not."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    killed = (
        "import os; from mtmarl import files; s = files.scratch_folder(); print(s.__enter__()); os._exit(9)"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    folder = subprocess.run(
        [sys.executable, "-c", killed], env=environment, stdout=subprocess.PIPE, text=True
    ).stdout
    assert Path(folder.strip()).is_dir() and Path(folder.strip()).parent == tmp_path
    with scratch_folder() as living, scratch_folder() as other:
        assert living.is_dir() and other.is_dir() and not Path(folder.strip()).exists()
    assert not list(tmp_path.iterdir())

    dead, alive = tmp_path / ".file-0123abcd", tmp_path / ".file-0123abce"
    for part in (dead, alive):
        part.touch()
    os.utime(dead, (0, 0))
    write_whole(tmp_path / "file", "x")
    assert not dead.exists() and alive.exists()


def test_an_error_names_the_file_that_was_meant(tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError) as error:
        write_whole(tmp_path / "file", "x")
    assert error.value.filename == str(tmp_path / "file") and not list(tmp_path.iterdir())


def test_files_that_belong_together_are_all_new_or_all_old(tmp_path, monkeypatch):
    names = [tmp_path / name for name in ("a", "b", "c")]
    write_together(dict.fromkeys(names, "old"))
    write = Path.write_bytes

    def full(self, content):
        if self.name.startswith(".c-"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError) as error:
        write_together(dict.fromkeys(names, "new"))
    assert error.value.filename == str(names[2])
    assert {file: file.read_text() for file in tmp_path.iterdir()} == dict.fromkeys(names, "old")
