import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from recordings import HORIZON, SCALE, make_recording, metadata, save

from mtmarl import vault as cli
from mtmarl.data import vault as v
from mtmarl.data.vault import store
from mtmarl.errors import UserError


def assert_same(a: v.Recording, b: v.Recording):
    for field, x, y in zip(v.Recording._fields, a, b, strict=True):
        assert x.dtype == y.dtype, field
        np.testing.assert_array_equal(x, y, err_msg=field)


@pytest.mark.parametrize("steps", [1, 7, 64, 1000])
def test_what_is_written_is_read_back(tmp_path, steps):
    path, recording = save(tmp_path, steps=steps)
    back = v.read_vault(path)
    assert_same(back.recording, recording)
    assert all(isinstance(x, np.ndarray) for x in back.recording)
    assert back.metadata["steps"] == steps and back.metadata["obs_scale"] == SCALE
    assert back.metadata["dims"] == {"agents": 3, "obs": 5, "actions": 4, "horizon": HORIZON}
    assert [p.name for p in path.parent.iterdir()] == ["replay"]  # nothing temporary is left


@pytest.mark.parametrize("chunk", [store._CHUNK_BYTES, 40])
def test_flashbax_reads_it(tmp_path, monkeypatch, chunk):
    flashbax = pytest.importorskip("flashbax.vault")
    monkeypatch.setattr(store, "_CHUNK_BYTES", chunk)
    monkeypatch.setattr(store, "_FILE_BYTES", 2000)
    path, recording = save(tmp_path, steps=128)
    assert_same(v.read_vault(path).recording, recording)
    experience = flashbax.Vault("lbf/toy.vlt", rel_dir=str(tmp_path), vault_uid="replay").read().experience
    assert set(experience) == set(v.Recording._fields)
    for field, value in recording._asdict().items():
        assert experience[field].dtype == value.dtype
        np.testing.assert_array_equal(experience[field][0], value)


def test_relative_path_running_event_loop_and_odd_metadata(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    extra = {"returns": {"reference": np.float32(1.5), "random": 0.0}, "shape": (1, 2), "none": None}

    async def inside_a_loop():
        return v.write_vault("data/lbf/toy.vlt/replay", make_recording(), metadata(**extra))

    path = asyncio.run(inside_a_loop())
    monkeypatch.chdir("/")
    found = v.read_vault(path).metadata
    assert found["returns"]["reference"] == 1.5 and found["shape"] == [1, 2] and found["none"] is None


def test_reading_makes_no_jax_array(tmp_path):
    path, _ = save(tmp_path)
    before = len(jax.live_arrays())
    back = v.read_vault(path)
    assert len(jax.live_arrays()) == before and back.recording.obs.dtype == np.int8


@pytest.mark.parametrize("key", ["version", "structure_shape", "structure_dtype"])
def test_reserved_metadata_keys_are_refused(tmp_path, key):
    with pytest.raises(UserError, match=key):
        v.write_vault(tmp_path / "lbf/toy.vlt/replay", make_recording(), metadata(**{key: 3}))
    assert not (tmp_path / "lbf/toy.vlt/replay").exists()


def test_a_path_outside_the_layout_is_refused(tmp_path):
    with pytest.raises(UserError, match="vlt"):
        v.write_vault(tmp_path / "toy", make_recording(), metadata())


@pytest.mark.parametrize("stage", ["_write_files", "_verify_written"])
def test_an_interrupted_write_leaves_the_old_vault(tmp_path, monkeypatch, stage):
    path, old = save(tmp_path, seed=1)
    real = getattr(store, stage)

    def interrupted(*args):
        real(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, stage, interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, seed=2)
    assert_same(v.read_vault(path).recording, old)
    assert [p.name for p in path.parent.iterdir()] == ["replay"]


def test_a_failed_move_restores_the_old_vault(tmp_path, monkeypatch):
    path, old = save(tmp_path, seed=1)
    rename = Path.rename

    def fails_for_new(self, target):
        if ".new-" in self.parent.name:
            raise OSError("disk")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_new)
    with pytest.raises(OSError, match="disk"):
        save(tmp_path, seed=2)
    assert_same(v.read_vault(path).recording, old)


