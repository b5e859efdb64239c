"""Training that is no longer finite ends, names what it saw, and leaves nothing that could be taken for a result."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl import divergence
from mtmarl.algos.base import Algorithm, Phase
from mtmarl.data.source import Source
from mtmarl.divergence import Divergence, Trace
from mtmarl.errors import Diverged, failed
from mtmarl.random_streams import Stream, stream
from mtmarl.training import loop
from mtmarl.types import Dims, Learner, example_batch

DIMS = Dims(agents=2, obs=3, actions=4, horizon=5, tasks=2)
NAMES = ["toy/a", "toy/b"]


def make(bad_reward=None, loss=lambda w, step, key: w, weight=lambda w, step: w):
    """One parameter w = 1, two tasks with a row each; `bad_reward`: what the second pays from the fifth update on."""

    def update(learner, batch, key):
        w = learner.params["w"]
        told = {"td/loss": loss(w, learner.step, key), "td/q": batch.reward[:, 0], "td/other": jnp.nan * w}
        params = {"w": weight(w, learner.step)}
        return Learner(params, (), {}, learner.step + 1), told

    example = example_batch(DIMS)
    two = jax.tree.map(lambda x: jnp.zeros((2, *x.shape[1:]), x.dtype), example)
    two = two._replace(task_id=jnp.arange(2), time_mask=jnp.ones_like(two.time_mask))

    def next_batch(state, data, x, params, key):
        paid = jnp.where((state >= 4) & (bad_reward is not None), bad_reward or 0.0, 1.0)
        return state + 1, two._replace(reward=two.reward.at[0].set(1.0).at[1].set(paid))

    init = lambda key, batch: Learner({"w": jnp.ones(())}, (), {}, jnp.zeros((), jnp.int32))
    algo = Algorithm(init, (Phase("all", 1.0, update),), lambda *a: None, lambda *a: None)
    return algo, Source(lambda key: jnp.zeros((), jnp.int32), next_batch)


def run(algo, source, seed: "int | tuple[int, ...]" = 0, **options):
    plan = loop.Plan(seed, 8, 2, 2)
    state = loop.initial_state(algo, source, example_batch(DIMS), seed)
    return loop.train(algo, {"default": source}, plan, state, task_names=NAMES, **options)


at = lambda update, value: lambda w, step, *key: jnp.where(step == update - 1, value, w)
at_5 = lambda value: at(5, value)


@pytest.mark.parametrize(
    ("parts", "line"),
    [
        ({"loss": at_5(jnp.nan)}, "diverged at update 5: td/loss is nan"),
        ({"loss": at_5(-jnp.inf)}, "diverged at update 5: td/loss is -inf"),
        ({"weight": at(6, jnp.inf)}, "diverged at update 6: params/w is nan"),
        ({"bad_reward": jnp.nan}, "diverged at update 5: reward of toy/b is inf"),
        ({"bad_reward": -jnp.inf}, "diverged at update 5: reward of toy/b is inf"),
        ({"bad_reward": 3e38, "loss": at_5(jnp.inf)}, "diverged at update 5: reward of toy/b is 3e+38"),
    ],
    ids=["loss", "loss is infinite", "parameters alone", "reward", "reward is infinite", "reward too large"],
)
def test_a_chunk_that_is_not_finite_ends_training(parts, line):
    saved, evaluated = [], []
    event = loop.Event(2, lambda update, params: evaluated.append(update) or {})
    with pytest.raises(Diverged) as caught:
        run(*make(**parts), events=[event], save=lambda state: saved.append(int(state.update)))
    assert str(caught.value) == line
    assert saved == [2, 4] and evaluated == [0, 2, 4], "nothing after the last chunk that was finite"


def test_it_is_found_although_nothing_is_evaluated_or_saved_at_its_end():
    algo, source = make(loss=at_5(jnp.nan))
    plan = loop.Plan(0, 24, 2, 12)
    state = loop.initial_state(algo, source, example_batch(DIMS), 0)
    with pytest.raises(Diverged, match="update 5"):
        loop.train(algo, {"default": source}, plan, state)


def test_metrics_that_are_no_losses_may_be_anything():
    run(*make())


def test_one_of_several_seeds_diverges_alone():
    seeds, bad = (3, 7, 11), 1
    told = {"steps": [], "evaluations": []}
    marker = jnp.uint32(0)

    def loss(w, step, key):
        own = jax.random.key_data(stream(seeds[bad], Stream.UPDATE, 4))
        return jnp.where((step == 4) & (jax.random.key_data(key) == own).all(), jnp.nan, w + marker)

    found = {}
    logs = [lambda update, metrics, i=i: told["steps"].append((i, update)) for i in range(3)]
    state = run(*make(loss=loss), seed=seeds, log=logs, diverged=found.__setitem__)
    assert found == {bad: Divergence(5, "td/loss", pytest.approx(np.nan, nan_ok=True), None)}
    assert int(state.update[0]) == 8
    steps = lambda i: [u for j, u in told["steps"] if j == i]
    assert [steps(i) for i in range(3) if i != bad] == [[2, 4, 6, 8]] * 2 and steps(bad) == [2, 4, 6]


def test_the_task_is_told_from_metrics_of_its_own():
    nan = np.nan
    loss = np.array([1.0, nan])
    trace = lambda q: Trace({"loss": loss, "q": np.array([[1.0, 1.0], q])}, np.ones(2), np.zeros(2, int), {})
    assert divergence.find(trace([1.0, nan]), 10, NAMES).line == "diverged at update 12: loss of toy/b is nan"
    assert divergence.find(trace([nan, nan]), 10, NAMES).task is None
    assert divergence.find(trace([1.0, 1.0]), 10, ()).task is None


def test_what_is_kept_draws_the_batch_again(tmp_path):
    key = jax.random.key_data(stream(3, Stream.DATA, 4)).tolist()
    divergence.write(tmp_path, Divergence(5, "loss", float("nan"), "toy/b"), 3, key, 4)
    kept = json.loads((tmp_path / "diverged.json").read_text())
    assert (kept["seed"], kept["update"], kept["task"], kept["checkpoint"]) == (3, 5, "toy/b", 4)
    again = jax.random.wrap_key_data(jnp.array(kept["key"], jnp.uint32))
    assert again == stream(3, Stream.DATA, 4)
    assert divergence.read(tmp_path) == "diverged at update 5: loss of toy/b is nan"
    assert divergence.ended(tmp_path)
    (tmp_path / "diverged.json").write_text("[]")
    assert divergence.read(tmp_path) == "diverged", "a damaged note is one all the same"
    (tmp_path / "diverged.json").unlink()
    assert divergence.read(tmp_path) is None and not divergence.ended(tmp_path)


def test_it_has_an_exit_code_of_its_own(capsys):
    assert failed(Diverged("seed 1 diverged")) == 3
    assert capsys.readouterr().err == "error: seed 1 diverged\n"
