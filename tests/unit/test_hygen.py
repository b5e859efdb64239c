"""HyGen: what its schedules say, what each phase may touch, how it explores, and that ODIS is a part of it."""

from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl import build, config
from mtmarl.algos import ALGOS, hygen, odis
from mtmarl.algos.base import adam, freeze
from mtmarl.errors import UserError
from mtmarl.networks import entities
from mtmarl.networks.odis import SKILL_MODULES, MultiHeadEncoder
from mtmarl.types import Dims, Observation
from tests.batches import ACTIONS, OBS, ROWS, TOY, make_batch

CONFIG = hygen.Config(
    learning_rate=1e-3, max_grad_norm=10.0, gamma=0.9, return_scale=1.0, skills=3, skill_fraction=0.3, kl_weight=1e-3,
    gumbel=True, conservative_weight=5.0, conservative_temperature=0.2,
    skill_weight=5.0, target_period=2, network=entities.Config(8, 1, 1),
    heads=None, head_width=4, share="linear", start_share=1.0, end_share=0.1, decay_fraction=0.25,
    conservative="dynamic", conservative_rows="recorded",
    consistency="label", refine_weight=1.0, refine_rows="recorded", capacity=100, epsilon=1.0, final_epsilon=0.05,
    epsilon_fraction=0.5,
)  # fmt: skip
DIMS = Dims(3, OBS, ACTIONS, 10, 2, TOY)
BATCH = make_batch(3)


def at_share(share):
    recorded = jnp.arange(ROWS) < share * ROWS
    return BATCH._replace(extras={"share": jnp.full(ROWS, share, jnp.float32), "recorded": recorded})


def make(**changes):
    return hygen.make(replace(CONFIG, **changes), DIMS, (-1.0, 1.0))


@pytest.fixture(scope="module")
def learner():
    """The same of every variant."""
    return jax.jit(make().init)(jax.random.key(0), BATCH)


@pytest.fixture(scope="module")
def refine():
    """The second phase with refinement on whatever is there."""
    return jax.jit(make(refine_rows="all").phases[1].update)


@pytest.fixture(scope="module")
def choose():
    """The second phase without refinement."""
    return jax.jit(make(refine_weight=0.0).phases[1].update)


def still(before, after):
    """Top-level modules in which every number is as it was."""
    same = jax.tree.map(lambda a, b: bool((a == b).all()), before, after)
    return {name for name in before if all(jax.tree.leaves(same[name]))}


def test_the_share_falls_and_stays():
    """5,000 updates are a quarter of the second phase, which is 20,000 of 50,000 updates."""
    config, updates = replace(CONFIG, skill_fraction=0.6), jnp.asarray([0, 2500, 5000, 9999])
    np.testing.assert_allclose(config.share_at(updates, 50_000), [1.0, 0.55, 0.1, 0.1], rtol=1e-6)
    assert (jnp.diff(config.share_at(jnp.arange(0, 7000, 7), 50_000)) <= 0).all()
    np.testing.assert_allclose(replace(config, share=0.2).share_at(updates, 50_000), [0.2] * 4)


def test_by_default_it_plays_little_and_keeps_much():
    """As released: two episodes of each task before an update, and 2,000 of each are kept."""
    cfg = config.compose(["+algo=hygen", "+tasks=marine_hard"], "train")
    _, settings = build.parse_algorithm(cfg, ALGOS)
    rollout = cfg.collect.num_envs * cfg.collect.rollout_length
    assert cfg.trainer.context <= cfg.collect.rollout_length and rollout <= 64
    assert settings.capacity // len(cfg.tasks.train) >= 500 * rollout
    assert (
        config.compose(["+algo=hygen", "+tasks=marine_hard", "collect.num_envs=7"], "train").collect.num_envs
        == 7
    )


