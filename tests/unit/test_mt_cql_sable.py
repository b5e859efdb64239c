"""MT CQL-Sable: its losses by their formulas, and where its targets come from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl.algos import mt_cql_sable
from mtmarl.algos.mt_cql_sable import following_slots
from mtmarl.networks import sable
from mtmarl.types import Dims
from tests.batches import ACTIONS, OBS, ROWS, STEPS, make_batch

CONFIG = mt_cql_sable.Config(
    learning_rate=1e-3, max_grad_norm=10.0, gamma=0.9, tau=0.1, conservative_weight=1.0, next_value="double_q",
    acting_temperature=0.0, hl_gauss=False, bins=11, sigma_ratio=0.75, network=sable.Config(16, 2, 1, 0.5),
)  # fmt: skip


def test_following_slots_skip_padding():
    mask = jnp.asarray([[True, False, True, False], [False, True, True, True], [False, False, False, True]])
    after, first = following_slots(mask)
    np.testing.assert_array_equal(after[0, [0, 2]], [2, 4])
    np.testing.assert_array_equal(after[1, 1:], [2, 3, 4])
    np.testing.assert_array_equal(after[2, 3], 4)
    np.testing.assert_array_equal(first, [0, 1, 3])


@pytest.mark.parametrize("next_value", ["double_q", "q_transformer"])
def test_loss_by_the_formulas(next_value):
    """Squared errors to targets written out slot by slot, with an online network unlike the target."""
    config = mt_cql_sable.Config(**{**vars(CONFIG), "next_value": next_value})
    dims, batch = Dims(2, OBS, ACTIONS, 10, 1), make_batch(2, tasks=1)
    algo = mt_cql_sable.make(config, dims, (-3.0, 3.0))
    learner = jax.jit(algo.init)(jax.random.key(0), batch)
    noise = lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape)
    learner = learner._replace(params=jax.tree.map(noise, learner.params))
    net = sable.Sable.make(config.network, dims, q_bins=1, policy=False)
    window = lambda params: net.window(params, batch.observation, batch.action, batch.first)[0].q[..., 0]
    b = jax.tree.map(np.asarray, batch)
    q, target = np.asarray(window(learner.params), np.float64), np.asarray(window(learner.target), np.float64)
    td, gap = [], []
    for row in range(ROWS):
        for t in range(STEPS):
            for n in range(2):
                legal = b.action_mask[row, t, n]
                gap.append(np.log(np.exp(q[row, t, n][legal]).sum()) - q[row, t, n, b.action[row, t, n]])
                if t == STEPS - 1:
                    continue
                if next_value == "q_transformer" and n == 0:
                    y = target[row, t, 1][b.action_mask[row, t, 1]].max()
                elif b.truncated[row, t]:
                    continue
                elif next_value == "q_transformer":
                    after = target[row, t + 1, 0][b.action_mask[row, t + 1, 0]].max()
                    y = b.reward[row, t] + 0.9 * after * ~b.terminated[row, t]
                else:
                    choice = np.where(b.action_mask[row, t + 1, n], q[row, t + 1, n], -np.inf).argmax()
                    y = b.reward[row, t] + 0.9 * target[row, t + 1, n, choice] * ~b.terminated[row, t]
                td.append(0.5 * (y - q[row, t, n, b.action[row, t, n]]) ** 2)
    _, metrics = jax.jit(algo.phases[0].update)(learner, batch, jax.random.key(1))
    np.testing.assert_allclose(metrics["cql/td_loss"], np.mean(td), rtol=1e-4)
    np.testing.assert_allclose(metrics["cql/gap_loss"], np.mean(gap), rtol=1e-4)


def test_conservatism_pulls_unseen_actions_down():
    """With a heavy weight the data's own actions end up with the highest values."""
    config = mt_cql_sable.Config(**{**vars(CONFIG), "conservative_weight": 10.0, "learning_rate": 1e-2})
    dims, batch = Dims(2, OBS, ACTIONS, 10, 1), make_batch(2, tasks=1)
    algo = mt_cql_sable.make(config, dims, (-3.0, 3.0))
    learner, update = jax.jit(algo.init)(jax.random.key(0), batch), jax.jit(algo.phases[0].update)
    gaps = []
    for i in range(100):
        learner, metrics = update(learner, batch, jax.random.key(i))
        gaps.append(float(metrics["cql/gap_loss"]))
    assert gaps[0] > 0.5
    assert gaps[-1] < 0.2 * gaps[0]