def test_a_write_that_reads_back_differently_is_refused(tmp_path, monkeypatch):
    real = store._write_files
    monkeypatch.setattr(
        store, "_write_files", lambda base, r, m: real(base, r._replace(reward=r.reward + 1), m)
    )
    with pytest.raises(UserError):
        save(tmp_path)
    assert not (tmp_path / "lbf/toy.vlt/replay").exists()


def test_identity_is_of_the_contents(tmp_path, monkeypatch):
    path, recording = save(tmp_path)
    of = v.identity(path)
    monkeypatch.setattr(store, "_COMPRESSION", {"order": "C", "compressor": {"id": "gzip", "level": 1}})
    v.write_vault(path, recording, metadata(collected="elsewhere"))
    assert v.identity(path) == of

    reward = recording.reward.copy()
    reward[3] += 1
    v.write_vault(path, recording._replace(reward=reward), metadata())
    changed = v.identity(path)
    v.write_vault(path, recording, metadata(obs_scale=3.0))
    scaled = v.identity(path)
    about = json.loads((path / v.METADATA).read_text())
    del about["contents"]  # as of earlier vaults
    (path / v.METADATA).write_text(json.dumps(about))
    assert len({of, changed, scaled, v.identity(path)}) == 4


def test_rewriting_replaces(tmp_path):
    save(tmp_path, seed=1, steps=300)
    path, new = save(tmp_path, seed=2, steps=50)
    assert_same(v.read_vault(path).recording, new)


def change(field, index, value):
    def apply(recording):
        column = getattr(recording, field).copy()
        column[index] = value
        return recording._replace(**{field: column})

    return apply


def illegal(recording):
    mask = recording.mask.copy()
    mask[17, 1, recording.action[17, 1]] = False
    return recording._replace(mask=mask)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (illegal, r"action\[17, 1\] is illegal"),
        (change("action", (5, 2), 4), r"action\[5, 2\] is outside 0 … 3"),
        (change("action", (5, 2), -1), r"action\[5, 2\] is outside"),
        (change("reward", 9, np.nan), r"reward\[9\] is not finite"),
        (change("first", 0, False), r"first\[0\]"),
        (change("truncated", -1, False), r"truncated\[199\]"),
        (lambda r: change("first", int(np.flatnonzero(r.first)[3]), False)(r), r"first\[\d+\] must be True"),
        (lambda r: change("first", int(np.flatnonzero(~r.first)[0]), True)(r), r"first\[\d+\] must be True"),
        (
            lambda r: change("step_count", int(np.flatnonzero(~r.first)[2]), 11)(r),
            r"step_count\[\d+\] must count",
        ),
        (lambda r: r._replace(step_count=r.step_count + 5), r"step_count\[\d+\] is not below|longer"),
        (lambda r: r._replace(obs=r.obs.astype(np.int32) * 3), r"obs\[.*\] does not fit int8"),
        (lambda r: r._replace(mask=r.mask[:, :2]), "agent axes disagree"),
        (lambda r: r._replace(reward=r.reward[1:]), "reward has shape"),
        (lambda r: v.Recording(*(x[:0] for x in r)), "empty"),
    ],
)
def test_faulty_recordings_are_named(tmp_path, spoil, message):
    recording = make_recording()
    recording = recording._replace(  # whole from the first step, so that the fault is the only one
        truncated=np.append(recording.truncated[:-1], True),
        terminal=np.append(recording.terminal[:-1], False),
    )
    with pytest.raises(UserError, match=message) as error:
        v.write_vault(tmp_path / "lbf/toy.vlt/replay", spoil(recording), metadata())
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "key, value", [("episodes", 1), ("steps", 3), ("episode_return", {"mean": 0, "min": 0, "max": 0})]
)
def test_metadata_that_disagrees_with_the_arrays(tmp_path, key, value):
    path, _ = save(tmp_path)
    file = path / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(UserError, match=f"says {key}"):
        v.read_vault(path)
    if key != "steps":  # without which nothing can be read
        v.read_vault(path, check=False)


