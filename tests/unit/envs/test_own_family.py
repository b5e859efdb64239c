"""A family that exists only here, of which nothing but its observations is known."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.envs.entities import of_layout
from mtmarl.envs.layout import Layout
from mtmarl.types import TaskSpec, TimeStep


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


@pytest.mark.parametrize("name", ["mt_oryx", "bc_t", "odis"])
def test_every_kind_of_algorithm_builds_on_it(name):
    from mtmarl import build, config
    from mtmarl.algos import ALGOS
    from mtmarl.types import Dims, example_batch

    layout = Layout.of([Walk.spec], shuffle_slots=True)
    assert layout.slots == () and of_layout(layout) is None
    cfg = config.compose([f"+algo={name}", "+tasks=lbf_5"], "train")
    module, settings = build.parse_algorithm(cfg, ALGOS)
    dims = Dims(3, 2, 3, 5, entities=of_layout(layout, [Walk.spec]))
    algo = build.make_algorithm(module, settings, dims, 10, (0.0, 1.0))
    assert jax.eval_shape(algo.init, jax.random.key(0), example_batch(dims)).params
