"""Files that are there whole or not at all."""

import json
from pathlib import Path

import pytest

from mtmarl.errors import UserError
from mtmarl.files import only_writer, write_json, write_whole


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
