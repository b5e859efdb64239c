"""M3's pre-training: what each of its losses moves, and what changes none of them."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos import m3, madt
from mtmarl.networks import causal
from mtmarl.networks.entities import Mlp
from mtmarl.networks.m3 import Config
from mtmarl.types import Dims
from tests.batches import ACTIONS, OBS, TOY, make_batch, pad

NETWORK = Config(8, 2, 1, 3)
CONFIG = m3.Config(
    learning_rate=3e-3, weight_decay=0.0, max_grad_norm=10.0, codes=6, specific_width=3, reconstruction_weight=1.0,
    kl_weight=1.0, codebook_weight=1.0, commitment_weight=0.25, usage_decay=0.9, usage_floor=0.0, quantise=True,
    split=True, network=NETWORK,
)  # fmt: skip
DIMS = Dims(3, OBS, ACTIONS, 10, 2, TOY, (5, 7))
NOTHING = dict(reconstruction_weight=0.0, kl_weight=0.0, codebook_weight=0.0, commitment_weight=0.0)
ENTITY = replace(NETWORK, encoder="entity")


@cache
def start(config=CONFIG, dims=DIMS):
    """(a learner whose heads are not near zero, the compiled update)."""
    algo = m3.make(config, dims)
    return learner_of(algo, make_batch(3)), jax.jit(algo.phases[0].update)


def learner_of(algo, batch):
    learner = jax.jit(algo.init)(jax.random.key(0), batch)
    noise = lambda p: p + 0.2 * jax.random.normal(jax.random.key(p.size), p.shape)
    return learner._replace(params=jax.tree.map(noise, learner.params))


def moved(config):
    """The modules that one update moves, those of the actor by their own names."""
    learner = start()[0]
    after, _ = jax.jit(m3.make(config, DIMS).phases[0].update)(learner, make_batch(3), jax.random.key(0))
    flat = lambda params: {**params["actor"], **{k: v for k, v in params.items() if k != "actor"}}
    before, after = flat(learner.params), flat(after.params)
    differ = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    return {name for name in before if any(jax.tree.leaves(differ[name]))}


ACTOR = {"token", "causal", "shared", "condition", "head"}


def test_each_loss_moves_what_it_should():
    """Actions: encoder, split, condition and head, never the codes, which their own term alone moves."""
    assert moved(replace(CONFIG, **NOTHING | {"codebook_weight": 1.0})) == ACTOR | {"codebook"}
    assert moved(replace(CONFIG, codebook_weight=0.0)) == ACTOR | {"decoder", "specific"}


def test_parts_left_out_are_not_there():
    def names(config):
        init = m3.make(config, DIMS).init
        params = jax.eval_shape(init, jax.random.key(0), make_batch(3)).params
        return set(params) | set(params.pop("actor"))

    rest, actor = {"actor", "decoder", "codebook", "specific"}, lambda **o: replace(NETWORK, **o)
    assert names(CONFIG) == ACTOR | rest
    assert names(replace(CONFIG, quantise=False)) == ACTOR | {"actor"}
    assert names(replace(CONFIG, split=False)) == ACTOR | rest - {"specific"}
    assert names(replace(CONFIG, network=actor(condition="none"))) == ACTOR - {"condition"} | rest
    assert names(replace(CONFIG, network=ENTITY)) == ACTOR - {"token"} | {"look", "read"} | rest


def test_everything_falls_on_one_batch():
    """Under the signs of the formula; also how far encodings are from codes, where that weighs enough."""
    learner, update = start(replace(CONFIG, reconstruction_weight=0.1, commitment_weight=5.0))
    batch = make_batch(3)
    step = lambda learner, key: update(learner, batch, key)
    _, history = jax.jit(lambda s: jax.lax.scan(step, s, jax.random.split(jax.random.key(0), 150)))(learner)
    begin, end = (jax.tree.map(lambda x, i=i: np.asarray(x[i]), history) for i in (0, -1))
    for name in ("objective", "loss", "code_distance", "reconstruction", "last_action_nll"):
        assert end[f"m3/{name}"] < begin[f"m3/{name}"], name
    assert (history["m3/kl"] >= 0).all()
    assert (history["m3/perplexity"] >= 1 - 1e-5).all() and (history["m3/perplexity"] <= 6 + 1e-4).all()


def test_the_last_action_is_recovered_among_what_was_legal_then():
    """Where an episode begins there is none, and of the step before the window it is not known what was legal."""
    learner, update = start(replace(CONFIG, split=False))
    batch, params = make_batch(3), learner.params
    said = m3.make_actor(NETWORK, DIMS, latents=True).window(params["actor"], batch)
    code = params["codebook"][((said.shared[..., None, :] - params["codebook"]) ** 2).sum(-1).argmin(-1)]
    out = Mlp(OBS - 2 + ACTIONS).apply({"params": params["decoder"]}, code)[..., OBS - 2 :]
    found = {}
    for row, task in enumerate(batch.task_id.tolist()):
        for t in range(1, batch.first.shape[1]):
            if batch.first[row, t]:
                continue
            log_p = jax.nn.log_softmax(jnp.where(batch.action_mask[row, t - 1], out[row, t], -jnp.inf))
            found.setdefault(task, []).extend(
                float(-log_p[i, a]) for i, a in enumerate(batch.action[row, t - 1].tolist())
            )
    by_task = sum(np.mean(x) for x in found.values()) / len(found)
    metrics = update(learner, batch, jax.random.key(0))[1]
    assert metrics["m3/last_action_nll"] == pytest.approx(by_task, rel=1e-4)


def test_a_dead_code_returns_to_where_encodings_are():
    config = replace(CONFIG, usage_floor=1.0, usage_decay=0.5, learning_rate=0.0)
    learner, update = start(config)
    far = learner.params["codebook"].at[0].set(100.0)
    learner = learner._replace(params={**learner.params, "codebook": far})
    batch = make_batch(3)
    after, _ = update(learner, batch, jax.random.key(0))
    said = m3.make_actor(NETWORK, DIMS, latents=True).window(learner.params["actor"], batch)
    distance = jnp.abs(said.shared.reshape(-1, 8) - after.params["codebook"][0]).max(-1)
    assert distance.min() < 1e-5
    assert np.isclose(after.opt["usage"][0], 1 / 6)
    again, _ = update(learner, batch, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, again, after)


def test_padded_agents_change_nothing():
    """The noise of an agent's own latent included."""
    learner, update = start()
    batch = make_batch(3)
    _, plain = update(learner, batch, jax.random.key(0))
    _, padded = start(CONFIG, replace(DIMS, agents=5))[1](learner, pad(batch, 5), jax.random.key(0))
    assert plain.keys() == padded.keys() and len(plain) > 8
    for name in plain:
        np.testing.assert_allclose(plain[name], padded[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_padded_features_and_actions_change_nothing():
    """Two more features that are always zero and two actions that are never legal; gradients included."""
    learner, update = start()
    batch = make_batch(3)
    end = lambda x, n: jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, n)])
    # The features of the task stay behind the padding, as a layout has it.
    obs = jnp.concatenate([end(batch.obs[..., :5], 2), batch.obs[..., 5:]], axis=-1)
    wide_batch = batch._replace(obs=obs, action_mask=end(batch.action_mask, 2))
    wide_dims = replace(DIMS, obs=OBS + 2, actions=ACTIONS + 2, task_features=(7, 9), entities=None)
    algo = m3.make(CONFIG, wide_dims)
    wide = learner_of(algo, wide_batch)

    def put(at, new, old):
        if at[0].key == "decoder" and old.shape[-1] == 5 + ACTIONS:  # [features | actions]
            return new.at[..., :5].set(old[..., :5]).at[..., 7 : 7 + ACTIONS].set(old[..., 5:])
        return new.at[tuple(map(slice, old.shape))].set(old)

    params = jax.tree.map_with_path(put, wide.params, learner.params)
    _, plain = update(learner, batch, jax.random.key(0))
    padded = wide._replace(params=params)
    _, padded = jax.jit(algo.phases[0].update)(padded, wide_batch, jax.random.key(0))
    for name in plain:
        np.testing.assert_allclose(plain[name], padded[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("network", [NETWORK, ENTITY], ids=["padded", "entity"])
def test_actions_follow_from_the_past_alone(network):
    net, batch = m3.make_actor(network, DIMS, latents=True), make_batch(3)
    params, window = jax.jit(net.init)(jax.random.key(0), batch), jax.jit(net.window)
    out = window(params, batch).logits
    later = window(params, batch._replace(obs=batch.obs.at[:, 3].add(1.0))).logits
    np.testing.assert_array_equal(out[:, :3], later[:, :3])
    assert (out[:, 3] != later[:, 3]).any()


def test_the_task_enters_through_the_condition_alone():
    """What the features of the task say changes the shared latent, and not the encoding."""
    net, batch = m3.make_actor(NETWORK, DIMS, latents=True), make_batch(3)
    params, window = jax.jit(net.init)(jax.random.key(0), batch), jax.jit(net.window)
    told = window(params, batch)
    other = window(params, batch._replace(obs=batch.obs.at[..., 5:].add(1.0)))
    np.testing.assert_array_equal(told.z, other.z)
    assert (told.shared != other.shared).any()
    nothing = window(params, batch._replace(obs=batch.obs.at[..., 5:].set(0.0)))
    plain = m3.make_actor(replace(NETWORK, condition="none"), DIMS, latents=True).window(params, batch)
    np.testing.assert_allclose(nothing.shared, plain.shared, atol=1e-6)


def test_madt_is_its_policy_cloned():
    """One update with a tiny step lowers the loss on its batch, which padding and unreal steps do not enter."""
    config = madt.Config(1e-3, 0.1, 10.0, True, 2.0, causal.Config(8, 2, 1, 3))
    algo = madt.make(config, DIMS)
    batch = make_batch(3)
    batch = batch._replace(time_mask=batch.time_mask.at[:, 4:].set(False))
    learner = jax.jit(algo.init)(jax.random.key(0), batch)
    update = jax.jit(algo.phases[0].update)
    after, first = update(learner, batch, jax.random.key(0))
    rubbish = pad(batch, 5)
    rubbish = rubbish._replace(obs=jnp.where(rubbish.time_mask[..., None, None], rubbish.obs, 9.0))
    same, again = jax.jit(madt.make(config, replace(DIMS, agents=5)).phases[0].update)(
        learner, rubbish, jax.random.key(0)
    )
    for name in first:
        np.testing.assert_allclose(first[name], again[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert update(after, batch, jax.random.key(0))[1]["madt/loss"] < first["madt/loss"]
