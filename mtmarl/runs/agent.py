"""A policy as an object with memory, for a loop of one's own: NumPy in, NumPy out."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.envs.layout import LaidOut, LaidOutState
from mtmarl.envs.registry import make_env
from mtmarl.errors import UserError
from mtmarl.random_streams import Stream, branch, stream
from mtmarl.runs.policy import Policy
from mtmarl.training.rollout import observe
from mtmarl.types import TaskSpec, TimeStep


@dataclass(frozen=True, eq=False)
class _Shown:
    """A task that shows what it is given: its state is the timestep to show."""

    spec: TaskSpec

    @property
    def obs_scale(self) -> np.ndarray:
        return np.ones(self.spec.obs, np.float32)

    def reset(self, key: jax.Array) -> tuple[TimeStep, TimeStep]:
        s, no = self.spec, jnp.zeros((), bool)
        step = TimeStep(
            jnp.zeros((s.agents, s.obs)), jnp.ones((s.agents, s.actions), bool), jnp.float32(0), no, no
        )
        return step, step

    def step(self, state: TimeStep, action: Any, key: Any) -> tuple[TimeStep, TimeStep]:
        return state, state


class Agent:
    """A team of agents that acts with a policy, one team in one environment.

    `reset()` begins an episode, `act(obs, action_mask)` selects the actions of a step. Equal seeds give equal actions.
    Compiled once per team size.
    """

    def __init__(self, policy: Policy, task: str, team: int | None, sample_probability: float, seed: int):
        if not 0 <= sample_probability <= 1:
            raise UserError(f"sample_probability must lie in 0 … 1, not {sample_probability}")
        known = make_env(task).spec
        if team is not None and team < 1:
            raise UserError(f"team must be at least 1, not {team}")
        self.spec = replace(known, agents=team or known.agents)
        self._policy, self._share, self._seed = policy, sample_probability, seed
        task_env = _Shown(self.spec)
        policy.layout.wrap(task_env)  # refuses what does not fit
        self._env = LaidOut(task_env, policy.layout)
        self._start, self._act = jax.jit(self.fresh), jax.jit(self.step)
        self._episode = 0
        self.reset()

    def fresh(self, key: jax.Array) -> tuple[LaidOutState, Any]:
        state, _ = self._env.reset(key)
        return state._replace(task=None), self._policy.init_carry(1, self.spec.agents)

    def step(self, params, state: LaidOutState, carry, obs, mask, reward, key):
        no = jnp.zeros((), bool)
        shown = state._replace(task=TimeStep(obs, mask, reward, no, no))
        _, step = self._env.step(shown, jnp.zeros(len(obs), jnp.int32), key)
        observation = observe(jax.tree.map(lambda x: x[None], step))
        carry, action, _ = self._policy.act(params, carry, observation, key, self._share)
        return carry, action[0]

    def reset(self) -> None:
        """Begins an episode: memory is empty, and numbers and slots of agents are drawn anew."""
        self._key = stream(self._seed, Stream.EPISODES, self._episode)
        self._layout, self._carry = self._start(self._key)
        self._episode, self._steps = self._episode + 1, 0

    def act(self, obs: Any, action_mask: Any = None, reward: float = 0.0) -> np.ndarray:
        """Returns the actions [N] int32 of one step, and remembers it.

        obs: [N, O], as the task shows it. action_mask: [N, A] legal actions; None: all. reward: team reward of the step
        before, which only policies with a target return use. Raises UserError for wrong shapes and numbers.
        """
        s = self.spec
        obs = np.asarray(obs, np.float32)
        if obs.shape != (s.agents, s.obs):
            raise UserError(f"obs has shape {obs.shape}, expected {(s.agents, s.obs)} (agents, features)")
        if not np.isfinite(obs).all():
            agent, feature = np.argwhere(~np.isfinite(obs))[0]
            raise UserError(f"obs[{agent}, {feature}] is {obs[agent, feature]}; it must be finite")
        mask = np.ones((s.agents, s.actions), bool) if action_mask is None else np.asarray(action_mask, bool)
        if mask.shape != (s.agents, s.actions):
            raise UserError(f"action_mask has shape {mask.shape}, expected {(s.agents, s.actions)}")
        if not mask.any(1).all():
            raise UserError(f"action_mask[{int(np.argmin(mask.any(1)))}]: no action is legal")
        key = branch(self._key, Stream.PLAY, self._steps)
        self._carry, action = self._act(
            self._policy.params, self._layout, self._carry, obs, mask, np.float32(reward), key
        )
        self._steps += 1
        return np.asarray(action)

    def __repr__(self) -> str:
        return f"Agent({self.spec.agents} agents as in {self.spec.name}, step {self._steps})"
