"""What every source of batches must do, whatever it draws from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos.base import no_carry, random_act
from mtmarl.data.hybrid import hybrid_source
from mtmarl.data.sampling import make_task_data
from mtmarl.data.source import Windows, vault_source
from mtmarl.data.vault import Recording, Vault
from mtmarl.errors import UserError
from mtmarl.types import Dims
from tests.counting import Counting

DIMS = Dims(agents=3, obs=4, actions=3, horizon=10, tasks=3)
BATCH, CONTEXT = 8, 6


def _vault(seed: int, agents: int, steps: int = 60) -> Vault:
    rng = np.random.default_rng(seed)
    count = np.arange(steps) % DIMS.horizon
    mask = rng.random((steps, agents, 3)) < 0.5
    mask[..., 0] = True
    recording = Recording(
        obs=rng.integers(-5, 6, (steps, agents, 4)).astype(np.int8),
        mask=mask,
        action=np.argmax(mask * rng.random(mask.shape), -1).astype(np.int8),
        reward=rng.normal(size=steps).astype(np.float32),
        first=count == 0,
        terminal=np.zeros(steps, bool),
        truncated=count == DIMS.horizon - 1,
        step_count=count.astype(np.int16),
        policy_step=np.zeros(steps, np.int32),
    )
    return Vault(recording, {"task": f"toy/{seed}", "obs_scale": [0.5] * 4})


def _task_data():
    return make_task_data([_vault(0, 1), _vault(1, 3), _vault(2, 2, 33)], DIMS)


def _hybrid(share: float):
    envs = [Counting(k, n, DIMS.horizon, limited=True) for k, n in enumerate((1, 3, 2))]
    vault = vault_source(_task_data(), BATCH, CONTEXT, shuffle=False)
    return hybrid_source(
        vault, Windows((), BATCH, CONTEXT), envs, random_act, no_carry, 2, CONTEXT, 2, 72,
        lambda update: jnp.float32(share), lambda update: 1.0,
    )  # fmt: skip


SOURCES = {
    "hybrid": lambda: _hybrid(0.5),
    "hybrid, played alone": lambda: _hybrid(0.0),
    "vault": lambda: vault_source(_task_data(), BATCH, CONTEXT),
    "vault, fixed order": lambda: vault_source(_task_data(), BATCH, CONTEXT, shuffle=False),
    "vault, one task per update": lambda: vault_source(_task_data(), BATCH, CONTEXT, balanced=False),
}


@pytest.fixture(params=SOURCES, scope="module")
def source(request):
    return SOURCES[request.param]()


def _run(source, state, data, keys):
    def one(state, key):
        return source.next(state, data, None, None, key)

    return jax.lax.scan(one, state, keys)


@pytest.fixture(scope="module")
def drawn(source):
    keys = jax.random.split(jax.random.key(1), 9)
    run = jax.jit(lambda s, d, k: _run(source, s, d, k))
    # No key is used for two things.
    with jax.debug_key_reuse(True):
        return jax.device_get(run(source.init(jax.random.key(0)), source.data, keys))[1]


def test_shapes_and_dtypes(drawn):
    shape, n = (9, BATCH, CONTEXT), DIMS.agents
    expected = {
        "obs": ((*shape, n, DIMS.obs), np.float32),
        "action_mask": ((*shape, n, DIMS.actions), np.bool_),
        "action": ((*shape, n), np.int32),
        "agent_mask": ((*shape, n), np.bool_),
        "reward": (shape, np.float32),
        "first": (shape, np.bool_),
        "terminated": (shape, np.bool_),
        "truncated": (shape, np.bool_),
        "time_mask": (shape, np.bool_),
        "task_id": (shape[:2], np.int32),
        "return_to_go": (shape, np.float32),
        "last_action": ((*shape[:2], n), np.int32),
    }
    if drawn.return_to_go is None:  # How what was just played goes on is not known.
        del expected["return_to_go"]
    arrays = {k: v for k, v in drawn._asdict().items() if k not in ("extras", "present")}
    found = {k: (v.shape, v.dtype) for k, v in arrays.items() if v is not None}
    assert found == expected
    assert all(x.shape[:2] == (9, BATCH) for x in drawn.extras.values()), (
        "the trainer splits all of it by rows"
    )


def test_actions_are_legal_and_padded_agents_idle(drawn):
    assert np.take_along_axis(drawn.action_mask, drawn.action[..., None], -1).all()
    padded = ~drawn.agent_mask
    assert not drawn.obs[padded].any() and not drawn.action[padded].any()
    assert (drawn.action_mask[padded] == [True, False, False]).all()
    np.testing.assert_array_equal(drawn.agent_mask[..., 0, :].sum(-1), np.array([1, 3, 2])[drawn.task_id])
    assert (drawn.agent_mask == drawn.agent_mask[:, :, :1]).all()


def test_how_many_agents_there_are_at_most_is_known(drawn):
    """8 rows of tasks of 1, 3 and 2 agents: 12 in six of them, at most 5 in the other two."""
    there = drawn.agent_mask[..., 0, :].sum((1, 2))
    one_task = (drawn.task_id == drawn.task_id[:, :1]).all()
    assert there.max() == drawn.present.number == (3 * BATCH if one_task else 17)


def test_the_action_before_a_window_is_known_inside_an_episode(drawn):
    known = (drawn.last_action >= 0).all(-1)
    np.testing.assert_array_equal(known, (drawn.last_action >= 0).any(-1))
    assert not known[drawn.first[..., 0]].any()
    # Replay may have forgotten it.
    inside = known[~drawn.first[..., 0]]
    assert inside.all() or ("recorded" in drawn.extras and inside.mean() > 0.5)
    there = drawn.agent_mask[..., 0, :] & known[..., None]
    assert drawn.last_action[there].any() and not drawn.last_action[~drawn.agent_mask[..., 0, :]].max() > 0


def test_memory_is_reset_exactly_after_an_end(drawn):
    np.testing.assert_array_equal(drawn.first[..., 1:], (drawn.terminated | drawn.truncated)[..., :-1])


def test_split_runs_draw_the_same_batches(source, drawn):
    keys = jax.random.split(jax.random.key(1), 9)
    state, head = _run(source, source.init(jax.random.key(0)), source.data, keys[:4])
    _, tail = _run(source, state, source.data, keys[4:])
    again = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), head, tail)
    jax.tree.map(np.testing.assert_array_equal, again, drawn)


def test_one_trace_for_all_updates(source):
    traces = []

    @jax.jit
    def step(state, data, key):
        traces.append(1)
        return source.next(state, data, None, None, key)

    state = source.init(jax.random.key(0))
    for i in range(3):
        state, _ = step(state, source.data, jax.random.key(i))
    assert len(traces) == 1


def test_rows_per_task():
    def counts(name):
        source = SOURCES[name]()
        _, batch = _run(
            source, source.init(jax.random.key(0)), source.data, jax.random.split(jax.random.key(2), 12)
        )
        return np.stack([np.bincount(t, minlength=3) for t in np.asarray(batch.task_id)])

    balanced = counts("vault")
    assert (balanced.sum(0) == 32).all() and set(np.unique(balanced)) == {2, 3}
    assert (np.sort(counts("vault, one task per update"), 1) == [0, 0, BATCH]).all()


def test_a_task_shorter_than_the_window_is_named():
    with pytest.raises(UserError, match="task 2 has 33 steps, fewer than a window of 40"):
        vault_source(_task_data(), BATCH, 40)


def _draw(**options):
    source = vault_source(_task_data(), BATCH, CONTEXT, **options)
    return jax.device_get(
        source.next(source.init(jax.random.key(0)), source.data, None, None, jax.random.key(1))[1]
    )


def test_without_masks_padded_slots_are_agents_that_see_zeros():
    masked, plain = _draw(), _draw(mask=False)
    assert plain.agent_mask.all()
    assert not plain.obs[~masked.agent_mask].any()
    np.testing.assert_array_equal(plain.obs, masked.obs)


def test_limits_may_count_as_ends():
    plain, ended = _draw(), _draw(end_at_limits=True)
    assert plain.truncated.any() and not plain.terminated.any()
    np.testing.assert_array_equal(ended.terminated, plain.truncated)
    assert not ended.truncated.any()


@pytest.mark.parametrize("random_ids", [False, True])
def test_numbers_go_with_their_agents(random_ids):
    plain = _draw(shuffle=False)
    numbered = _draw(shuffle=False, ids=4, random_ids=random_ids)
    np.testing.assert_array_equal(numbered.obs[..., :-4], plain.obs)
    numbers = numbered.obs[..., -4:]
    np.testing.assert_array_equal(numbers.sum(-1), plain.agent_mask)
    assert (numbers == numbers[:, :1]).all(), "one number for a whole window"
    assert numbers.sum(2).max() == 1, "no two agents share a number"
    own = np.broadcast_to(np.eye(4)[:3], numbers.shape) * plain.agent_mask[..., None]
    assert (numbers == own).all() != random_ids
    shuffled = _draw(ids=4, random_ids=random_ids)
    rows = lambda x: np.sort(x.reshape(BATCH, -1, DIMS.agents * (DIMS.obs + 4)), axis=-1)
    np.testing.assert_array_equal(rows(shuffled.obs), rows(numbered.obs))
