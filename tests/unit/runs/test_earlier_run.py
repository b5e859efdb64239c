"""A run goes on under the configuration that it began with, whatever options have been added since."""

import json
import shutil
from dataclasses import asdict, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl import build, config
from mtmarl.data import vault
from mtmarl.errors import UserError
from mtmarl.networks.sable import Sable
from mtmarl.random_streams import RULE
from mtmarl.runs import resume
from mtmarl.runs.policy import load_policy, read_saved, recorded_config
from mtmarl.runs.record import read_run
from mtmarl.training.checkpoint import save_params
from mtmarl.types import example_batch


def test_only_what_changes_the_result_must_be_the_same(tmp_path):
    compose = lambda *more: config.compose(["+algo=mt_oryx", "+tasks=lbf_5", *more], "train")
    assert resume.earlier_run(tmp_path, compose()) is None
    record = {"config": config.to_dict(compose())}
    # A record from before these options existed.
    for path in (("seeds",), ("distributed",), ("data", "memory_mb")):
        *groups, key = path
        (record["config"][groups[0]] if groups else record["config"]).pop(key)
    (tmp_path / "run.json").write_text(json.dumps(record))
    for more in ((), ("data.memory_mb=100",), ("distributed=true",), ("quiet=true",), ("tasks.first=5",)):
        assert resume.earlier_run(tmp_path, compose(*more)) == record
    for more, named in (
        ("seed=1", "seed"),
        ("algo.gamma=0.5", "algo.gamma"),
        ("algo.network.heads=2", "algo.network.heads"),
        ("data.fraction=0.5", "data.fraction"),
        ("tasks.first=4", "tasks.first"),
    ):
        with pytest.raises(UserError, match=rf"other settings \({named}\)"):
            resume.earlier_run(tmp_path, compose(more))


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
    assert resume.earlier_run(tmp_path, cfg) == record, "it does not say what it is made of"

    first, second = cfg.tasks.train
    record["origins"] = resume.read_origins(cfg, [first, second])
    assert len(set(record["origins"].values())) == 3
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert resume.earlier_run(tmp_path, cfg) == record
    (policy / "params").write_bytes(b"2")
    path = vault.vault_path(vaults, first, "replay")
    recording, known, _ = vault.read_vault(path)
    about = {"task": first, "horizon": known["dims"]["horizon"], "obs_scale": known["obs_scale"]}
    vault.write_vault(path, recording._replace(policy_step=recording.policy_step + 1), about)
    with pytest.raises(UserError, match=rf"other data \({first}, init_from\)"):
        resume.earlier_run(tmp_path, cfg)


def test_what_a_policy_had_played(tmp_path):
    """As far as the checkpoint went that is begun with, not the whole run."""
    compose = lambda command, *more: config.compose(["+algo=sable", "+tasks=lbf_5", *more], command)
    steps = lambda which: read_saved(compose("train", f"init_from={tmp_path}", f"which={which}")).env_steps
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


@pytest.fixture(scope="module")
def before_decoder_norm(tmp_path_factory):
    """A run of two blocks whose policy was saved before `decoder_norm` was a setting."""
    run_dir = tmp_path_factory.mktemp("run")
    cfg = of_two_blocks("decoder_norm=every_block")
    o = build.run_spec(cfg)
    algo = build.make_algorithm(o.spec, o.settings, o.dims, o.plan.updates, (-1.0, 1.0))
    like = jax.eval_shape(algo.init, jax.random.key(0), example_batch(o.dims)).params
    params = jax.tree.map(lambda x: jax.random.normal(jax.random.key(x.size), x.shape, x.dtype), like)
    save_params(run_dir / "policy_best", params)
    record = resume.write_run(
        run_dir, cfg, "train", list(o.train_envs), [], updates=o.plan.updates, references={}, value_range=[-1.0, 1.0],
        layout=asdict(o.layout), dims={k: v for k, v in vars(o.dims).items() if k != "entities"},
    )  # fmt: skip
    del record["config"]["algo"]["network"]["decoder_norm"]
    (run_dir / "run.json").write_text(json.dumps(record))
    return run_dir, params


def of_two_blocks(*network):
    sizes = ["embed_dim=16", "heads=2", "blocks=2", *network]
    return config.compose(
        ["+algo=mt_oryx", "+tasks=lbf/5x5-2p-1f-t20", *(f"algo.network.{x}" for x in sizes)], "train"
    )


