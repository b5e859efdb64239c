"""Batches of the current policy's own experience."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.algos import sable as ppo
from mtmarl.data.on_policy import in_order, on_policy_source
from mtmarl.envs.registry import make_env
from mtmarl.networks import sable
from mtmarl.ops import masked
from mtmarl.types import Observation, example_batch

NETWORK = sable.Config(16, 2, 1, 0.5)
CONFIG = ppo.Config(
    learning_rate=1e-3, final_learning_rate=1e-3, max_grad_norm=0.5, gamma=0.99, gae_lambda=0.95, clip=0.2,
    entropy_weight=0.0, final_entropy_weight=0.0, value_weight=0.5, epochs=1, minibatches=1, advantage_floor=0.01,
    network=NETWORK,
)  # fmt: skip


def test_agents_take_their_turns_in_the_order_given():
    """Numbered agents say who they are; the policy sees them in order and each gets its own answer back."""
    order = jnp.asarray([[2, 0, 1], [1, 2, 0]])
    seen = []

    def act(params, carry, obs, key, explore):
        seen.append(np.asarray(obs.view[..., 0]))
        return carry, obs.view[..., 0].astype(jnp.int32), {"turn": jnp.tile(jnp.arange(3), (2, 1))}

    view = jnp.tile(jnp.arange(3.0)[None, :, None], (2, 1, 1))
    obs = Observation(view, jnp.ones((2, 3, 4), bool), jnp.ones((2, 3), bool))
    _, action, extras = in_order(act, order)(None, None, obs, None, 1.0)
    np.testing.assert_array_equal(seen[0], order)
    np.testing.assert_array_equal(action, [[0, 1, 2]] * 2)
    np.testing.assert_array_equal(extras["turn"], [[1, 2, 0], [2, 0, 1]])


def test_training_starts_from_the_probabilities_that_were_acted_with():
    """Over several batches, with memory carried on, episodes ending inside them and an order-sensitive policy."""
    env = make_env("lbf/6x6-3p-2f-t10")
    algo = ppo.make(CONFIG, env.spec.dims, 4)
    source = on_policy_source(env, algo.act, algo.init_carry, 8, 16, pool=8)
    params = algo.init(jax.random.key(0), example_batch(env.spec.dims)).params
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    net = sable.Sable.make(NETWORK, env.spec.dims, value=True)

    @jax.jit
    def draw(state, key):
        state, batch = source.next(state, None, None, params, key)
        out, _ = net.window(params, batch.observation, batch.action, batch.first, batch.extras["memory"])
        return state, batch, masked.take(masked.log_softmax(out.logits, batch.mask), batch.action), out.value

    state = source.init(jax.random.key(1))
    for i in range(3):
        state, batch, log_prob, value = draw(state, jax.random.key(i))
        np.testing.assert_allclose(batch.extras["log_prob"], log_prob, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(batch.extras["value"], value, rtol=1e-3, atol=1e-4)
    assert bool(batch.truncated.any())

    # In the order acted in, the first gradient step starts from a ratio of 1; as released, from anything.
    shuffling = ppo.make(replace(CONFIG, reshuffle_agents=True), env.spec.dims, 4)
    start = algo.init(jax.random.key(0), example_batch(env.spec.dims))._replace(params=params)
    step = lambda a: jax.jit(a.phases[0].update)(start, batch, jax.random.key(0))[1]["ppo/approximate_kl"]
    assert abs(float(step(algo))) < 1e-4 < 1e-3 < abs(float(step(shuffling)))
