"""Online QMIX (Rashid et al. 2018) with double Q-learning on replayed windows. It collects the data of SMAX.

Departures: docs/departures.md.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import optax

from mtmarl import acting
from mtmarl.algos.base import Algorithm, Phase, Spec, gradient_step, init_learner, minibatches
from mtmarl.errors import UserError
from mtmarl.networks import entities, recurrent
from mtmarl.ops import masked, td
from mtmarl.ranges import Count, Positive, Share, Size, SomeShare
from mtmarl.types import Batch, Dims


@dataclass(frozen=True, kw_only=True)
class EpsilonGreedy:
    """In rollouts the probability of a random action falls linearly from `epsilon` to `final_epsilon`, over the first
    `epsilon_fraction` of training.
    """

    epsilon: Share
    final_epsilon: Share
    epsilon_fraction: SomeShare

    def __post_init__(self):
        if not 0 < self.final_epsilon <= self.epsilon <= 1:
            raise UserError(
                f"final_epsilon={self.final_epsilon} and epsilon={self.epsilon} must lie in this order between 0 and 1 "
                "and never be 0: acting gets epsilon as a multiple of final_epsilon"
            )

    def exploration(self, update: jax.Array, updates: int | float) -> jax.Array:
        """Returns epsilon of rollouts as a multiple of `final_epsilon`. Evaluation uses 1."""
        done = update / (self.epsilon_fraction * updates)
        epsilon = self.epsilon + (self.final_epsilon - self.epsilon) * jnp.clip(done, 0.0, 1.0)
        return epsilon / self.final_epsilon


@dataclass(frozen=True, kw_only=True)
class Config(EpsilonGreedy):
    """capacity: env steps in the replay buffer. batch_size: windows of `context` steps per gradient step. Several tasks
    share both equally. gradient_steps: per rollout. target_period: gradient steps between copies of the target.
    """

    learning_rate: Positive
    max_grad_norm: Positive
    gamma: Share
    reward_scale: Positive
    capacity: Count
    batch_size: Size
    context: Size
    gradient_steps: Size
    target_period: Count
    network: recurrent.Config


def make(config: Config, dims: Dims, updates: int) -> Algorithm:
    """L = mean (Q_tot(a) - r - gamma Q_tot^-(best next a by the online network))^2."""
    split, width = entities.entities_of(dims), config.network.embed_dim
    agent, mixer = recurrent.GruAgent(config.network, dims.actions), entities.Mixer(width)
    mix = partial(entities.mix, mixer, split)
    init_carry = entities.empty_histories(("agent",), width)
    tx = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.rmsprop(config.learning_rate, decay=0.99, eps=1e-5, eps_in_sqrt=False),
    )

    def values(params, batch: Batch):
        rows, _, agents = batch.action.shape
        last = entities.last_actions(batch)
        one = lambda carry, x: recurrent.scores(agent, params["agent"], x[0], x[1], carry)
        start = init_carry(rows, agents).history["agent"]
        return entities.unroll_agents(one, start, (batch.observation, last), batch)

    def loss(params, target, batch: Batch, key):
        online, frozen = values(params, batch), values(target, batch)
        best = td.best_legal(online, batch.action_mask)
        total = mix(params, masked.take(online, batch.action), batch)
        following = mix(target, masked.take(frozen, best), batch)
        y = td.target(batch, config.reward_scale, config.gamma, following)
        mean = lambda x, where: masked.mean_over_tasks(x, where, batch.task_id, dims.tasks)
        td_loss = mean((total[:, :-1] - y) ** 2, td.known(batch))
        return td_loss, {"td_loss": td_loss, "q": mean(total, batch.time_mask) / config.reward_scale}

    def init(key: jax.Array, batch: Batch):
        key_agent, key_mixer = jax.random.split(key)
        q, carry = jnp.zeros(batch.action.shape), jnp.zeros((*batch.action.shape, width))
        params = {
            "agent": agent.init(key_agent, batch.observation, batch.action, carry)["params"],
            "mixer": mixer.init(key_mixer, q, entities.team_of(split, batch), batch.agent_mask)["params"],
        }
        return init_learner(params, {"qmix": tx})

    def act(params, carry, observation, key, sample_probability):
        """Epsilon-greedy over legal actions, with epsilon = `sample_probability * final_epsilon`."""
        before = carry.history["agent"]
        history, q = recurrent.scores(agent, params["agent"], observation, carry.last_action, before)
        action = entities.choose(q, observation, key, sample_probability * config.final_epsilon, uniform=True)
        return entities.AgentCarry({"agent": history}, action), action, {}

    step = gradient_step("qmix", loss, tx, period=config.target_period)
    phase = Phase("train", 1.0, minibatches(step, 1, config.gradient_steps), source="replay")
    return Algorithm(init, (phase,), act, init_carry)


SPEC = Spec(
    Config=Config,
    make=make,
    kind="online",
    title="QMIX",
    needs=("updates",),
    learns_values=True,
    acting=acting.nearly_greedily,
    decentralised=True,
)
