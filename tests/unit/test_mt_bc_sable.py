"""MT BC-Sable's loss by its formula."""

import jax
import numpy as np

from mtmarl.algos import mt_bc_sable
from mtmarl.networks import sable
from mtmarl.types import Dims
from tests.batches import ACTIONS, OBS, ROWS, make_batch

CONFIG = mt_bc_sable.Config(learning_rate=1e-2, max_grad_norm=10.0, network=sable.Config(16, 2, 1, 0.5))
DIMS = Dims(2, OBS, ACTIONS, 10, 2)


def test_loss_is_the_mean_over_tasks_of_their_negative_log_likelihoods():
    batch = make_batch(2)._replace(task_id=np.asarray([0, 1, 1, 1]))
    algo = mt_bc_sable.make(CONFIG, DIMS)
    learner = jax.jit(algo.init)(jax.random.key(0), batch)
    out, _ = sable.Sable.make(CONFIG.network, DIMS).window(
        learner.params, batch.observation, batch.action, batch.first
    )
    logits = np.where(batch.action_mask, np.asarray(out.logits, np.float64), -np.inf)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = (
        -np.take_along_axis(logits, np.asarray(batch.action)[..., None], -1)[..., 0].reshape(ROWS, -1).mean(1)
    )
    _, metrics = jax.jit(algo.phases[0].update)(learner, batch, jax.random.key(1))
    np.testing.assert_allclose(metrics["bc/loss"], (nll[0] + nll[1:].mean()) / 2, rtol=1e-5)


def test_it_learns_a_batch_by_heart():
    batch = make_batch(2)
    algo = mt_bc_sable.make(CONFIG, DIMS)
    learner, update = jax.jit(algo.init)(jax.random.key(0), batch), jax.jit(algo.phases[0].update)
    losses = []
    for i in range(150):
        learner, metrics = update(learner, batch, jax.random.key(i))
        losses.append(float(metrics["bc/loss"]))
    assert losses[-1] < 0.1 * losses[0]
