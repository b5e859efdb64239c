"""HDF5 files of PyMARL's episode buffer, with and without the observation after the last action."""

import h5py
import numpy as np
import pytest

import mtmarl
from mtmarl.data import vault
from mtmarl.data.imports import import_files
from mtmarl.errors import UserError

LENGTHS, HORIZON, AGENTS, WIDTH, ACTIONS = (3, 5, 2, 5), 5, 2, 4, 3


def episodes(extra, terminates=True):
    """Padded arrays of episodes; those of full length end by the time limit."""
    rng, E, T = np.random.default_rng(0), len(LENGTHS), HORIZON + extra
    avail = (rng.random((E, T, AGENTS, ACTIONS)) < 0.7) | (np.arange(ACTIONS) == 0)
    filled, terminated = np.zeros((E, T, 1)), np.zeros((E, T, 1))
    for e, length in enumerate(LENGTHS):
        filled[e, : length + extra] = 1
        if terminates and length < HORIZON:
            terminated[e, length - 1] = 1
    return {
        "obs": rng.normal(size=(E, T, AGENTS, WIDTH)).astype(np.float32), "state": np.zeros((E, T, 7)),
        "actions": (avail * rng.random(avail.shape)).argmax(-1)[..., None], "avail_actions": avail.astype(np.int32),
        "reward": rng.normal(size=(E, T, 1)), "terminated": terminated, "filled": filled,
    }  # fmt: skip


def write(file, arrays, rows=slice(None)):
    file.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(file, "w") as out:
        for name, array in arrays.items():
            out[name] = array[rows]
    return file


def imported(place, tmp_path, horizon=HORIZON):
    import_files([place], tmp_path / "vaults", "sim/n2", horizon=horizon, say=lambda *_: None)
    return mtmarl.read_vault(vault.vault_path(tmp_path / "vaults", "sim/n2", "replay"))


@pytest.mark.parametrize("extra", [0, 1])
def test_the_steps_of_each_episode_one_after_the_other(tmp_path, extra):
    arrays = episodes(extra)
    for i in range(2):
        write(tmp_path / f"data/part_{i}.h5", arrays, slice(2 * i, 2 * i + 2))
    r = imported(tmp_path / "data", tmp_path).recording
    steps = [(e, t) for e, length in enumerate(LENGTHS) for t in range(length)]
    at = tuple(np.asarray(steps).T)
    np.testing.assert_array_equal(r.obs, arrays["obs"][at])
    np.testing.assert_array_equal(r.action, arrays["actions"][at][..., 0])
    np.testing.assert_array_equal(r.mask, arrays["avail_actions"][at] > 0)
    np.testing.assert_allclose(r.reward, arrays["reward"][at][:, 0], rtol=1e-6)
    ends = np.cumsum(LENGTHS) - 1
    assert np.flatnonzero(r.terminal).tolist() == ends[[0, 2]].tolist()
    assert np.flatnonzero(r.truncated).tolist() == ends[[1, 3]].tolist()


@pytest.mark.parametrize("extra", [0, 1])
def test_where_nothing_terminates_the_time_limit_decides(tmp_path, extra):
    arrays = {name: x[[1, 3]] for name, x in episodes(extra, terminates=False).items()}
    file = write(tmp_path / "one.h5", arrays)
    assert len(imported(file, tmp_path).recording.reward) == 2 * HORIZON
    with pytest.raises(UserError, match="no episode terminates; give --horizon"):
        imported(file, tmp_path / "again", horizon=None)


def changed(name, change):
    arrays = episodes(1)
    arrays[name] = change(arrays[name].copy())
    return arrays


def at(index, value):
    def change(x):
        x[index] = value
        return x

    return change


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({k: v for k, v in episodes(1).items() if k != "filled"}, "no filled; it has actions, avail_actions"),
        (changed("actions", lambda x: x[..., 0]), r"actions has shape \(4, 6, 2\); obs of"),
        (changed("filled", at((0, 1), 0)), r"filled\[0, 2\] follows a step that is not filled"),
        (changed("filled", at((2, 2), 0)), "some episodes have a step after termination and some have none"),
        (changed("filled", at((0, 4), 1)), "goes on for more than one step after it terminated"),
        (changed("obs", at((1, 2, 0, 3), np.nan)), r"obs\[5, 0, 3\] is not finite"),
    ],
)
def test_wrong_files_are_one_line_and_nothing_is_written(tmp_path, arrays, message):
    file = write(tmp_path / "one.h5", arrays)
    with pytest.raises(UserError, match=message):
        imported(file, tmp_path)
    assert not (tmp_path / "vaults/sim").exists()


def test_a_damaged_file(tmp_path):
    (tmp_path / "bad.h5").write_bytes(b"\x89HDF nothing")
    with pytest.raises(UserError, match=r"bad.h5: cannot be read"):
        imported(tmp_path / "bad.h5", tmp_path)
    words = write(tmp_path / "words.h5", changed("terminated", lambda x: x.astype("S1")))
    with pytest.raises(UserError, match=r"words.h5: cannot be read"):
        imported(words, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no part_\*.h5 here"):
        imported(tmp_path / "empty", tmp_path)
