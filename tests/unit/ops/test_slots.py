"""Interchangeable objects in shuffled slots."""

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.ops.slots import shuffle_slots, shuffled_columns, take_columns
from mtmarl.types import Dims, Slots, example_batch

GROUPS = (Slots(1, 3, 2), Slots(8, 2, 1))  # columns 0 and 7 belong to no group
WIDTH = 10


def test_whole_objects_move_within_their_group():
    columns = np.asarray(shuffled_columns(jax.random.key(0), GROUPS, WIDTH, (400,)))
    assert (columns[:, 0] == 0).all() and (columns[:, 7] == 7).all()
    objects = columns[:, 1:7].reshape(-1, 3, 2)
    assert (objects[..., 1] == objects[..., 0] + 1).all()
    orders = {tuple(o) for o in objects[..., 0]}
    assert len(orders) == 6  # every permutation of three objects occurs
    assert {tuple(o) for o in columns[:, 8:]} == {(8, 9), (9, 8)}
    first = np.bincount(objects[:, 0, 0], minlength=6)[[1, 3, 5]]
    assert first.min() > 100  # uniform: 133 expected, standard deviation 9


def test_one_order_per_agent_and_window_and_none_for_other_tasks():
    rows, steps, agents = 6, 5, 3
    dims = Dims(agents=agents, obs=WIDTH, actions=2, horizon=9, tasks=2)
    batch = example_batch(dims, rows, steps)
    obs = jnp.broadcast_to(jnp.arange(WIDTH, dtype=jnp.float32), batch.obs.shape)
    obs = obs + 100 * jnp.arange(steps)[None, :, None, None]
    batch = batch._replace(obs=obs, task_id=jnp.arange(rows) % 2)
    out = np.asarray(shuffle_slots(batch, jax.random.key(1), [GROUPS, ()]).obs)
    out = out - 100 * np.arange(steps)[None, :, None, None]
    assert (out == out[:, :1]).all()  # the same at all timesteps
    np.testing.assert_array_equal(out[1::2], np.asarray(obs)[1::2] % 100)
    assert len({tuple(x) for x in out[::2, 0].reshape(-1, WIDTH)}) > 4  # rows and agents differ
    np.testing.assert_array_equal(np.sort(out, axis=-1), np.asarray(obs) % 100)


def test_take_columns():
    obs = jnp.asarray([[10.0, 11.0, 12.0], [20.0, 21.0, 22.0]])
    taken = take_columns(obs, jnp.asarray([[2, 0, 1], [0, 1, 2]]))
    np.testing.assert_array_equal(taken, [[12, 10, 11], [20, 21, 22]])
