"""What is played with a vault batch beside it."""

import jax
import jax.numpy as jnp
import numpy as np
from recordings import save

from mtmarl.data import host_source as h
from mtmarl.data import sampling, vault
from mtmarl.data.source import Source, vault_source, with_offline_batch
from mtmarl.types import Dims, example_batch

DIMS = Dims(agents=3, obs=5, actions=4, horizon=12, tasks=2)
ROWS, STEPS = 6, 5


def played() -> Source:
    """Made of nothing but its keys, which it splits and folds as sources do."""

    def next_batch(state, data, x, params, key):
        batch = example_batch(DIMS, ROWS, 7)
        noise = [jax.random.uniform(k, batch.reward.shape) for k in jax.random.split(key, 3)]
        noise.append(jax.random.uniform(jax.random.fold_in(key, 1), batch.reward.shape))
        return state + 1, batch._replace(reward=state + sum(noise))

    return Source(jax.random.uniform, next_batch, env_steps=42)


def batches(source, updates=3):
    keys = jax.random.split(jax.random.key(3), updates)
    xs = None if source.prefetch is None else source.prefetch(0, keys)

    def one(state, x):
        key, brought = x
        return source.next(state, source.data, brought, None, key)

    return jax.jit(lambda s: jax.lax.scan(one, s, (keys, xs)))(source.init(jax.random.key(0)))[1]


def test_the_vault_comes_along_and_changes_nothing_of_what_is_played(tmp_path):
    """From the device and from the host alike, as many rows of every task, other ones in every update."""
    paths = [save(tmp_path, i, f"toy/{i}", steps=90 + i, agents=2 + i)[0] for i in range(2)]
    data = sampling.make_task_data([vault.read_vault(p) for p in paths], DIMS)
    mapped = [h.map_vault(p, tmp_path / "cache") for p in paths]
    there = h.host_source(mapped, DIMS, ROWS, STEPS, chunk=3, memory=4 * 2**20)
    alone = batches(played())
    both = [batches(with_offline_batch(played(), v)) for v in (vault_source(data, ROWS, STEPS), there)]
    for batch in both:
        jax.tree.map(np.testing.assert_array_equal, batch._replace(extras={}), alone)
    jax.tree.map(np.testing.assert_array_equal, both[0].extras, both[1].extras)
    offline = both[0].extras["offline"]
    assert offline.obs.shape == (3, ROWS, STEPS, DIMS.agents, DIMS.obs)
    assert (jnp.sort(offline.task_id, axis=1) == jnp.arange(ROWS) // 3).all()
    assert (offline.reward[0] != offline.reward[1]).any()
    assert with_offline_batch(played(), there).env_steps == 42
