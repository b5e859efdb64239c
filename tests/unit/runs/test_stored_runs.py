"""Runs that version 0.1.0 has left, one of training and one of collection: what reads a run reads them from now on.

Both are of lbf/5x5-2p-1f-t20 with networks 16 wide: MT Oryx after 8 updates, and online Sable after 512 env steps.
"""

import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest

import mtmarl
from mtmarl.analysis import measure, runs
from mtmarl.runs.policy import recorded_config
from mtmarl.runs.record import read_best, read_progress, read_run

TASK = "lbf/5x5-2p-1f-t20"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    place = tmp_path_factory.mktemp("stored")
    with zipfile.ZipFile(Path(__file__).with_name("runs_0.1.0.zip")) as archive:
        archive.extractall(place)
    return place


@pytest.mark.parametrize(("name", "which"), [("trained", "last"), ("collected", "best")])
def test_policies_load_and_settings_are_all_known(stored, name, which, capsys):
    policy = mtmarl.load_policy(stored / name, which)
    assert policy.layout.families == ("lbf",) and policy.config.algo["network"]["embed_dim"] == 16
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(policy.params))
    assert recorded_config(read_run(stored / name), stored / name) == policy.config
    assert capsys.readouterr().err == ""


def test_reports_read_them(stored):
    found = runs.load([stored])
    assert not found.refused
    (collected,), (trained,) = ([r for r in found.runs if r.kind == kind] for kind in ("collect", "train"))
    assert trained.returns(TASK, "last").shape == (8,) and len(trained.metrics) > 4
    assert measure.collection(collected)["env_steps"] == 512


def test_what_they_have_done_is_known(stored):
    assert [e["update"] for e in read_progress(stored / "collected")["evaluations"]] == [0, 4, 8]
    assert read_run(stored / "collected")["written"] is True
    for name in ("trained", "collected"):
        assert read_best(stored / name)["update"] in (0, 4, 8)
        assert read_run(stored / name)["counts"]["gradient_steps"] > 0
