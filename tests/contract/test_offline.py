"""What the loss of every offline algorithm must not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtmarl import build, config
from mtmarl.algos import ALGOS, OFFLINE
from mtmarl.ops.agents import shuffle_agents
from mtmarl.types import AtMost, Dims
from tests.batches import ACTIONS, OBS, ROWS, TOY, make_batch, pad

VARIANTS = {
    **{name: [name] for name in OFFLINE},
    "mt_oryx, scalar values": ["mt_oryx", "algo.hl_gauss=false"],
    "mt_cql_sable, q_transformer": ["mt_cql_sable", "algo.next_value=q_transformer"],
    # Without noise: every row draws its own.
    "odis": ["odis", "algo.gumbel=false"],
    "hygen": ["hygen", "algo.gumbel=false"],
    # Without contrast: it is what makes tasks differ.
    "hissd": ["hissd", "algo.contrast=off"],
    "hissd, without planning": ["hissd", "algo.contrast=off", "algo.planning=false"],
    "madt, told": ["madt", "algo.tell_actions=true", "algo.target_return=1.0"],
    # Without the latent of the agent itself, of which a sample is drawn.
    "m3": ["m3", "algo.split=false"],
    "m3, entities": ["m3", "algo.split=false", "algo.network.encoder=entity"],
}


# Those that take half a minute to compile, several times each.
SLOW = [name for name in VARIANTS if name.startswith(("hissd", "hygen"))]


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in VARIANTS],
    scope="module",
)
def make(request):
    name, *options = VARIANTS[request.param]
    cfg = config.compose(
        [f"+algo={name}", "+tasks=lbf_5", "algo.network.embed_dim=16", "algo.network.heads=2", *options],
        "train",
    )
    spec, settings = build.parse_algorithm(cfg, ALGOS)
    return lambda dims: build.make_algorithm(spec, settings, dims, 100, (-3.0, 3.0))


def update(make, batch, tasks=2):
    """(learner, metrics) after one update in each phase of a learner whose heads are not all near zero."""
    algo = make(Dims(batch.action.shape[2], OBS, ACTIONS, 10, tasks, TOY))
    learner = jax.jit(algo.init)(jax.random.key(0), batch)
    noise = lambda p: p + 0.2 * jax.random.normal(jax.random.key(p.size), p.shape)
    learner = learner._replace(params=jax.tree.map(noise, learner.params))
    metrics = {}
    for phase in algo.phases:
        after, more = jax.jit(phase.update)(learner, batch, jax.random.key(1))
        metrics |= more
    return after, metrics


def assert_same(a, b):
    scalars = [name for name, x in a.items() if x.ndim == 0]
    assert len(scalars) >= 3
    for name in scalars:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=2e-6, err_msg=name)


def test_padding_may_stand_anywhere(make):
    """A padded and shuffled batch is the unpadded batch in that agent order, also where it says how many agents it has,
    and its gradients are finite.
    """
    padded = shuffle_agents(pad(make_batch(3), 5), jax.random.key(3))
    order = jnp.argsort(~padded.agent_mask[:, 0], axis=1, stable=True)[:, :3]
    pick = lambda x: jnp.take_along_axis(x, order.reshape(ROWS, 1, 3, *[1] * (x.ndim - 3)), axis=2)
    per_agent = ("obs", "action_mask", "action", "agent_mask")
    plain = padded._replace(**{name: pick(getattr(padded, name)) for name in per_agent})
    assert bool(plain.agent_mask.all())
    after, metrics = update(make, padded)
    assert_same(update(make, plain)[1], metrics)
    counted = padded._replace(present=AtMost(3 * ROWS + 1))
    assert_same(update(make, counted)[1], metrics)
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves((after.params, metrics)))


def test_copies_of_a_task_are_that_task(make):
    batch = make_batch(3)._replace(task_id=jnp.zeros(ROWS, jnp.int32))
    double = jax.tree.map(lambda x: jnp.concatenate([x, x]), batch)
    double = double._replace(task_id=jnp.repeat(jnp.arange(2), ROWS))
    assert_same(update(make, batch, 1)[1], update(make, double, 2)[1])
