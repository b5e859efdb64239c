"""A run goes on under the configuration that it began with, whatever options have been added since."""

import json
import shutil

import pytest

from mtmarl import build, config
from mtmarl.data import vault
from mtmarl.errors import UserError


def test_only_what_changes_the_result_must_be_the_same(tmp_path):
    compose = lambda *more: config.compose(["+algo=mt_oryx", "+tasks=lbf_5", *more], "train")
    assert build.earlier_run(tmp_path, compose()) is None
    record = {"config": config.to_dict(compose())}
    # A record from before these options existed.
    for path in (("seeds",), ("distributed",), ("data", "memory_mb")):
        *groups, key = path
        (record["config"][groups[0]] if groups else record["config"]).pop(key)
    (tmp_path / "run.json").write_text(json.dumps(record))
    for more in ((), ("data.memory_mb=100",), ("distributed=true",), ("quiet=true",), ("tasks.first=5",)):
        assert build.earlier_run(tmp_path, compose(*more)) == record
    for more, named in (
        ("seed=1", "seed"),
        ("algo.gamma=0.5", "algo.gamma"),
        ("algo.network.heads=2", "algo.network.heads"),
        ("data.fraction=0.5", "data.fraction"),
        ("tasks.first=4", "tasks.first"),
    ):
        with pytest.raises(UserError, match=rf"other settings \({named}\)"):
            build.earlier_run(tmp_path, compose(more))
    assert build.earlier_run(tmp_path, compose("data.fraction=0.5"), free=("data",)) == record


def test_a_run_goes_on_with_what_it_was_made_of(tmp_path, micro_vaults):
    vaults = tmp_path / "vaults"
    shutil.copytree(micro_vaults, vaults)
    policy = tmp_path / "start" / "policy_best"
    policy.mkdir(parents=True)
    (policy / "params").write_bytes(b"1")
    options = ["+algo=mt_oryx", "+tasks=micro", f"data.vault_dir={vaults}", f"init_from={tmp_path / 'start'}"]
    cfg = config.compose(options, "train")
    (tmp_path / "start" / "run.json").write_text(json.dumps({"config": config.to_dict(cfg)}))
    record = {"config": config.to_dict(cfg)}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert build.earlier_run(tmp_path, cfg) == record, "it does not say what it is made of"

    first, second = cfg.tasks.train
    record["origins"] = build.read_origins(cfg, [first, second])
    assert len(set(record["origins"].values())) == 3
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert build.earlier_run(tmp_path, cfg) == record
    (policy / "params").write_bytes(b"2")
    path = vault.vault_path(vaults, first, "replay")
    recording, known, _ = vault.read_vault(path)
    about = {"task": first, "horizon": known["dims"]["horizon"], "obs_scale": known["obs_scale"]}
    vault.write_vault(path, recording._replace(policy_step=recording.policy_step + 1), about)
    with pytest.raises(UserError, match=rf"other data \({first}, init_from\)"):
        build.earlier_run(tmp_path, cfg)


def test_what_a_policy_had_played(tmp_path):
    """As far as the checkpoint went that is begun with, not the whole run."""
    compose = lambda command, *more: config.compose(["+algo=sable", "+tasks=lbf_5", *more], command)
    steps = lambda which: (
        build.read_start(compose("train", f"init_from={tmp_path}", f"which={which}")).env_steps
    )
    earlier = compose("collect", "collect.num_envs=4", "collect.rollout_length=10", "collect.env_steps=1000")
    record = {"kind": "collect", "config": config.to_dict(earlier)}
    (tmp_path / "run.json").write_text(json.dumps(record))
    returns = [{"update": 0, "return": 0.1}, {"update": 5, "return": 0.7}, {"update": 20, "return": 0.4}]
    (tmp_path / "progress.json").write_text(json.dumps({"evaluations": returns}))
    assert (steps("best"), steps("last")) == (200, 800)

    trained = {"kind": "train", "config": config.to_dict(earlier), "counts": {"env_steps": 90}}
    (tmp_path / "run.json").write_text(json.dumps(trained))
    (tmp_path / "best.json").write_text(json.dumps({"update": 3, "counts": {"env_steps": 30}}))
    assert (steps("best"), steps("last")) == (30, 90)
