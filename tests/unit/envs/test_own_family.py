"""A family that exists only here, of which nothing but its observations is known."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos import ALGOS
from mtmarl.envs.entities import of_layout
from mtmarl.envs.layout import Layout
from mtmarl.types import Dims, TaskSpec, TimeStep, example_batch
from tests.contract.test_algos import make, make_batch


@dataclass(frozen=True)
class Walk:
    """Agents walk on a line; the team is paid where they meet."""

    spec = TaskSpec("walk/3a", "walk", agents=3, obs=2, actions=3, horizon=5)
    obs_scale = np.ones(2, np.float32)

    def reset(self, key):
        at = jax.random.randint(key, (3,), -2, 3)
        return (at, jnp.int32(0)), self._step(at, jnp.int32(0))

    def step(self, state, action, key):
        at, t = state[0] + action - 1, state[1] + 1
        return (at, t), self._step(at, t)

    def _step(self, at, t):
        obs = jnp.stack([at, jnp.broadcast_to(at.mean().astype(jnp.int32), at.shape)], -1).astype(jnp.float32)
        mask, no = jnp.ones((3, 3), bool), jnp.zeros((), bool)
        return TimeStep(obs, mask, (at == at[0]).all().astype(jnp.float32), no, t >= 5)


@pytest.mark.parametrize("name", sorted(ALGOS))
def test_every_algorithm_acts_and_learns_on_it(name):
    """As far as shapes can tell: nothing is compiled."""
    layout = Layout.of([Walk.spec], shuffle_slots=True, task_features=ALGOS[name].task_features)
    assert layout.slots == () and of_layout(layout) is None
    dims = Dims(
        3, layout.obs, 3, 5, entities=of_layout(layout, [Walk.spec]), task_features=layout.task_features
    )
    algo = make(name, dims)

    def play_and_learn():
        learner = algo.init(jax.random.key(0), example_batch(dims))
        batch = make_batch(algo, learner, dims)
        for phase in algo.phases:
            learner, _ = phase.update(learner, batch, jax.random.key(1))
        return learner.params

    assert jax.eval_shape(play_and_learn)
