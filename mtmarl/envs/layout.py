"""One layout of observations and actions for tasks of several families, and for numbered agents.

    observation = [ features, zero-padded to the widest family | one-hot of the family | one-hot of the agent ]

The family part exists where there are several families, the agent part where agents are numbered. With one family and
no numbers a task's own layout is left as it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.errors import UserError
from mtmarl.types import Env, TaskSpec, TimeStep

AgentIds = Literal["none", "fixed", "random"]


def family_of(task: str) -> str:
    return task.partition("/")[0]


@dataclass(frozen=True)
class Layout:
    """`features`: width without the one-hots; `ids`: width of the agents' one-hot (0: agents are not numbered).

    random_ids: every episode (in training, every window) deals the numbers out anew, so that teams larger than
    those trained on meet no number for the first time.
    """

    families: tuple[str, ...]
    features: int
    actions: int
    ids: int = 0
    random_ids: bool = False

    @classmethod
    def of(cls, specs: Iterable[TaskSpec], agent_ids: AgentIds = "none", ids: int = 0) -> "Layout":
        """The smallest layout that these tasks fit into; `ids` numbers are dealt out unless agent_ids is none."""
        specs = list(specs)
        families = tuple(dict.fromkeys(s.family for s in specs))
        return cls(
            families,
            max(s.obs for s in specs),
            max(s.actions for s in specs),
            0 if agent_ids == "none" else ids,
            agent_ids == "random",
        )

    @property
    def known(self) -> int:
        """Width without the agents' one-hot: what can be stored with a step."""
        return self.features + (len(self.families) if len(self.families) > 1 else 0)

    @property
    def obs(self) -> int:
        return self.known + self.ids

    def constant(self, family: str) -> np.ndarray:
        """The family's one-hot, [known - features] int8."""
        return np.asarray([family == f for f in self.families], np.int8)[: self.known - self.features]

    def wrap(self, env: Env) -> Env:
        """The task in this layout. Raises UserError where it does not fit."""
        spec = env.spec
        if spec.family not in self.families:
            raise UserError(
                f"{spec.name}: not of a family that the policy knows ({', '.join(self.families)})"
            )
        if spec.obs > self.features or spec.actions > self.actions:
            raise UserError(
                f"{spec.name} has observations {spec.obs} wide and {spec.actions} actions; "
                f"the policy takes {self.features} and {self.actions}"
            )
        if self.ids and spec.agents > self.ids:
            raise UserError(f"{spec.name}: {spec.agents} agents, and the policy has numbers for {self.ids}")
        return env if (spec.obs, spec.actions) == (self.obs, self.actions) else LaidOut(env, self)


def one_hot_ids(key: jax.Array, rows: int, agents: int, ids: int, random: bool) -> jax.Array:
    """[rows, agents, ids] float32: each agent's own slot, or different slots at random."""
    if not ids:
        return jnp.zeros((rows, agents, 0))
    order = jnp.broadcast_to(jnp.arange(ids), (rows, ids))
    if random:
        order = jnp.argsort(jax.random.uniform(key, (rows, ids)), axis=1)
    return jax.nn.one_hot(order[:, :agents], ids)


@dataclass(frozen=True, eq=False)
class LaidOut:
    """A task in a layout. The state is (the task's own state, the one-hots of its agents [N, ids])."""

    raw: Env
    layout: Layout

    @property
    def spec(self) -> TaskSpec:
        return replace(self.raw.spec, obs=self.layout.obs, actions=self.layout.actions)

    @property
    def obs_scale(self) -> np.ndarray:
        own = self.raw.obs_scale
        return np.concatenate([own, np.ones(self.layout.obs - own.size, np.float32)])

    def reset(self, key: jax.Array) -> tuple[Any, TimeStep]:
        # The start state must be the one that the task itself has under this key.
        state, step = self.raw.reset(key)
        key_ids = jax.random.fold_in(key, 1)
        ids = one_hot_ids(key_ids, 1, step.obs.shape[0], self.layout.ids, self.layout.random_ids)[0]
        return (state, ids), self._lay_out(step, ids)

    def step(self, state: Any, action: jax.Array, key: jax.Array) -> tuple[Any, TimeStep]:
        own, ids = state
        own, step = self.raw.step(own, action, key)
        return (own, ids), self._lay_out(step, ids)

    def _lay_out(self, step: TimeStep, ids: jax.Array) -> TimeStep:
        agents, width = step.obs.shape
        constant = jnp.asarray(self.layout.constant(self.raw.spec.family), jnp.float32)
        parts = (
            step.obs,
            jnp.zeros((agents, self.layout.features - width)),
            jnp.broadcast_to(constant, (agents, constant.size)),
            ids,
        )
        more_actions = self.layout.actions - step.mask.shape[1]
        mask = jnp.pad(step.mask, ((0, 0), (0, more_actions)))
        return step._replace(obs=jnp.concatenate(parts, axis=1), mask=mask)
