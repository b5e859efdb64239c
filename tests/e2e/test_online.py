"""Training by acting, and from earlier policies, through the one training command."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtmarl
from mtmarl import build, config, report, train
from mtmarl.networks import sable
from mtmarl.training.checkpoint import Checkpoints
from mtmarl.types import example_batch

SIZES = ["algo.network.embed_dim=16", "algo.network.heads=2"]
SPANS = [
    "trainer.updates=4", "trainer.chunk=2", "trainer.checkpoint_every=2", "trainer.batch_size=4", "trainer.context=4",
    "evaluator.every=4", "evaluator.episodes=4", "evaluator.final_episodes=4", "quiet=true",
    "collect.num_envs=4", "collect.rollout_length=6",
]  # fmt: skip
ONLINE = ["+algo=sable", *SIZES, *SPANS, "algo.epochs=2"]
TWO = "+tasks=lbf/5x5-2p-1f-t20,lbf/6x6-3p-1f-t20"


def rows(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def final(run_dir):
    return json.loads((run_dir / "final.json").read_text())


@pytest.fixture(scope="module")
def pretrained(micro_vaults, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "oryx"
    vaults = [f"data.vault_dir={micro_vaults}", f"run_dir={run_dir}"]
    assert train.main(["+algo=mt_oryx", TWO, *SIZES, *SPANS, *vaults]) == 0
    return run_dir


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "sable"
    assert train.main([*ONLINE, "+tasks=micro", f"run_dir={run_dir}"]) == 0
    return run_dir


def test_two_tasks_are_trained_on_and_a_third_is_scored(finished):
    """Without any vault; what was done is counted apart."""
    record, scored = json.loads((finished / "run.json").read_text()), final(finished)
    assert set(scored["last"]["tasks"]) == {"lbf/5x5-2p-1f-t20", "lbf/6x6-3p-1f-t20", "lbf/6x6-2p-2f-t20"}
    counts = {"env_steps": 4 * 2 * 4 * 6, "task_batches": 8, "gradient_steps": 4 * 2 * 2}
    counts["episodes"] = record["counts"]["episodes"]
    # Eight environments took 24 steps each of episodes that last 20 at most.
    assert 8 <= counts["episodes"] <= 192
    assert record["counts"] == counts == scored["last"]["counts"]
    assert [m["env_steps"] for m in rows(finished) if "ppo/actor_loss" in m] == [96, 192]
    assert mtmarl.load_policy(finished, "last").layout.families == ("lbf",)
    assert report.main([str(finished)]) == 0


@pytest.mark.slow
def test_resuming_is_as_if_nothing_had_happened(finished, tmp_path, monkeypatch):
    save = Checkpoints.save

    def die_after(self, update, state):
        save(self, update, state)
        if update == 2:
            raise KeyboardInterrupt

    arguments = [*ONLINE, "+tasks=micro", f"run_dir={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", die_after)
        with pytest.raises(KeyboardInterrupt):
            train.main(arguments)
    assert train.main(arguments) == 0
    policies = [mtmarl.load_policy(path, "last").params for path in (finished, tmp_path)]
    jax.tree.map(np.testing.assert_array_equal, *policies)
    assert final(tmp_path) == final(finished)
    counts = [json.loads((path / "run.json").read_text())["counts"] for path in (finished, tmp_path)]
    assert counts[0] == counts[1]


def start(*arguments):
    cfg = config.compose([*SPANS, *arguments], "train")
    job = build.prepare(cfg)
    return job, job.initial_state(0)


def logits(params, network, dims, obs, **heads):
    net = sable.Sable.make(network, dims, **heads)
    return net.window(params, obs.observation, obs.action, obs.first)[0].logits


def differing(some, others):
    """The top-level modules whose parameters are not the same."""
    same = lambda a, b: jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))
    return {name for name in some if not same(some[name], others[name])}


def test_loading_changes_no_logit(pretrained, tmp_path, capsys):
    """From MT Oryx to online Sable: the policy is the same before the first update, its critic is new."""
    arguments = ["+algo=sable", *SIZES, "algo.network.decay_scale=0.5", f"init_from={pretrained}"]
    job, state = start(*arguments, "+tasks=lbf/6x6-2p-2f-t20")
    policy = mtmarl.load_policy(pretrained)
    keys = jax.random.split(jax.random.key(0), 2)
    batch = example_batch(job.dims, 3, 4)
    batch = batch._replace(
        obs=jax.random.normal(keys[0], batch.obs.shape),
        action=jax.random.randint(keys[1], batch.action.shape, 0, job.dims.actions),
    )
    settings = build.parse_algorithm(policy.config, build.ALGOS)[1]
    q_bins = {"q_bins": settings.bins, "q_bias": jnp.zeros(settings.bins)}
    before = logits(policy.params, settings.network, job.dims, batch, **q_bins)
    after = logits(state.learner.params, settings.network, job.dims, batch, value=True)
    np.testing.assert_array_equal(before, after)
    assert job.start is not None and {n.partition("/")[0] for n in job.start.fresh} == {"value_head"}
    assert {n.partition("/")[0] for n in job.start.unused} == {"q_head"}

    assert (
        train.main([*arguments, *SPANS, "quiet=false", "+tasks=lbf/6x6-2p-2f-t20", f"run_dir={tmp_path}"])
        == 0
    )
    assert "fresh: value_head" in capsys.readouterr().out
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["start"]["copied"] and all(n.startswith("value_head") for n in record["start"]["fresh"])
    assert record["start"]["env_steps"] == 0, "it had learned from vaults"


@pytest.mark.slow
def test_offline_on_new_vaults_the_target_begins_where_the_policy_does(pretrained, micro_vaults):
    options = ["+algo=mt_oryx", *SIZES, f"init_from={pretrained}", "+tasks=lbf/6x6-3p-1f-t20"]
    job, state = start(*options, f"data.vault_dir={micro_vaults}", "seed=3")
    loaded = mtmarl.load_policy(pretrained).params
    jax.tree.map(np.testing.assert_array_equal, state.learner.params, loaded)
    jax.tree.map(np.testing.assert_array_equal, state.learner.target, loaded)
    several = job.initial_state((3, 4)).learner.params
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.stack([b, b])), several, loaded)


@pytest.mark.slow
def test_the_critic_can_learn_first(pretrained):
    """While it does, nothing changes that the policy depends on."""
    job, state = start(
        "+algo=sable", *SIZES, "algo.network.decay_scale=0.5", f"init_from={pretrained}", TWO, "algo.critic_warmup=2",
    )  # fmt: skip
    assert [(p.name, p.fraction) for p in job.algo.phases] == [("critic", 0.5), ("train", 0.5)]
    draw = jax.jit(
        lambda s: job.source.next(s.source, job.source.data, None, s.learner.params, jax.random.key(0))
    )
    _, batch = draw(state)
    for phase, moved in zip(job.algo.phases, ({"value_head"}, set(state.learner.params)), strict=True):
        learner, metrics = jax.jit(phase.update)(state.learner, batch, jax.random.key(1))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(metrics))
        assert differing(learner.params, state.learner.params) == moved


def test_a_critic_of_returns_at_unit_size_begins_anew(finished, tmp_path):
    """Whichever of the two runs has brought them there: its means and spreads are its own."""
    other = shutil.copytree(finished, tmp_path / "other")
    record = json.loads((other / "run.json").read_text())
    record["config"]["algo"]["normalise_values"] = True
    (other / "run.json").write_text(json.dumps(record))
    for run_dir, options, anew in (
        (finished, [], set()),
        (finished, ["algo.normalise_values=true"], {"value_head"}),
        (other, [], {"value_head"}),
    ):
        options = [f"init_from={run_dir}", "which=last", "seed=3", *options]
        job, state = start("+algo=sable", *SIZES, *SPANS, "+tasks=micro", *options)
        assert job.start is not None and {n.partition("/")[0] for n in job.start.fresh} == anew
        assert differing(mtmarl.load_policy(run_dir, "last").params, state.learner.params) == anew


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["init_from=nowhere"], ("init_from=nowhere", "run.json")),
        (["init_from=runs/sweeps/m3_pretrain-cpu/seed_0"], ("run.json", "+sweep=m3_pretrain profile=cpu")),
        (["init_from={run}"], ("algo.network.decay_scale=0.5",)),
        (["init_from={run}", "algo.network.embed_dim=32"], ("algo.network.embed_dim=16",)),
        (["algo.critic_warmup=4"], ("critic_warmup=4", "0 … 3")),
        (
            ["algo.critic_warmup=1", "trainer.chunk=4", "trainer.checkpoint_every=4"],
            ("critic_warmup=1", "multiple of trainer.chunk=4"),
        ),
        (["algo.minibatches=3"], ("8 rows", "algo.minibatches=3")),
        (
            ["algo.network.decay_scale=0.5", "init_from={run}", "data.agent_ids=fixed"],
            ("data.agent_ids=fixed", "data.agent_ids=none"),
        ),
        (["+algo=bc_t", "init_from={run}"], ("no parameter of mt_oryx fits bc_t",)),
    ],
)
def test_what_does_not_fit_gets_one_clear_line(pretrained, micro_vaults, tmp_path, capsys, options, words):
    rest = ["+tasks=micro", f"run_dir={tmp_path / 'run'}", f"data.vault_dir={micro_vaults}"]
    options = [o.format(run=pretrained) for o in options]
    given = {o.lstrip("+").partition("=")[0] for o in options}
    base = SPANS if "algo" in given else ONLINE
    base = [o for o in base if o.lstrip("+").partition("=")[0] not in given]
    assert train.main([*base, *rest, *options]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and len(error.splitlines()) == 1
    assert all(word in error for word in words), error
