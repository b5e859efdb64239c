"""Several seeds in one program leave what each would have left alone."""

import json

import jax
import numpy as np
import pytest

import mtmarl
from mtmarl import report, train
from mtmarl.training.checkpoint import Checkpoints
from tests.e2e.test_train import arguments


def lines(run_dir):
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "updates_per_second"} for row in rows]


def final(run_dir):
    return json.loads((run_dir / "final.json").read_text())


def test_each_is_as_if_alone_also_after_a_stop(micro_vaults, tmp_path, monkeypatch, capsys):
    alone, together = tmp_path / "alone", tmp_path / "together"
    options = ("evaluator.final_episodes=4", "data.shuffle_agents=true")
    assert train.main(arguments(micro_vaults, alone, *options, "seed=1")) == 0
    both = arguments(micro_vaults, together, *options, "seeds=[0,1]")
    save = Checkpoints.save

    def die_between(self, update, state):
        if update == 8 and "seed_1" in str(self.directory):
            raise KeyboardInterrupt
        save(self, update, state)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", die_between)
        with pytest.raises(KeyboardInterrupt):
            train.main(both)
    assert not (together / "seed_0" / "final.json").exists()
    assert train.main(both) == 0

    # Sums in another order; where a gradient is nearly zero, Adam makes a visible part of a step of it.
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    policy = lambda path: mtmarl.load_policy(path, "last").params
    jax.tree.map(close, policy(together / "seed_1"), policy(alone))
    first, second = (jax.tree.leaves(policy(together / f"seed_{s}")) for s in (0, 1))
    assert any(not np.allclose(a, b) for a, b in zip(first, second, strict=True))
    for got, want in zip(lines(together / "seed_1"), lines(alone), strict=True):
        assert got.keys() == want.keys()
        close([got[k] for k in want], [want[k] for k in want])
    for which in ("best", "last"):
        tasks = final(together / "seed_1")[which]["tasks"]
        assert tasks.keys() == final(alone)[which]["tasks"].keys()
        assert {len(t["return"]) for t in tasks.values()} == {4}
    record = json.loads((together / "seed_1" / "run.json").read_text())
    assert (record["seed"], record["config"]["seeds"]) == (1, None)

    assert report.main([str(together), "--out", str(tmp_path / "report")]) == 0
    assert "2 seeds" in (tmp_path / "report" / "report.md").read_text()
    capsys.readouterr()
    assert train.main(both) == 0, "a finished set is left alone"
    assert capsys.readouterr().out.count("already finished") == 2
    # What one seed left, a run of that seed goes on with.
    assert train.main(arguments(micro_vaults, together / "seed_1", *options, "seed=1")) == 0
    assert "already finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("seeds=[0,0]", "hold different entries"),
        ("seeds=[]", "hold different entries"),
        ("seeds=[-1]", "0 … 2147483647"),
    ],
)
def test_mistakes(micro_vaults, tmp_path, capsys, option, message):
    assert train.main(arguments(micro_vaults, tmp_path, option)) == 2
    assert message in capsys.readouterr().err