def test_damage_is_a_user_error(tmp_path):
    path, _ = save(tmp_path)
    with pytest.raises(UserError, match="no vault here"):
        v.read_vault(path.parent)
    (path / "manifest.ocdbt").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot be read"):
        v.read_vault(path)
    (path / "metadata.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        v.read_vault(path)


def test_episodes_and_returns_against_a_loop(tmp_path):
    for seed in range(20):
        r = make_recording(seed, steps=int(np.random.default_rng(seed).integers(1, 150)))
        found, gamma = v.episodes(r, HORIZON), 0.9
        totals, complete, to_go = [], [], []
        for t in range(len(r.first)):
            if r.first[t]:
                totals.append(0.0)
                begins_at_reset = r.step_count[t] == 0
            totals[-1] += float(r.reward[t])
            if r.terminal[t] or r.truncated[t]:
                complete.append(bool(begins_at_reset and (r.terminal[t] or r.step_count[t] == HORIZON - 1)))
        running = 0.0
        for t in reversed(range(len(r.first))):
            running = float(r.reward[t]) + gamma * running * (not (r.terminal[t] or r.truncated[t]))
            to_go.append(running)
        np.testing.assert_allclose(found.total, totals, atol=1e-5)
        assert found.complete.tolist() == complete
        np.testing.assert_allclose(v.returns_to_go_range([r], gamma), (min(to_go), max(to_go)), rtol=1e-9)
    both = [make_recording(1), make_recording(2)]
    low, high = zip(*(v.returns_to_go_range([r], 0.9) for r in both), strict=True)
    assert v.returns_to_go_range(both, 0.9) == (min(low), max(high))
    with pytest.raises(UserError):
        v.returns_to_go_range([], 0.9)


def test_concatenated_recordings_are_valid(tmp_path):
    joined = v.concatenate([make_recording(s, steps=40) for s in range(3)])
    path = v.write_vault(tmp_path / "lbf/toy.vlt/replay", joined, metadata())
    assert v.read_vault(path).metadata["steps"] == 120


def test_a_vault_that_was_being_replaced_is_not_lost(tmp_path, monkeypatch):
    """A kill between the two moves leaves the old one beside, and says where."""
    path, _ = save(tmp_path, 0, "lbf/toy")
    before = v.identity(path)
    rename = Path.rename

    def killed(self, to):
        if Path(to) == path:
            raise SystemExit
        return rename(self, to)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        patch.setattr(Path, "exists", lambda self: self == path)  # A kill runs no handler that restores.
        with pytest.raises(SystemExit):
            v.replace_folder(tmp_path / "new", path)
    old = path.with_name(".replay.old")
    for look in (lambda: v.read_vault(path), lambda: v.find_vault("lbf/toy", "replay", [tmp_path])):
        with pytest.raises(UserError, match=f"restore it: mv {old} {path}"):
            look()
    old.rename(path)
    assert v.identity(path) == before
    save(tmp_path, 1, "lbf/toy")
    assert not old.exists() and v.identity(path) != before


def test_manifest_finds_corruption(tmp_path):
    for seed, task, quality in (
        (1, "lbf/toy", "replay"),
        (2, "rware/toy", "replay"),
        (3, "rware/toy", "good"),
    ):
        save(tmp_path, seed, task, quality)
    listed = json.loads(v.update_manifest(tmp_path).read_text())["vaults"]
    assert v.verify(tmp_path) == ["lbf/toy/replay", "rware/toy/good", "rware/toy/replay"] == list(listed)
    assert listed["lbf/toy/replay"]["steps"] == 200 and "mean" in listed["lbf/toy/replay"]["returns"]
    assert v.verify(tmp_path, "rware/toy") == ["rware/toy/good", "rware/toy/replay"]

    data = max((tmp_path / "rware/toy.vlt/good/d").iterdir(), key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    with pytest.raises(UserError, match=data.name):
        v.verify(tmp_path)
    assert v.verify(tmp_path, "rware/toy/replay") == ["rware/toy/replay"]
    v.update_manifest(tmp_path)  # of the damaged file
    with pytest.raises(UserError, match="not those that metadata.json tells of|corrupt|read"):
        v.verify(tmp_path, "rware/toy/good")
    data.unlink()
    with pytest.raises(UserError, match="missing"):
        v.verify(tmp_path, "rware/toy/good")
    with pytest.raises(UserError, match="no vault 'lbf/none'"):
        v.verify(tmp_path, "lbf/none")
    with pytest.raises(UserError, match="not found"):
        v.verify(tmp_path / "lbf")


def test_an_interrupted_manifest_leaves_the_old_one(tmp_path, monkeypatch):
    save(tmp_path)
    manifest = v.update_manifest(tmp_path)
    old = manifest.read_text()
    save(tmp_path, 2, quality="good")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    with pytest.raises(OSError):
        v.update_manifest(tmp_path)
    assert manifest.read_text() == old and not list(tmp_path.glob(".manifest*"))


def test_references_are_kept_per_task(tmp_path):
    assert v.read_references(tmp_path) == {}
    v.write_reference(tmp_path, "rware/tiny-4ag", {"reference": np.float32(8.5), "random": 0.25})
    file = v.write_reference(tmp_path, "lbf/8x8-2p-2f", {"reference": 1})
    v.write_reference(tmp_path, "lbf/8x8-2p-2f", {"reference": 0.5})
    expected = {"rware/tiny-4ag": {"reference": 8.5, "random": 0.25}, "lbf/8x8-2p-2f": {"reference": 0.5}}
    assert v.read_references(tmp_path) == expected and v.list_vaults(tmp_path) == {}
    file.write_text("{")
    with pytest.raises(UserError, match=file.name):
        v.read_references(tmp_path)


def test_finding_a_vault(tmp_path, monkeypatch):
    path, _ = save(tmp_path / "b")
    assert v.find_vault("lbf/toy", "replay", [tmp_path / "a", tmp_path / "b"]) == path
    monkeypatch.setenv("MTMARL_VAULTS", str(tmp_path / "b"))
    assert v.find_vault("lbf/toy", "replay") == path
    with pytest.raises(UserError) as error:
        v.find_vault("lbf/none", "replay", [tmp_path])
    assert str(tmp_path / "lbf/none.vlt/replay") in str(error.value)
    assert "python -m mtmarl.collect +algo=sable +tasks=lbf/none" in str(error.value)
    assert "there is" not in str(error.value)
    with pytest.raises(
        UserError, match="there is replay: add data.quality=replay;.*data.vault_dir=FOLDER, a new one"
    ):
        v.find_vault("lbf/toy", "expert", [tmp_path / "b"])


def test_command_line(tmp_path, capsys):
    path, _ = save(tmp_path)
    v.update_manifest(tmp_path)
    root = ["--root", str(tmp_path)]
    assert cli.main(["ls", *root]) == 0 and "lbf/toy/replay" in capsys.readouterr().out
    assert (
        cli.main(["describe", "lbf/toy", "--out", str(tmp_path / "out"), *root]) == 0
        and "episode_return" in capsys.readouterr().out
    )
    assert cli.main(["verify", *root]) == 0 and "ok  lbf/toy/replay" in capsys.readouterr().out
    (path / "metadata.json").write_text("{}")
    assert cli.main(["verify", *root]) == 2 and "metadata.json" in capsys.readouterr().err
    assert cli.main(["describe", "lbf/none", *root]) == 2


def test_writers_of_one_vault_take_turns(tmp_path, monkeypatch):
    """Two that move theirs into one place at once: each moves a whole vault, and nothing else is left."""
    path, _ = save(tmp_path)
    real, at_once, most = store.replace_folder, [], []

    def slow(new, to):
        at_once.append(1)
        most.append(len(at_once))
        time.sleep(0.3)
        real(new, to)
        at_once.pop()

    monkeypatch.setattr(store, "replace_folder", slow)
    with ThreadPoolExecutor() as pool:
        recordings = list(pool.map(lambda seed: save(tmp_path, seed)[1], (1, 2)))
    assert most == [1, 1]
    assert any(np.array_equal(v.read_vault(path).recording.obs, r.obs) for r in recordings)
    assert [p.name for p in path.parent.iterdir() if p.is_dir()] == ["replay"]