def test_random_actions_become_rare_within_the_second_phase():
    """Its 700 of 1,000 updates count from its first on; half of them are for falling."""
    told = CONFIG.exploration(jnp.asarray([0, 175, 350, 700]), 1000) * CONFIG.final_epsilon
    np.testing.assert_allclose(told, [1.0, 0.525, 0.05, 0.05], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"share": 1.5}, "algo.share"),
        ({"end_share": -0.1}, "algo.end_share"),
        ({"decay_fraction": 0.0}, "algo.decay_fraction"),
        ({"final_epsilon": 0.0}, "algo.final_epsilon"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(change, words):
    with pytest.raises(UserError, match=words):
        config.parse(type(CONFIG), {**config.to_dict(CONFIG), **change}, "hygen.yaml", "algo")


@pytest.mark.parametrize(
    ("mode", "weights"), [("dynamic", [5.0, 1.5, 0.0]), ("fixed", [5.0] * 3), ("none", [0.0] * 3)]
)
def test_the_penalty_falls_with_the_share(learner, mode, weights):
    update = make(conservative=mode).phases[1].update
    # Nothing else of the update is compiled.
    weight = jax.jit(lambda batch: update(learner, batch, jax.random.key(0))[1]["policy/conservative_weight"])
    np.testing.assert_allclose([weight(at_share(s)) for s in (1.0, 0.3, 0.0)], weights, rtol=1e-6)


@pytest.mark.parametrize(("rows", "same"), [("recorded", True), ("all", False)])
def test_what_was_played_is_neither_held_to_nor_imitated(learner, rows, same):
    """Other actions in fresh rows change neither the penalty nor the decoder's loss, unless these are of all rows."""
    update = make(conservative_rows=rows, refine_rows=rows).phases[1].update
    names = ("policy/gap_loss", "policy/decoder_loss")
    losses = jax.jit(lambda batch: [update(learner, batch, jax.random.key(0))[1][name] for name in names])
    batch = at_share(0.5)
    other = (batch.action + 1) % ACTIONS
    played = jnp.where(batch.extras["recorded"][:, None, None], batch.action, other)
    before, after = losses(batch), losses(batch._replace(action=played))
    assert [bool(a == b) for a, b in zip(before, after, strict=True)] == [same, same]


def test_with_a_share_of_one_it_is_odis(learner, choose):
    """Given its encoder and no refinement: the same parameters. With a smaller one its penalty is smaller."""
    config = odis.Config(**{f.name: getattr(CONFIG, f.name) for f in fields(odis.Config)})
    model = odis.make_model(config, DIMS, (-1.0, 1.0), MultiHeadEncoder(8, 3, 4))
    loss = lambda params, target, batch, key: model.choose(
        params, target, batch, batch.extras["weight"][0], jnp.ones(ROWS, bool)
    )
    reference = jax.jit(odis.two_phases(config, model, DIMS, loss, make().act).phases[1].update)
    frozen = freeze(adam(config.learning_rate, config.max_grad_norm), SKILL_MODULES).init(learner.params)
    learner = learner._replace(opt={**learner.opt, "policy": frozen})
    for share, weight in ((1.0, config.conservative_weight), (0.3, 1.5)):
        ours = theirs = learner
        for i in range(3):
            batch = make_batch(3, seed=i)
            told = lambda name, x, batch=batch: batch._replace(extras={name: jnp.full(ROWS, x)})
            ours, _ = choose(ours, told("share", share), jax.random.key(i))
            theirs, _ = reference(theirs, told("weight", weight), jax.random.key(i))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), ours, theirs)
        assert still(learner.params, ours.params) == set(SKILL_MODULES), "bit for bit, and the rest has moved"


def test_refinement_trains_the_decoder_on_what_was_played(learner, refine):
    after, losses = learner, []
    for i in range(40):
        after, metrics = refine(after, at_share(0.0), jax.random.key(i))
        losses.append(float(metrics["policy/decoder_loss"]))
    assert still(learner.params, after.params) == {"state_encoder", "skill_head"}
    assert losses[-1] < 0.9 * losses[0]


def test_recognition_may_follow_the_whole_distribution(learner):
    """As printed: its divergence is 0 where both sides agree, so it lies below the cross-entropy of a label."""

    @jax.jit
    def losses(batch):
        updates = (make(consistency=c).phases[1].update for c in ("label", "kl"))
        return [update(learner, batch, jax.random.key(0))[1]["policy/skill_loss"] for update in updates]

    label, kl = losses(at_share(0.5))
    assert 0 < kl < label


def test_random_actions_are_uniform_over_what_is_legal(learner):
    algo = make()
    rows, keys = 4096, jax.random.split(jax.random.key(1), 3)
    view = jnp.broadcast_to(jax.random.normal(keys[0], (3, OBS)), (rows, 3, OBS))
    legal = jnp.asarray([[1, 1, 0, 1, 1], [0, 0, 1, 0, 0], [0, 1, 1, 0, 0]], bool)
    observation = Observation(view, jnp.broadcast_to(legal, (rows, 3, ACTIONS)), jnp.ones((rows, 3), bool))
    act = jax.jit(
        lambda exploration, key: algo.act(
            learner.params, algo.init_carry(rows, 3), observation, key, exploration
        )[1]
    )
    counts = lambda action: np.stack([np.bincount(a, minlength=ACTIONS) for a in np.asarray(action).T])
    alike = counts(act(1 / CONFIG.final_epsilon, keys[1])) / rows
    np.testing.assert_allclose(alike, legal / legal.sum(1, keepdims=True), atol=0.04)
    assert not alike[~np.asarray(legal)].any()
    greedy = counts(act(0.0, keys[1]))
    assert (greedy.max(1) == rows).all(), "what is seen decides, and luck does not"
    np.testing.assert_array_equal(greedy, counts(act(0.0, keys[2])))
    # In evaluation with explore=1, one action in twenty is random; of three others that are legal it is noticed.
    rare = 1 - counts(act(1.0, keys[2])).max(1) / rows
    np.testing.assert_allclose(rare, [0.05 * 3 / 4, 0.0, 0.05 / 2], atol=0.012)
