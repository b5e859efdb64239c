"""Replayed windows are pieces of what was played, in order, and never join its newest step to its oldest."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos.base import no_carry
from mtmarl.data.replay import replay_source
from mtmarl.errors import UserError
from mtmarl.types import TaskSpec, TimeStep


class Counter(NamedTuple):
    """An environment that shows how many steps were taken since it was made, and ends every few of them."""

    length: int = 5

    @property
    def spec(self):
        return TaskSpec("toy/counter", "toy", 1, 2, 2, self.length)

    @property
    def obs_scale(self):
        return np.ones(2, np.float32)

    def reset(self, key):
        return jnp.zeros((), jnp.int32), self._see(jnp.zeros((), jnp.int32), jnp.zeros(()))

    def step(self, state, action, key):
        return state + 1, self._see(state + 1, action[0].astype(jnp.float32))

    def _see(self, count, reward):
        obs = jnp.stack([count, count % 2]).astype(jnp.float32)[None]
        ended = count >= self.length
        return TimeStep(obs, jnp.ones((1, 2), bool), reward, ended, jnp.zeros((), bool))


def act(params, carry, observation, key, sample_probability):
    """Says what it was told, and does the parity of what it sees."""
    return carry, (observation.obs[..., 1] * (sample_probability > 0)).astype(jnp.int32), {}


def make(capacity=3 * 8, context=4, **more):
    options = {
        "num_envs": 3,
        "steps": 4,
        "pool": 3,
        "batch_size": 64,
        "exploration": lambda update: 1.0,
        **more,
    }
    return replay_source(Counter(), act, no_carry, capacity=capacity, context=context, **options)


def test_windows_are_pieces_of_what_was_played():
    source = make()
    state = source.init(jax.random.key(0))
    draw = jax.jit(lambda state, key: source.next(state, None, None, (), key))
    for update in range(6):
        state, batch = draw(state, jax.random.key(update))
        obs = np.asarray(batch.obs)[:, :, 0, 0].astype(int)
        assert ((obs >= 0) & (obs < 5)).all()
        # The clock runs on by one, and from its last step to 0: nothing is joined that did not follow.
        np.testing.assert_array_equal(obs[:, 1:], (obs[:, :-1] + 1) % 5)
        np.testing.assert_array_equal(batch.first, obs == 0)
        np.testing.assert_array_equal(batch.terminated, obs == 4)
        np.testing.assert_array_equal(batch.action[..., 0], obs % 2)
        np.testing.assert_array_equal(batch.reward, obs % 2)
        # The step before a window is the one that was played before it, or no longer kept.
        before = batch.last_action[:, 0]
        forgotten = (before == -1) & ~batch.first[:, 0]
        np.testing.assert_array_equal(
            before[~forgotten], np.where(obs[:, 0] > 0, (obs[:, 0] - 1) % 2, -1)[~forgotten]
        )
        # In each environment the oldest step kept is the same one.
        assert set(obs[forgotten, 0]) <= {(int(state.kept.steps) - 8) % 5}
        assert forgotten.mean() < 0.5
        # Of the eight steps kept, all beginnings come up once that many were played.
        assert len(set(map(tuple, obs))) == min(1 + 4 * update, 5)
    assert int(state.update) == 6 and int(state.kept.steps) == 24


def test_acting_is_told_how_much_to_explore():
    source = make(exploration=lambda update: jnp.where(update < 2, 0.0, 1.0))
    state = source.init(jax.random.key(0))
    draw = jax.jit(lambda state, key: source.next(state, None, None, (), key))
    done = []
    for update in range(4):
        state, batch = draw(state, jax.random.key(update))
        done.append(bool(batch.action.any()))
    assert done == [False, False, True, True]


@pytest.mark.parametrize(("capacity", "context"), [(24, 5), (24, 0), (3, 1)])
def test_windows_that_do_not_fit_are_refused(capacity, context):
    with pytest.raises(UserError, match="algo.context"):
        make(capacity, context)


def test_exploration_falls_to_its_last_share():
    from mtmarl import build, config
    from mtmarl.algos import ONLINE

    cfg = config.compose(["+algo=qmix", "+tasks=lbf/5x5-2p-1f-t20"], "collect")
    _, settings = build.parse_algorithm(cfg, ONLINE)
    shares = [
        float(settings.exploration(jnp.asarray(u), 100)) * settings.final_epsilon for u in (0, 10, 20, 100)
    ]
    np.testing.assert_allclose(shares, [1.0, 0.525, 0.05, 0.05], rtol=1e-5)
