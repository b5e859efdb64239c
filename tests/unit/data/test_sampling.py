import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recordings import SCALE, make_vault

from mtmarl.data import sampling as s
from mtmarl.errors import UserError
from mtmarl.ops.agents import shuffle_agents
from mtmarl.types import Dims

DIMS = Dims(agents=4, obs=6, actions=5, horizon=12, tasks=3)


@pytest.fixture(scope="module")
def vaults():
    return [
        make_vault(0, "lbf/a", steps=90, agents=2),
        make_vault(1, "lbf/b", steps=40, agents=4, actions=5),
        make_vault(2, "lbf/c", steps=65, agents=3, features=4),
    ]


@pytest.fixture(scope="module")
def data(vaults):
    return s.make_task_data(vaults, DIMS)


@pytest.mark.parametrize("batch_size, tasks", [(64, 15), (60, 15), (64, 5), (3, 7), (10, 1), (8, 6)])
def test_rows_are_balanced_at_each_update_and_over_all(batch_size, tasks):
    rows = jax.jit(jax.vmap(lambda u: s.balanced_rows(batch_size, tasks, u)))
    cycle = math.lcm(batch_size, tasks) // batch_size
    counts = np.stack([np.bincount(r, minlength=tasks) for r in np.asarray(rows(jnp.arange(3 * cycle)))])
    q, left_over = divmod(batch_size, tasks)
    assert set(np.unique(counts)) <= {q, q + 1} and (counts.sum(1) == batch_size).all()
    assert ((counts == q + 1).sum(1) == left_over).all()
    for start in range(2 * cycle):  # any run of one cycle, wherever it begins
        assert len(set(counts[start : start + cycle].sum(0))) == 1
    start = (np.arange(3 * cycle) * left_over) % tasks  # the published rule, pointer moving
    expected = q + np.array([[(k - a) % tasks < left_over for k in range(tasks)] for a in start])
    np.testing.assert_array_equal(counts, expected)


def test_balanced_rows_survive_large_update_counts():
    late = np.bincount(s.balanced_rows(64, 15, jnp.int32(2**31 - 2)), minlength=15)
    assert sorted(late) == [4] * 11 + [5] * 4


def test_random_task_rows():
    drawn = [np.unique(s.random_task_rows(16, 5, jax.random.key(i))) for i in range(60)]
    assert all(len(d) == 1 for d in drawn) and {int(d[0]) for d in drawn} == set(range(5))


def test_every_window_equals_the_stored_steps(vaults, data):
    steps = 7
    gather = jax.jit(s.gather_windows, static_argnums=3)
    for k, vault in enumerate(vaults):
        r, n = vault.recording, vault.recording.mask.shape[1]
        starts = np.arange(len(r.first) - steps + 1)
        batch = jax.device_get(
            gather(data, jnp.full(len(starts), k, jnp.int32), jnp.asarray(starts, jnp.int32), steps)
        )
        at = starts[:, None] + np.arange(steps)
        width, actions = r.obs.shape[2], r.mask.shape[2]
        exact = r.obs[at].astype(np.float32) * np.asarray(SCALE[:width], np.float32)
        assert batch.obs.dtype == np.float32
        np.testing.assert_array_equal(batch.obs[:, :, :n, :width], exact)
        np.testing.assert_array_equal(batch.action_mask[:, :, :n, :actions], r.mask[at])
        np.testing.assert_array_equal(batch.action[:, :, :n], r.action[at])
        for field in ("reward", "first", "truncated"):
            np.testing.assert_array_equal(getattr(batch, field), getattr(r, field)[at])
        np.testing.assert_array_equal(batch.terminated, r.terminal[at])
        before = np.where(r.first[starts, None], -1, r.action[starts - 1])
        np.testing.assert_array_equal(batch.last_action[:, :n], before)
        # padding: nothing to see, NOOP the only legal action, no agent there
        assert not batch.obs[:, :, n:].any() and not batch.obs[..., width:].any()
        assert batch.action_mask[:, :, n:, 0].all() and not batch.action_mask[:, :, n:, 1:].any()
        assert not batch.action_mask[..., actions:].any() and not batch.action[:, :, n:].any()
        assert batch.agent_mask[:, :, :n].all() and not batch.agent_mask[:, :, n:].any()
        assert batch.time_mask.all() and (batch.task_id == k).all()


def test_starts_cover_a_task_and_never_leave_it(data):
    task_id = jnp.arange(6000, dtype=jnp.int32) % 3
    start = np.asarray(s.sample_starts(data.length, task_id, 33, jax.random.key(0)))
    for k, length in enumerate(np.asarray(data.length)):
        mine = start[np.asarray(task_id) == k]
        assert set(mine) == set(range(length - 33 + 1))
        counts = np.bincount(mine)
        assert np.abs(counts - counts.mean()).max() < 6 * np.sqrt(counts.mean())


def test_data_stays_narrow(data):
    assert (data.obs.dtype, data.action_mask.dtype, data.action.dtype) == (jnp.int8, jnp.bool_, jnp.int8)
    assert data.tasks == 3 and data.offset.tolist() == [0, 90, 130] and data.agents.tolist() == [2, 4, 3]


def test_shuffle_is_one_order_per_row_and_recoverable(data):
    rng = np.random.default_rng(0)
    task_id = jnp.asarray(rng.integers(0, 3, 32), jnp.int32)
    batch = s.gather_windows(data, task_id, jnp.arange(1, 32 + 1, dtype=jnp.int32), 9)
    assert (batch.last_action > 0).any()
    slot = jnp.broadcast_to(jnp.arange(4.0)[:, None], (*batch.action.shape, 1))
    batch = batch._replace(obs=jnp.concatenate([batch.obs, slot], -1))  # each slot carries its own number
    shuffled = jax.jit(shuffle_agents)(batch, jax.random.key(1))
    order = np.asarray(shuffled.obs[..., -1]).astype(int)
    assert (order == order[:, :1]).all() and (np.sort(order, -1) == np.arange(4)).all()
    assert len({tuple(o) for o in order[:, 0]}) > 8  # rows differ
    inverse = np.argsort(order, -1)
    for field in ("obs", "action_mask", "action", "agent_mask"):
        after, before = (np.asarray(getattr(b, field)) for b in (shuffled, batch))
        index = inverse.reshape(*inverse.shape, *[1] * (after.ndim - 3))
        np.testing.assert_array_equal(np.take_along_axis(after, index, 2), before, err_msg=field)
    np.testing.assert_array_equal(
        np.take_along_axis(np.asarray(shuffled.last_action), inverse[:, 0], 1), batch.last_action
    )
    for field in ("reward", "first", "terminated", "truncated", "time_mask", "task_id"):
        np.testing.assert_array_equal(getattr(shuffled, field), getattr(batch, field))
    padded = ~np.asarray(shuffled.agent_mask)[np.asarray(task_id) == 0, 0]
    assert padded.any(0).all()  # absent agents turn up in every slot


def test_a_task_that_does_not_fit_is_named(vaults):
    with pytest.raises(UserError, match="lbf/b: 4 agents, more than the 3"):
        s.make_task_data(vaults, Dims(3, 6, 5, 12))
    with pytest.raises(UserError, match="no vaults"):
        s.make_task_data([], DIMS)
