"""Recorded and replayed rows of one batch: how many, of which tasks, and nothing that tells them apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos.base import no_carry
from mtmarl.data.hybrid import hybrid_source, recorded_rows
from mtmarl.data.recording import cut, make_recorder
from mtmarl.data.sampling import make_task_data
from mtmarl.data.source import Windows, vault_source
from mtmarl.data.vault import Vault
from mtmarl.envs.layout import Layout
from mtmarl.errors import UserError
from mtmarl.ops import td
from mtmarl.types import Dims
from tests.counting import Counting, act_when_possible

ENVS = 3
RAW = (Counting(0, 1, 5), Counting(1, 3, 4, limited=True, width=5), Counting(2, 2, 6))
LAYOUT = Layout.of([e.spec for e in RAW], "random", 3, task_features=True)
ROWS, CONTEXT = 8, 6
OPTIONS = dict(ids=LAYOUT.ids, random_ids=True)


def vault_of(env):
    recorder = make_recorder(env, act_when_possible, no_carry, 8)
    recording = cut(recorder((), jax.random.key(0)), 0, env.obs_scale)
    return Vault(recording, {"task": env.spec.name, "obs_scale": env.obs_scale.tolist()})


@pytest.fixture(scope="module")
def data():
    dims = Dims(3, LAYOUT.known, 3, 6, len(RAW))
    constants = [LAYOUT.constant(env.spec) for env in RAW]
    return make_task_data([vault_of(env) for env in RAW], dims, constants, LAYOUT.constant_scale)


def make(data, share=0.5, capacity=3 * ENVS * 12, steps=6, exploration=1.0, **options):
    """The source as training builds it: windows of vaults as they lie, finished together with those of replay."""
    windows = Windows((), ROWS, CONTEXT, **OPTIONS, **options)
    vault = vault_source(data, ROWS, CONTEXT, shuffle=False)
    envs = [LAYOUT.wrap(env) for env in RAW]
    told = lambda x: x if callable(x) else lambda update: jnp.asarray(x, jnp.float32)
    return hybrid_source(
        vault,
        windows,
        envs,
        act_when_possible,
        no_carry,
        ENVS,
        steps,
        ENVS,
        capacity,
        told(share),
        told(exploration),
    )


def drawn(source, count, seed=1):
    """`count` batches in a row, stacked."""
    keys = jax.random.split(jax.random.key(seed), count)
    step = lambda state, key: source.next(state, source.data, None, (), key)
    run = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))
    return jax.device_get(run(source.init(jax.random.key(0)), keys))


@pytest.mark.parametrize("rows", [32, 30])
def test_so_many_rows_are_recorded_and_no_task_is_favoured(rows):
    for share in (0.0, 0.1, 0.3, 0.55, 0.7, 1.0):
        picks = jax.vmap(lambda update, s=share: recorded_rows(rows, jnp.float32(s), update))(
            jnp.arange(rows * 3)
        )
        assert (picks.sum(1) == int(rows * share + 1e-9)).all()
        tasks = (np.arange(rows * 3)[:, None] % 3 * (rows % 3) + np.arange(rows)) % 3
        per_task = np.stack([(picks & (tasks == k)).sum(1) for k in range(3)], 1)
        assert np.ptp(per_task.sum(0)) == 0 and np.ptp(per_task, axis=1).max() <= 2


def test_a_share_of_one_is_the_batch_of_the_vaults(data):
    _, mixed = drawn(make(data, share=1.0), 3)
    _, plain = drawn(vault_source(data, ROWS, CONTEXT, **OPTIONS), 3)
    assert mixed.extras["recorded"].all() and (mixed.extras["share"] == 1).all()
    jax.tree.map(np.testing.assert_array_equal, mixed._replace(extras={}), plain._replace(return_to_go=None))


def windows_of(batch):
    """Every row as one array of all that it holds, but for the numbers of the agents."""
    batch = batch._replace(obs=batch.obs[..., : LAYOUT.known])
    flat = lambda x: np.asarray(x, np.float32).reshape(*x.shape[:3], -1)
    other = ("extras", "return_to_go", "last_action", "present", "task_id")
    fields = (f for name, f in batch._asdict().items() if name not in other)
    return np.concatenate([flat(f) for f in fields], -1)


def test_replayed_rows_are_windows_of_what_the_vaults_hold(data):
    """The tasks know no chance and the vaults hold the same policy: each replayed row is among their windows."""
    _, fresh = drawn(make(data, share=0.0, shuffle=False), 12)
    assert not fresh.extras["recorded"].any()
    _, stored = drawn(vault_source(data, 90, CONTEXT, shuffle=False), 10)
    rows = lambda batch, k: {row.tobytes() for row in windows_of(batch)[batch.task_id == k]}
    for k, env in enumerate(RAW):
        seen, known = rows(fresh, k), rows(stored, k)
        assert seen <= known and len(seen) == env.length, "at whatever step they begin"
        obs = fresh.obs[fresh.task_id == k]
        assert (obs[:, :, : env.agents, 1] == k / 2).all() and not obs[:, :, env.agents :].any()


def test_only_the_latest_steps_are_kept(data):
    """From the fourth of six updates on nothing pays any more, and of two rollouts back nothing is left."""
    source = make(data, share=0.0, capacity=3 * ENVS * 12, exploration=lambda u: (u < 3).astype(jnp.float32))
    state, batch = drawn(source, 6)
    paid = batch.reward.any((1, 2))
    np.testing.assert_array_equal(paid, [True, True, True, True, False, False])
    assert int(state.kept.steps) == 36 and state.kept.seen.reward.shape == (3 * ENVS, 12)


def test_a_time_limit_is_no_end_for_the_values(data):
    """At a terminal step the target is the reward; at a time limit nothing is known of what comes after."""
    _, batch = drawn(make(data, share=0.5), 6)
    flat = jax.tree.map(lambda x: jnp.asarray(x).reshape(-1, *x.shape[2:]), batch)
    y = np.asarray(td.target(flat, 1.0, 0.9, jnp.full(flat.reward.shape, 10.0)))
    known = np.asarray(td.known(flat))
    limited = (flat.task_id == 1)[:, None]
    for kind in (flat.extras["recorded"], ~flat.extras["recorded"]):
        rows = kind[:, None]
        terminal, truncated = (rows & x[:, :-1] for x in (flat.terminated, flat.truncated))
        assert (terminal & ~limited).any() and (truncated & limited).any()
        assert not (terminal & limited).any() and not (truncated & ~limited).any()
        np.testing.assert_allclose(y[terminal], flat.reward[:, :-1][terminal], atol=1e-6)
        assert known[terminal].all() and not known[truncated].any()
        rest = rows & ~terminal & ~truncated
        np.testing.assert_allclose(y[rest], flat.reward[:, :-1][rest] + 9.0, rtol=1e-6)


def test_what_was_played_is_counted(data):
    source = make(data, steps=12)
    state, batch = drawn(source, 5)
    assert source.env_steps == 3 * ENVS * 12
    ended = [int(sum(ENVS * (12 * u // env.length) for env in RAW)) for u in range(6)]
    np.testing.assert_array_equal(batch.extras["episodes"].sum(1), np.diff(ended))
    assert int(state.update) == 5


def test_windows_that_do_not_fit_are_refused(data):
    with pytest.raises(UserError, match="trainer.context=6 .* collect.rollout_length=4"):
        make(data, steps=4)
    with pytest.raises(UserError, match=r"algo.capacity \(3 per task\)"):
        make(data, capacity=9)
