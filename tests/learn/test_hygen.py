"""HyGen on tasks whose answers are known, and from poor data to a good policy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtmarl
from mtmarl import collect, train
from mtmarl.algos import hygen
from mtmarl.networks import entities
from mtmarl.types import Batch, Dims

pytestmark = pytest.mark.slow
ROWS, STEPS, AGENTS, ACTIONS = 32, 4, 2, 3
DIMS = Dims(AGENTS, 2, ACTIONS, STEPS, 2)
CONFIG = hygen.Config(
    learning_rate=3e-3, max_grad_norm=10.0, gamma=0.9, return_scale=1.0, skills=4, skill_fraction=0.5, kl_weight=1e-3,
    gumbel=True, conservative_weight=5.0, conservative_temperature=0.2,
    skill_weight=5.0, target_period=17, network=entities.Config(32, 1, 1),
    heads=None, head_width=8, share="linear", start_share=1.0, end_share=0.1, decay_fraction=0.2,
    conservative="dynamic", conservative_rows="recorded",
    consistency="label", refine_weight=1.0, refine_rows="recorded", capacity=1000, epsilon=1.0, final_epsilon=0.05,
    epsilon_fraction=0.5,
)  # fmt: skip


def batch_of(key, act) -> Batch:
    """Episodes of one window; agents see two numbers, `act(view, key, rows) -> action`."""
    keys = jax.random.split(key)
    shape = (ROWS, STEPS, AGENTS)
    view = jax.random.uniform(keys[0], (*shape, 2))
    times = jnp.broadcast_to(jnp.arange(STEPS), shape[:2])
    return Batch(
        obs=view, action_mask=jnp.ones((*shape, ACTIONS), bool), action=act(view, keys[1], jnp.arange(ROWS)),
        agent_mask=jnp.ones(shape, bool), reward=jnp.zeros(shape[:2]), first=times == 0,
        terminated=times == STEPS - 1, truncated=times < 0, time_mask=jnp.ones(shape[:2], bool),
        task_id=jnp.arange(ROWS) % 2, return_to_go=jnp.zeros(shape[:2]),
    )  # fmt: skip


def by_what_is_seen(view, key, rows):
    return jnp.floor(ACTIONS * view[..., 0]).astype(jnp.int32)


def by_lot(view, key, rows):
    return jax.random.randint(key, view.shape[:-1], 0, ACTIONS)


def one_of_two_ways(view, key, rows):
    """Every row keeps to its own, which nothing that is seen gives away."""
    return jnp.broadcast_to((1 + rows // 2 % 2)[:, None, None], view.shape[:-1])


def trained(act, updates, config=CONFIG):
    """Metrics of all updates of both phases, each on a batch of its own."""
    algo = hygen.make(config, DIMS, (-1.0, 1.0))
    learner, history = jax.jit(algo.init)(jax.random.key(0), batch_of(jax.random.key(0), act)), []
    for phase in algo.phases:
        one = lambda learner, key, phase=phase: phase.update(learner, batch_of(key, act), key)
        keys = jax.random.split(jax.random.key(1), updates)
        learner, metrics = jax.jit(lambda s, k, one=one: jax.lax.scan(one, s, k))(learner, keys)
        history.append(jax.tree.map(np.asarray, metrics))
    return history


def test_a_skill_is_recognised_where_what_is_seen_tells_it():
    recognised = lambda metrics: metrics["policy/skill_loss"][-30:].mean()
    # Without a price on skills that differ, those that need not be told apart would not be.
    config = replace(CONFIG, kl_weight=0.0)
    discovered, plain = trained(by_what_is_seen, 600, config)
    assert recognised(plain) < 0.1
    discovered, hidden = trained(by_lot, 600, config)
    assert discovered["skills/skill_entropy"][-30:].mean() > 0.8 and recognised(hidden) > 0.5


def test_two_ways_to_act_become_at_least_two_skills():
    """Three of four skills used in at most one step of twenty would leave an entropy of at most 0.59."""
    discovered, _ = trained(one_of_two_ways, 500)
    assert discovered["skills/loss"][-30:].mean() < 0.1
    assert discovered["skills/skill_entropy"][-30:].mean() > 0.6


TASK = "lbf/5x5-2p-1f-t20"


def test_hybrid_training_is_better_than_its_data(tmp_path):
    """The data are of the first half of learning; what is played on top shows what else there is to gain."""
    vaults = f"data.vault_dir={tmp_path / 'vaults'}"
    recorded = [
        "+algo=sable", f"+tasks={TASK}", vaults, f"run_dir={tmp_path / 'online'}", "algo.network.embed_dim=32",
        "collect.env_steps=40960", "collect.evaluations=2", "collect.record_points=2", "collect.record_episodes=128",
        "quiet=true",
    ]  # fmt: skip
    assert collect.main(recorded) == 0
    data = mtmarl.read_vault(tmp_path / f"vaults/{TASK}.vlt/replay").recording
    recorded_return = data.reward.sum() / data.first.sum()
    hybrid = [
        "+algo=hygen", f"+tasks={TASK}", vaults, f"run_dir={tmp_path / 'hybrid'}", "algo.network.embed_dim=32",
        "algo.learning_rate=0.001", "algo.epsilon_fraction=0.5", "trainer.updates=2000", "trainer.chunk=50",
        "trainer.checkpoint_every=2000", "trainer.batch_size=32", "trainer.context=20", "collect.num_envs=16",
        "collect.rollout_length=20", "evaluator.every=2000", "evaluator.final_episodes=160", "quiet=true",
    ]  # fmt: skip
    assert train.main(hybrid) == 0
    policy = mtmarl.load_policy(tmp_path / "hybrid", "last")
    result = mtmarl.evaluate_policy(policy, TASK, episodes=160)[TASK]  # explores as its data were recorded
    assert 0.5 < recorded_return < 0.85 and result.mean > recorded_return + 0.15
