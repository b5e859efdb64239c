"""Parameters on disk, whatever moment a process is killed at."""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.checkpoint import load_matching, load_params, save_params
from mtmarl.errors import UserError

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
