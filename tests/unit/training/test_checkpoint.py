"""Parameters on disk, whatever moment a process is killed at."""

import gc
import resource
import shutil
import signal
import sys
import tracemalloc
from contextlib import contextmanager

import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.errors import UserError
from mtmarl.training.checkpoint import (
    Checkpoints,
    Damaged,
    load_matching,
    load_params,
    newest_whole,
    save_params,
)

LIKE = {"head": {"kernel": jnp.zeros(2)}}


def params(value):
    return {"head": {"kernel": jnp.full(2, value)}}


def test_a_kill_between_two_renames_loses_no_policy(tmp_path, monkeypatch):
    path = tmp_path / "policy_best"
    save_params(path, params(1.0))
    rename, calls = type(path).rename, []

    def die_at_second(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "rename", die_at_second)
        with pytest.raises(KeyboardInterrupt):
            save_params(path, params(2.0))
    assert not path.exists()
    np.testing.assert_array_equal(load_params(path, LIKE)["head"]["kernel"], 2.0)
    np.testing.assert_array_equal(load_matching(path, LIKE).params["head/kernel"], 2.0)
    save_params(path, params(3.0))
    np.testing.assert_array_equal(load_params(path, LIKE)["head"]["kernel"], 3.0)
    assert [p.name for p in tmp_path.iterdir()] == ["policy_best"]


@pytest.mark.parametrize("lost", ["_METADATA", "manifest.ocdbt", "d"])
def test_a_policy_that_was_half_copied_is_said_in_one_line(tmp_path, lost):
    path = tmp_path / "policy_best"
    save_params(path, params(1.0))
    there = path / lost
    shutil.rmtree(there) if there.is_dir() else there.unlink()
    for load in (load_params, load_matching):
        with pytest.raises(UserError, match="policy_best: this policy is not whole"):
            load(path, LIKE)


def test_half_written_parameters_are_none(tmp_path):
    path = tmp_path / "policy_best"
    save_params(tmp_path / "policy_best.new", params(1.0))
    with pytest.raises(UserError, match="no saved policy"):
        load_params(path, LIKE)
    save_params(path, params(2.0))
    np.testing.assert_array_equal(load_params(path, LIKE)["head"]["kernel"], 2.0)


def flip(file):
    """One bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def files_of(directory):
    return sorted(f for f in directory.rglob("*") if f.is_file() and f.stat().st_size)


def test_no_flipped_bit_of_a_policy_is_loaded(tmp_path):
    save_params(tmp_path / "whole", params(1.0))
    for i, file in enumerate(files_of(tmp_path / "whole")):
        copy = shutil.copytree(tmp_path / "whole", tmp_path / f"copy{i}")
        flip(copy / file.relative_to(tmp_path / "whole"))
        for load in (load_params, load_matching):
            with pytest.raises(UserError, match=f"copy{i}: this policy is not whole .*; copy it again"):
                load(copy, LIKE)


def test_a_policy_of_an_earlier_version_has_no_checksums(tmp_path):
    save_params(tmp_path / "p", params(1.0))
    (tmp_path / "p" / "checksums.json").unlink()
    np.testing.assert_array_equal(load_params(tmp_path / "p", LIKE)["head"]["kernel"], 1.0)


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for update in (4, 8):
        checkpoints.save(update, params(float(update)))
    yield checkpoints
    checkpoints.close()


newest = lambda updates: max(updates[0], default=None)


def test_whole_states_are_gone_on_from(saved):
    update, states, damaged = newest_whole([(saved, LIKE)], newest)
    assert (update, damaged) == (8, []) and saved.updates() == [4, 8]
    np.testing.assert_array_equal(states[0]["head"]["kernel"], 8.0)


@pytest.mark.parametrize("checksums", [True, False])
def test_the_newest_whole_state_is_gone_on_from(saved, checksums):
    if not checksums:
        (saved.directory / "8" / "checksums.json").unlink()
        shutil.rmtree(saved.directory / "8" / "default")
    else:
        flip(next(f for f in files_of(saved.directory / "8") if "/d/" in f.as_posix()))
    update, states, (line,) = newest_whole([(saved, LIKE)], newest)
    assert update == 4 and "checkpoints/8: this checkpoint is damaged" in line and "\n" not in line
    np.testing.assert_array_equal(states[0]["head"]["kernel"], 4.0)
    assert saved.updates() == [4], "its place is free for the same update again"
    saved.save(8, params(9.0))
    np.testing.assert_array_equal(saved.restore(LIKE, 8)["head"]["kernel"], 9.0)


def test_where_no_state_is_whole_nothing_is_removed(saved):
    for update in ("4", "8"):
        flip(saved.directory / update / "checksums.json")
    with pytest.raises(Damaged, match="remove all checkpoints to start again"):
        newest_whole([(saved, LIKE)], newest)
    assert saved.updates() == [4, 8]


def test_saving_keeps_no_memory(tmp_path):
    """TensorStore's answers on what it counted stayed in memory: 17 kB a save as Python counts, 100 kB in all."""
    checkpoints = Checkpoints(tmp_path)
    state = {"w": jnp.zeros((8, 8)), "b": jnp.zeros(3)}
    first = 0
    tracemalloc.start()
    try:
        for update in range(40):
            checkpoints.save(update, state)
            if update in (9, 39):
                gc.collect()
                held = tracemalloc.get_traced_memory()[0]
                first = first or held
    finally:
        tracemalloc.stop()
        checkpoints.close()
    assert (held - first) / 30 < 6_000


@contextmanager
def no_room(size=200):
    """Files cannot grow, as on a full disk."""
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_an_error_of_a_file_and_leaves_what_was_there(tmp_path, monkeypatch):
    for hook in ("excepthook", "unraisablehook"):  # Orbax's tasks go on telling of it.
        monkeypatch.setattr(sys, hook, getattr(sys, hook))
    random = {"head": {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=5000))}}
    save_params(tmp_path / "policy_best", params(1.0))
    saved = Checkpoints(tmp_path)
    saved.save(1, params(1.0))
    with no_room():
        with pytest.raises(OSError, match="policy_best"):
            save_params(tmp_path / "policy_best", random)
        with pytest.raises(OSError, match="checkpoints/2"):
            saved.save(2, random)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "policy_best"]
    saved.close()
    again = Checkpoints(tmp_path)
    assert again.updates() == [1]
    np.testing.assert_array_equal(again.restore(LIKE, 1)["head"]["kernel"], 1.0)
    again.save(2, params(2.0))
    again.close()
    np.testing.assert_array_equal(load_params(tmp_path / "policy_best", LIKE)["head"]["kernel"], 1.0)
    save_params(tmp_path / "policy_best", params(3.0))
    np.testing.assert_array_equal(load_params(tmp_path / "policy_best", LIKE)["head"]["kernel"], 3.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "policy_best"]
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["1", "2"]


def test_a_policy_whose_files_lie_behind_a_link_is_whole(tmp_path):
    path = tmp_path / "policy_best"
    save_params(path, params(1.0))
    folder = next(p for p in sorted(path.iterdir()) if p.is_dir())
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    np.testing.assert_array_equal(load_params(path, LIKE)["head"]["kernel"], 1.0)
    shutil.rmtree(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="not whole"):
        load_params(path, LIKE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_policy_that_is_not_finite_is_refused(tmp_path, value):
    """As one that an earlier version saved of a run that diverged."""
    save_params(tmp_path / "policy_last", params(value))
    for load in (load_params, load_matching):
        with pytest.raises(UserError, match="parameter head/kernel is not finite; its run diverged"):
            load(tmp_path / "policy_last", LIKE)
