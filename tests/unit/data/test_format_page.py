"""docs/vault_format.md says what is stored: its example reads a vault, its table lists the arrays."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from recordings import make_recording, metadata, save

from mtmarl.data import vault as v
from mtmarl.data.vault.schema import COLUMNS

CONTENTS = {
    False: "c5e5f80bb18cfa2cfe4603216a088ac824cb7bdca8beaa5ea917ce2aecb89ed0",
    True: "0f6d4421a36b4a9f88b6d841fc18443cc99075036f07c59ca6ff2d8799ba35cf",
}
ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/vault_format.md").read_text()


def test_the_example_reads_a_vault_without_this_library(monkeypatch):
    monkeypatch.chdir(ROOT)
    (example,) = (
        block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "tensorstore" in block
    )
    assert "mtmarl" not in example and len(example.splitlines()) <= 10
    found = {}
    exec(example, found)
    vault = v.read_vault(found["path"])
    for name, value in vault.recording._asdict().items():
        assert found["arrays"][name].dtype == value.dtype
        np.testing.assert_array_equal(found["arrays"][name], value, err_msg=name)
    np.testing.assert_array_equal(found["obs"], vault.recording.obs * np.asarray(vault.metadata["obs_scale"]))


def test_the_table_lists_the_arrays():
    rows = re.findall(r"^\| `(\w+)` \| ([SNOA, ]+) \| ([\w ]+) \|", PAGE, re.MULTILINE)
    listed = {name: (len(axes.split(",")), tuple(dtypes.split(" or "))) for name, axes, dtypes in rows}
    assert listed == {name: tuple(column) for name, column in COLUMNS.items()}
    assert list(listed) == list(v.Recording._fields)


def test_the_page_names_all_metadata(tmp_path):
    path, _ = save(tmp_path)
    for key in v.read_metadata(path).keys() - {"horizon"}:
        assert f"`{key}`" in PAGE, key


@pytest.mark.parametrize("floats", [False, True])
def test_what_is_written_does_not_change(tmp_path, floats):
    """Metadata and checksum of a vault, as earlier versions wrote them."""
    recording = make_recording()
    if floats:
        recording = recording._replace(obs=recording.obs.astype(np.float32) / 3)
    path = v.write_vault(tmp_path / "lbf/toy.vlt/replay", recording, metadata())
    about = json.loads((path / v.METADATA).read_text())
    assert about["contents"] == CONTENTS[floats]
    assert list(about) == [
        "version", "structure_shape", "structure_dtype", "task", "obs_scale", "horizon", "dims", "steps", "episodes",
        "episode_return", "schema_version", "library_version", "contents",
    ]  # fmt: skip
    assert about["structure_shape"]["mask"] == "(1, 200, 3, 4)" and about["version"] == 1.2
    assert v.open_leaf(path, "obs.").spec().to_json()["metadata"]["compressor"] == {"id": "zstd", "level": 17}
