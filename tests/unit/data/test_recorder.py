"""Steps of a simulator's own loop become a vault; a kill loses the unfinished episode only."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import mtmarl
from mtmarl.data import vault
from mtmarl.errors import UserError

LENGTHS = (4, 6, 6, 3)
HORIZON = 6


def steps(lengths=LENGTHS, agents=2):
    """(obs, action, reward, action_mask, terminated) of whole episodes; those of full length end by the time limit."""
    rng = np.random.default_rng(0)
    for length in lengths:
        for t in range(length):
            mask = rng.random((agents, 3)) < 0.7
            mask[:, 0] = True
            action = (mask * rng.random(mask.shape)).argmax(1)
            yield rng.normal(size=(agents, 5)), action, float(t), mask, length < HORIZON and t == length - 1


def feed(recorder, rows):
    for obs, action, reward, mask, terminated in rows:
        recorder.step(obs, action, reward, action_mask=mask, terminated=terminated)


def test_what_is_recorded_is_what_was_seen(tmp_path):
    with mtmarl.Recorder(tmp_path, "sim/n2", HORIZON, flush_every=2) as recorder:
        feed(recorder, steps())
        assert recorder.episodes == len(LENGTHS)
    r, metadata, _ = mtmarl.read_vault(vault.vault_path(tmp_path, "sim/n2", "replay"))
    obs, action, reward, mask, terminated = (np.asarray(x) for x in zip(*steps(), strict=True))
    np.testing.assert_array_equal(r.obs, obs.astype(np.float32))
    np.testing.assert_array_equal(r.action, action)
    np.testing.assert_array_equal(r.mask, mask)
    np.testing.assert_array_equal(r.reward, reward)
    np.testing.assert_array_equal(r.terminal, terminated)
    assert np.flatnonzero(r.truncated).tolist() == [9, 15] and metadata["episodes"] == len(LENGTHS)
    assert not list(tmp_path.rglob("*recorded*")), "the parts are gone"


def test_the_same_vault_as_from_arrays(tmp_path):
    with mtmarl.Recorder(tmp_path / "a", "sim/n2", HORIZON) as recorder:
        feed(recorder, steps())
    obs, action, reward, mask, terminated = (np.asarray(x) for x in zip(*steps(), strict=True))
    ends = np.cumsum(LENGTHS) - 1
    truncated = np.isin(np.arange(len(reward)), ends) & ~terminated
    path = mtmarl.write_vault(
        tmp_path / "b", "sim/n2", obs=obs, action=action, reward=reward, action_mask=mask, terminated=terminated,
        truncated=truncated, horizon=HORIZON,
    )  # fmt: skip
    one = vault.read_vault(vault.vault_path(tmp_path / "a", "sim/n2", "replay"))
    assert one.metadata["contents"] == vault.read_vault(path).metadata["contents"]


def test_a_kill_loses_the_unfinished_episode_only(tmp_path):
    code = (
        "import sys, os, signal; sys.path.insert(0, sys.argv[2])\n"
        "import mtmarl\n"
        "from tests.unit.data.test_recorder import feed, steps, HORIZON\n"
        "recorder = mtmarl.Recorder(sys.argv[1], 'sim/n2', HORIZON, flush_every=1)\n"
        "feed(recorder, list(steps())[:12])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path, os.getcwd()], check=False, capture_output=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with mtmarl.Recorder(tmp_path, "sim/n2", HORIZON) as recorder:
        assert recorder.episodes == 2
        feed(recorder, list(steps())[10:])
    r = mtmarl.read_vault(vault.vault_path(tmp_path, "sim/n2", "replay")).recording
    np.testing.assert_array_equal(r.obs, np.asarray([row[0] for row in steps()], np.float32))


def test_an_error_in_the_loop_keeps_finished_episodes(tmp_path):
    with pytest.raises(ZeroDivisionError), mtmarl.Recorder(tmp_path, "sim/n2", HORIZON) as recorder:
        feed(recorder, list(steps())[:5])
        raise ZeroDivisionError
    with mtmarl.Recorder(tmp_path, "sim/n2", HORIZON) as recorder:
        assert recorder.episodes == 1


def test_two_recorders_of_one_vault(tmp_path):
    with mtmarl.Recorder(tmp_path, "sim/n2", HORIZON) as recorder:
        feed(recorder, steps())
        with pytest.raises(UserError, match="another process records it"):
            mtmarl.Recorder(tmp_path, "sim/n2", HORIZON)
    with pytest.raises(UserError, match="is there already"):
        mtmarl.Recorder(tmp_path, "sim/n2", HORIZON)


GOOD = (np.zeros((2, 5)), np.zeros(2, int), 0.0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({0: np.zeros((3, 5))}, r"step 1: obs has shape \(3, 5\) and action \(2,\)"),
        ({0: np.zeros((2, 4))}, r"step 1: obs has shape \(2, 4\), and had \(2, 5\) before"),
        ({0: np.full((2, 5), np.nan)}, "step 1: obs is not finite"),
        ({2: np.inf}, "step 1: reward is not finite"),
        ({1: np.asarray([0, -1])}, r"step 1: action \[0, -1\]; expected indices"),
        ({1: np.zeros(2)}, "expected indices"),
    ],
)
def test_wrong_steps_are_one_line_and_are_not_recorded(tmp_path, changed, message):
    with mtmarl.Recorder(tmp_path, "sim/n2", HORIZON) as recorder:
        recorder.step(*GOOD)
        with pytest.raises(UserError, match=message):
            recorder.step(*(changed.get(i, value) for i, value in enumerate(GOOD)))
        recorder.step(*GOOD, terminated=True)
    assert len(mtmarl.read_vault(vault.vault_path(tmp_path, "sim/n2", "replay")).recording.reward) == 2


def test_a_mask_that_is_not_given_at_every_step(tmp_path):
    recorder = mtmarl.Recorder(tmp_path, "sim/n2", HORIZON)
    recorder.step(*GOOD, action_mask=np.ones((2, 3)))
    for mask, given in ((None, "none"), (np.ones((2, 4)), r"\(2, 4\)")):
        with pytest.raises(
            UserError, match=rf"step 1: action_mask has shape {given}, and had \(2, 3\) before"
        ):
            recorder.step(*GOOD, action_mask=mask)
    recorder.close()


def test_a_damaged_part_is_named_and_holds_no_lock(tmp_path):
    with pytest.raises(ZeroDivisionError), mtmarl.Recorder(tmp_path, "sim/n2", HORIZON) as recorder:
        feed(recorder, list(steps())[:4])
        raise ZeroDivisionError
    (part,) = tmp_path.rglob("episodes_*.npz")
    whole = part.read_bytes()
    part.write_bytes(whole[:50])
    for _ in range(2):
        with pytest.raises(UserError, match=r"episodes_000000.npz: cannot be read .*; restore or remove it"):
            mtmarl.Recorder(tmp_path, "sim/n2", HORIZON)
    part.write_bytes(whole)
    with mtmarl.Recorder(tmp_path, "sim/n2", HORIZON) as recorder:
        assert recorder.episodes == 1


def test_an_illegal_action(tmp_path):
    recorder = mtmarl.Recorder(tmp_path, "sim/n2", HORIZON)
    with pytest.raises(UserError, match=r"action \[0, 0\] is not legal"):
        recorder.step(*GOOD, action_mask=np.asarray([[1, 1], [0, 1]]))
    recorder.close()
    assert not vault.has_vault(vault.vault_path(tmp_path, "sim/n2", "replay")), "nothing was recorded"
