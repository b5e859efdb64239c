"""M3's pre-training on made-up tasks whose answers are known."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl import build
from mtmarl import config as configs
from mtmarl.algos import ALGOS, m3
from mtmarl.networks.m3 import Config
from mtmarl.types import Batch, Dims

pytestmark = pytest.mark.slow
ROWS, STEPS, AGENTS, FEATURES, ACTIONS = 32, 3, 2, 4, 4
# Two columns behind the features tell the task.
DIMS = Dims(AGENTS, FEATURES + 2, ACTIONS, STEPS, 2, None, (FEATURES, FEATURES + 2))
CONFIG = m3.Config(
    learning_rate=3e-3, weight_decay=0.0, max_grad_norm=10.0, codes=64, specific_width=4, reconstruction_weight=1.0,
    kl_weight=1e-3, codebook_weight=1.0, commitment_weight=0.25, usage_decay=0.9, usage_floor=0.1, quantise=True,
    split=True, network=Config(32, 2, 1, STEPS),
)  # fmt: skip
CONTEXTS = jnp.asarray([[1.0, -1.0], [-1.0, 1.0]])


def batch_of(key, act) -> Batch:
    """Whole episodes of two tasks; `act(view, task_id [B, 1, 1], role [B, 1, N], key) -> action`.

    A role, 0 or 1, is an agent's for an episode, and shows in its features only at the first step.
    """
    keys = jax.random.split(key, 3)
    shape = (ROWS, STEPS, AGENTS)
    task_id = jnp.arange(ROWS) % 2
    role = jax.random.bernoulli(keys[0], 0.5, (ROWS, 1, AGENTS)).astype(jnp.int32)
    view = jax.random.uniform(keys[1], (*shape, FEATURES))
    view = view.at[:, 0, :, 0].set(role[:, 0])
    told = jnp.broadcast_to(CONTEXTS[task_id][:, None, None], (*shape, 2))
    times = jnp.broadcast_to(jnp.arange(STEPS), shape[:2])
    return Batch(
        obs=jnp.concatenate([view, told], axis=-1), action_mask=jnp.ones((*shape, ACTIONS), bool),
        action=act(view, task_id[:, None, None], role, keys[2]), agent_mask=jnp.ones(shape, bool),
        reward=jnp.zeros(shape[:2]), first=times == 0, terminated=times == STEPS - 1, truncated=times < 0,
        time_mask=jnp.ones(shape[:2], bool), task_id=task_id, extras={"role": role},
    )  # fmt: skip


def by_task(view, task_id, role, key):
    """Of the last two features the greater is action 0 or 1, and in the second task the other way about."""
    greater = (view[..., -1] > view[..., -2]).astype(jnp.int32)
    return jnp.where(task_id == 0, greater, 1 - greater)


def by_task_and_role(view, task_id, role, key):
    """Two behaviours in each of two tasks."""
    return jnp.broadcast_to(2 * role + task_id, view.shape[:3])


def train(config, act, updates, dims=DIMS):
    algo = m3.make(config, dims)
    strip = lambda batch: batch._replace(extras={})
    learner = jax.jit(algo.init)(jax.random.key(0), strip(batch_of(jax.random.key(0), act)))
    one = lambda s, k: algo.phases[0].update(s, strip(batch_of(k, act)), jax.random.fold_in(k, 1))
    learner, metrics = jax.jit(lambda s, k: jax.lax.scan(one, s, k))(
        learner, jax.random.split(jax.random.key(1), updates)
    )
    return learner, jax.tree.map(np.asarray, metrics)


def said(learner, batch, config=CONFIG):
    return m3.make_actor(config.network, DIMS, latents=True).window(learner.params["actor"], batch)


def test_codes_come_into_use():
    """Two behaviours in each of two tasks, and codes that begin on one spot far from all encodings."""
    algo = m3.make(CONFIG, DIMS)
    first = batch_of(jax.random.key(0), by_task_and_role)._replace(extras={})
    learner = jax.jit(algo.init)(jax.random.key(0), first)
    spot = 30.0 + 0.01 * learner.params["codebook"]
    learner = learner._replace(params={**learner.params, "codebook": spot})

    def one(learner, key):
        batch = batch_of(key, by_task_and_role)._replace(extras={})
        return algo.phases[0].update(learner, batch, jax.random.fold_in(key, 1))

    keys = jax.random.split(jax.random.key(1), 2000)
    learner, metrics = jax.jit(lambda s, k: jax.lax.scan(one, s, k))(learner, keys)
    assert np.asarray(metrics["m3/perplexity"][-50:]).mean() > 4
    assert np.isfinite(np.linalg.norm(learner.params["codebook"], axis=-1)).all()


@pytest.mark.parametrize("condition", ["gate", "film", "concat"])
def test_the_task_decides_where_observations_do_not(condition):
    config = replace(CONFIG, network=replace(CONFIG.network, condition=condition))
    learner, _ = train(config, by_task, 600)
    batch = batch_of(jax.random.key(7), by_task)
    right = lambda b: float((said(learner, b, config).logits.argmax(-1) == batch.action).mean())
    assert right(batch) > 0.95
    swapped = batch.obs.at[..., FEATURES:].multiply(-1.0)
    assert right(batch._replace(obs=swapped)) < 0.2


def test_without_the_task_they_cannot_be_told_apart():
    config = replace(CONFIG, network=replace(CONFIG.network, condition="none"))
    _, metrics = train(config, by_task, 600)
    assert metrics["m3/accuracy"][-20:].mean() < 0.65


def probe(z, role, split):
    """Accuracy of a linear classifier fitted by least squares to some rows, on the others."""
    x = np.concatenate([z, np.ones((len(z), 1))], axis=1)
    weight, *_ = np.linalg.lstsq(x[:split], 2.0 * role[:split] - 1.0, rcond=None)
    return ((x[split:] @ weight > 0) == (role[split:] > 0)).mean()


def published(**changes):
    """The settings of the YAML, but for sizes and the speed of learning."""
    cfg = configs.compose(["+algo=m3", "+tasks=lbf_5"], "train")
    _, settings = build.parse_algorithm(cfg, ALGOS)
    of_tests = ("learning_rate", "weight_decay", "max_grad_norm", "usage_decay", "network")
    return replace(settings, **{name: getattr(CONFIG, name) for name in of_tests}, **changes)


def test_an_agents_own_latent_tells_its_role():
    """What each did last step follows from its role and its task, and must be recovered; the codes are too few."""
    config = published(codes=1)
    learner, metrics = train(config, by_task_and_role, 1000)
    keys = jax.random.split(jax.random.key(7), 8)
    batch = jax.tree.map(lambda *x: jnp.concatenate(x), *(batch_of(k, by_task_and_role) for k in keys))
    z = said(learner, batch._replace(extras={}), config).z
    own = learner.params["specific"]["mean"]
    mean = np.asarray(z[:, -1] @ own["kernel"] + own["bias"]).reshape(-1, config.specific_width)
    role = np.asarray(batch.extras["role"][:, 0]).ravel()
    assert probe(mean, role, len(role) // 2) > 0.9
    last = metrics["m3/last_action_nll"]
    assert last[-20:].mean() < 0.1 < 0.5 < last[:5].mean()
    assert metrics["m3/kl"][-20:].mean() > 0.5, "the latent of the agent is in use"
