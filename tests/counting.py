"""Tasks that show how many steps were taken and end every few of them, for the tests of what is played and replayed."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mtmarl.types import TaskSpec, TimeStep


class Counting(NamedTuple):
    """Every agent sees [count, task, its slot, 0 …] in halves; after an odd count it may act, and is paid for it.

    An episode of `length` steps ends in a terminal state or, where `limited`, at its time limit.
    """

    task: int = 0
    agents: int = 1
    length: int = 5
    limited: bool = False
    width: int = 4

    @property
    def spec(self):
        number = {"level": self.task}
        return TaskSpec(
            f"toy/{self.task}", "toy", self.agents, self.width, 3, self.length, task_features=number
        )

    @property
    def obs_scale(self):
        return np.full(self.width, 0.5, np.float32)

    def reset(self, key):
        return jnp.zeros((), jnp.int32), self._see(jnp.zeros((), jnp.int32), jnp.zeros(()))

    def step(self, state, action, key):
        return state + 1, self._see(state + 1, (action == 1 + self.task % 2).mean(dtype=jnp.float32))

    def _see(self, count, reward):
        slot = jnp.arange(self.agents)
        told = jnp.broadcast_to(jnp.stack([count, jnp.asarray(self.task)]), (self.agents, 2))
        obs = jnp.concatenate([told, slot[:, None], jnp.zeros((self.agents, self.width - 3))], axis=1) / 2
        odd = count % 2 == 1
        mask = jnp.broadcast_to(jnp.stack([jnp.asarray(True), odd, odd]), (self.agents, 3))
        over, limited = count >= self.length, jnp.asarray(self.limited)
        return TimeStep(obs.astype(jnp.float32), mask, reward, over & ~limited, over & limited)


def act_when_possible(params, carry, obs, key, sample_probability):
    """Each agent does what pays in its task as soon as it may; nothing where it is told not to explore."""
    pays = 1 + jnp.round(2 * obs.obs[..., 1]).astype(jnp.int32) % 2
    return carry, pays * (obs.action_mask[..., 1] & obs.agent_mask & (sample_probability > 0)), {}
