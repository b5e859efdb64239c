"""Training on data from a hub: told how to get them, fetched on request, and no different from local ones."""

import json

import jax
import numpy as np
import pytest

import mtmarl
from mtmarl import train
from mtmarl import vault as cli
from mtmarl.data import publish
from mtmarl.data.vault import find_vault
from mtmarl.errors import UserError
from tests.hub_server import running

SMALL = [
    "+algo=mt_oryx", "algo.network.embed_dim=16", "algo.network.heads=2", "+tasks=micro", "quiet=true",
    "trainer.updates=4", "trainer.chunk=2", "trainer.checkpoint_every=4", "trainer.batch_size=8", "trainer.context=5",
    "evaluator.every=4", "evaluator.episodes=4", "evaluator.final_episodes=4",
]  # fmt: skip
TASK = "lbf/5x5-2p-1f-t20"


@pytest.fixture
def address(micro_vaults, monkeypatch):
    with running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.create("lab/micro")
        yield publish.push("hf://datasets/lab/micro", micro_vaults, say=lambda line: None)


def test_a_missing_vault_names_its_place_and_three_ways(address, tmp_path, capsys):
    place = tmp_path / "my vaults"
    options = [*SMALL, f"data.vault_dir={place}", f"run_dir={tmp_path / 'run'}", f"hub.url={address}"]
    assert train.main(options) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and str(place / "lbf/5x5-2p-1f-t20.vlt/replay") in error
    with pytest.raises(UserError, match=f"tasks={TASK} collect.single_policies=true 'data.vault_dir"):
        find_vault(TASK, "expert", [place])
    for way in (
        f"python -m mtmarl.vault pull {TASK}/replay --hub {address} --root '{place}'",
        f"data.download=true hub.url={address}",
        f"python -m mtmarl.collect +algo=sable +tasks={TASK} data.quality=replay 'data.vault_dir={place}'",
    ):
        assert way in error, way
    assert not place.exists() and not (tmp_path / "run").exists()
    # The first of them is a command that works.
    assert cli.main(["pull", f"{TASK}/replay", "--hub", address, "--root", str(place)]) == 0
    assert train.main(options) == 2 and "lbf/6x6-3p-1f-t20" in capsys.readouterr().err


def test_downloaded_data_train_the_same_parameters(address, micro_vaults, tmp_path, capsys):
    runs = {}
    for name, more in (
        ("local", [f"data.vault_dir={micro_vaults}"]),
        ("pulled", [f"data.vault_dir={tmp_path / 'pulled'}", "data.download=true", f"hub.url={address}"]),
    ):
        runs[name] = tmp_path / name / "run"
        assert train.main([*SMALL, *more, f"run_dir={runs[name]}"]) == 0, capsys.readouterr().err
    params = [mtmarl.load_policy(run, "last").params for run in runs.values()]
    jax.tree.map(np.testing.assert_array_equal, *params)
    references = [json.loads((run / "run.json").read_text())["references"] for run in runs.values()]
    assert references[0] == references[1] != {}
    # Where the data came from is not a setting of the run: it goes on without the hub.
    again = [*SMALL, f"data.vault_dir={tmp_path / 'pulled'}", f"run_dir={runs['pulled']}"]
    assert train.main(again) == 0 and "already finished" in capsys.readouterr().out


def test_nothing_is_fetched_unasked_or_from_nowhere(address, tmp_path, capsys):
    options = [*SMALL, f"data.vault_dir={tmp_path / 'x'}", f"run_dir={tmp_path / 'run'}"]
    assert train.main([*options, "data.download=true"]) == 2
    assert "hub.url" in capsys.readouterr().err
    assert train.main([*options, "data.download=true", f"hub.url={address}", "data.quality=expert"]) == 2
    assert "no vault 'lbf/5x5-2p-1f-t20/expert'" in capsys.readouterr().err
    assert not list(tmp_path.rglob("metadata.json"))