def test_a_policy_from_before_decoder_norm_acts_as_it_did(before_decoder_norm):
    run_dir, params = before_decoder_norm
    policy = load_policy(run_dir)
    assert policy.config.algo["network"]["decoder_norm"] == "every_block"
    jax.tree.map(np.testing.assert_array_equal, policy.params, params)

    def logits(cfg):
        _, settings = build.parse_algorithm(cfg, build.ALGOS)
        net = Sable.make(settings.network, policy.dims, q_bins=settings.bins)
        obs = example_batch(policy.dims, 2, 3).observation
        obs = obs._replace(obs=jax.random.normal(jax.random.key(1), obs.obs.shape))
        action = jnp.zeros(obs.agent_mask.shape, jnp.int32)
        first = jnp.zeros(action.shape[:2], bool)
        return net.window(policy.params, obs, action, first)[0].logits

    was, now, other = map(logits, (of_two_blocks("decoder_norm=every_block"), policy.config, of_two_blocks()))
    np.testing.assert_array_equal(was, now)
    assert np.abs(was - other).max() > 0.01, "the norm matters"


def test_a_run_may_begin_with_a_policy_from_before_decoder_norm(before_decoder_norm):
    run_dir, params = before_decoder_norm
    fits, other = (of_two_blocks(f"decoder_norm={form}") for form in ("every_block", "once"))
    start = read_saved(replace(fits, init_from=str(run_dir)))
    o = build.run_spec(replace(fits, init_from=str(run_dir)))
    algo = build.make_algorithm(o.spec, o.settings, o.dims, o.plan.updates, (-1.0, 1.0))
    found = start.load(fits, o.settings, algo, example_batch(o.dims))
    assert not found.fresh and not found.unused and len(found.params) == len(jax.tree.leaves(params))
    with pytest.raises(UserError, match="give algo.network.decoder_norm=every_block"):
        build.run_spec(replace(other, init_from=str(run_dir)))
    with pytest.raises(UserError, match=r"other settings \(algo.network.decoder_norm\)"):
        resume.earlier_run(run_dir, other)
    assert resume.earlier_run(run_dir, fits)


@pytest.mark.parametrize(
    ("streams", "done", "lines"),
    [({}, 4, 1), ({"streams": RULE + 1}, 4, 1), ({"streams": RULE}, 4, 0), ({}, None, 0), ({}, 8, 0)],
)
def test_a_run_that_other_random_numbers_began_says_so(tmp_path, capsys, streams, done, lines):
    resume.warn_of_replay(tmp_path, streams, done, 8)
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == lines == said.err.count("does not replay bit for bit")


def test_the_rule_of_random_streams_is_recorded(tmp_path):
    resume.write_run(tmp_path, of_two_blocks(), "train", ["lbf/5x5-2p-1f-t20"], [])
    assert read_run(tmp_path)["streams"] == RULE


def test_settings_of_other_versions_are_read(tmp_path, capsys):
    """Those that are unknown by now are named in a warning; those that are missing had the value of their time."""
    cfg = config.compose(["+algo=mt_oryx", "+tasks=lbf_5"], "train")
    recorded = config.to_dict(cfg)
    del recorded["data"]["download"], recorded["data"]["shuffle_slots"], recorded["trainer"]["chunk"]
    recorded["data"]["flavour"], recorded["speed"], recorded["algo"]["warmth"] = "sweet", 1, 2
    record = {"config": recorded}
    found = recorded_config(record, tmp_path)
    assert (found.data.download, found.data.shuffle_slots, found.trainer.chunk) == (
        False,
        False,
        cfg.trainer.chunk,
    )
    assert found.algo == cfg.algo
    said = capsys.readouterr().err
    assert "data.flavour, speed" in said and "algo.warmth" in said and said.count("\n") == 2
    (tmp_path / "run.json").write_text(json.dumps(record))
    fixed = replace(cfg, data=replace(cfg.data, shuffle_slots=False))
    assert resume.earlier_run(tmp_path, fixed) == record
    with pytest.raises(UserError, match=r"other settings \(data.shuffle_slots\)"):
        resume.earlier_run(tmp_path, cfg)


def test_a_wrong_setting_of_a_record_is_refused(tmp_path):
    recorded = config.to_dict(config.compose(["+algo=mt_oryx", "+tasks=lbf_5"], "train"))
    recorded["data"]["fraction"] = 2.0
    with pytest.raises(UserError, match=r"run.json: data.fraction must lie"):
        recorded_config({"config": recorded}, tmp_path)
