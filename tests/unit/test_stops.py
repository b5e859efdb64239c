"""Signals during training: what was computed is saved, a second signal ends the process at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mtmarl import stops
from mtmarl.training import loop
from mtmarl.types import example_batch
from tests.unit.test_divergence import DIMS, make

PLAN = loop.Plan(0, 8, 2, 4)


def run(state=None, **options):
    algo, source = make(weight=lambda w, step: w * 1.5 + step)
    state = loop.initial_state(algo, source, example_batch(DIMS), 0) if state is None else state
    return loop.train(algo, {"default": source}, PLAN, state, **options)


def received(request):
    """Waits for the signal. It never comes where it is ignored, as SIGINT is in the background of a shell."""
    until = time.monotonic() + 30
    while request.signum is None:
        assert time.monotonic() < until, "the signal did not arrive"
        time.sleep(0.001)


@pytest.mark.parametrize("at", [2, 4, 8])
def test_the_state_is_saved_at_the_next_boundary(at, capfd):
    """Whether a checkpoint is due there or not, and once alone; from it training goes on to the same end."""
    whole, saved = run(), []
    with pytest.raises(stops.Stopped) as caught, stops.awaited(Path("a"), "it goes on") as request:

        def log(update, metrics):
            if update == at - PLAN.chunk or at == PLAN.chunk:
                os.kill(os.getpid(), signal.SIGTERM)
                received(request)

        keep = lambda state: saved.append(jax.tree.map(np.asarray, state))
        run(save=keep, log=log, stop=request)
    assert caught.value.signum == signal.SIGTERM
    updates = [int(s.update) for s in saved]
    assert caught.value.saved == f"after update {updates[-1]}, saved in a"
    assert updates == sorted(set(updates)) and at <= updates[-1] <= at + PLAN.chunk
    assert "the state is saved after this chunk" in capfd.readouterr().err
    ended = run(saved[-1])
    jax.tree.map(np.testing.assert_array_equal, ended.learner.params, whole.learner.params)


def test_handlers_are_put_back_and_a_late_signal_counts():
    before = [signal.getsignal(s) for s in stops.SIGNALS]
    with stops.awaited(Path("a"), ""):
        assert [signal.getsignal(s) for s in stops.SIGNALS] != before
    assert [signal.getsignal(s) for s in stops.SIGNALS] == before
    with pytest.raises(stops.Stopped), stops.awaited(Path("a"), "") as request:
        os.kill(os.getpid(), signal.SIGINT)
        received(request)
    assert [signal.getsignal(s) for s in stops.SIGNALS] == before


BUSY = """
import hashlib, signal, sys
from pathlib import Path
from mtmarl import stops
signal.signal(signal.SIGINT, signal.default_int_handler)
with stops.awaited(Path("a"), "it goes on"):
    print("begun", flush=True)
    # As a compiler does, this returns to Python only at its end.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""


def test_a_second_signal_ends_a_process_that_runs_no_python():
    """Those that come together are one request."""
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline() == "\n" and "repeat the signal" in process.stderr.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(stops.ONE_REQUEST_SECONDS + 0.2)
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read() == "\nstopped immediately; it goes on\n"
        assert process.wait() == 143


def test_ignored_signals_stay_ignored():
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom mtmarl import stops\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "stops.raise_stopped()\n"
        "with stops.awaited(Path('a'), ''):\n    os.kill(os.getpid(), signal.SIGHUP)\n"
        "os.kill(os.getpid(), signal.SIGHUP)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stderr == b""
