"""The values that flow through the library. Imports nothing of ours.

Axes: B batch, T time, N agents, A actions, O observation features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

Params = Any
Carry = Any
Metrics = Mapping[str, jax.Array]


@dataclass(frozen=True)
class Dims:
    """The common sizes of a set of tasks. Tasks are padded to them at the border.

    agents: most agents of any task; obs: width of one agent's observation; actions: legal and
    illegal actions together; horizon: longest episode in env steps; tasks: number of tasks; entities: how an
    observation splits into entities, None where that is not known; task_features: from where to where an observation
    says what task it is, nowhere unless the algorithm asks for it; families: of how many the tasks are.
    """

    agents: int
    obs: int
    actions: int
    horizon: int
    tasks: int = 1
    entities: "Entities | None" = None
    task_features: tuple[int, int] = (0, 0)
    families: int = 1


class Slots(NamedTuple):
    """A group of slots for interchangeable objects in an observation: `count` slots of `width` columns from `start`.

    The same column of each slot has the same scale. An empty slot holds the same values in every task.
    """

    start: int
    count: int
    width: int

    @property
    def stop(self) -> int:
        return self.start + self.count * self.width


@dataclass(frozen=True)
class TaskSpec:
    """What is known of a task before it is stepped. `name` is `family/scenario`.

    win_return: an episode that returns more is won; None where nothing is won or lost. max_return: what the best
    episode returns; None where that is not known. task_features: further numbers that describe the task, by the names
    that its family gives them.
    """

    name: str
    family: str
    agents: int
    obs: int
    actions: int
    horizon: int
    win_return: float | None = None
    max_return: float | None = None
    task_features: Mapping[str, int | float] = field(default_factory=dict, hash=False)

    @property
    def dims(self) -> Dims:
        return Dims(self.agents, self.obs, self.actions, self.horizon)


class Observation(NamedTuple):
    """What the agents of one team see at one timestep, any leading batch axes.

    `agent_mask` is False on padded slots, whose only legal action is NOOP (0). `reward` is the team reward of the
    step before, 0 at the start of an episode; None where nobody needs it.
    """

    obs: Float[Array, "*b N O"]
    action_mask: Bool[Array, "*b N A"]
    agent_mask: Bool[Array, "*b N"]
    reward: Float[Array, "*b"] | None = None


class Tokens(NamedTuple):
    """An observation as entities: the agent itself, M other agents and E objects (foods, enemies, …) that it sees.

    Features that every task has in the same number belong to `own`. A slot whose mask is False is empty.
    A family without other agents or without objects has `no_entities` there.
    """

    own: Float[Array, "*b N F"]
    allies: Float[Array, "*b N M G"]
    objects: Float[Array, "*b N E H"]
    ally_mask: Bool[Array, "*b N M"]
    object_mask: Bool[Array, "*b N E"]


class TeamTokens(NamedTuple):
    """What a team sees together: the agents, slot by slot, and the objects in common coordinates."""

    agents: Float[Array, "*b N F"]
    objects: Float[Array, "*b E H"]
    object_mask: Bool[Array, "*b E"]


def no_entities(*shape: int) -> tuple[Float[Array, "*b 0 0"], Bool[Array, "*b 0"]]:
    """Tokens and mask [*shape, …] of a kind of entity that there is none of."""
    return jnp.zeros((*shape, 0, 0)), jnp.zeros((*shape, 0), bool)


@dataclass(frozen=True)
class Entities:
    """How the observations of a set of tasks split into entities. Both functions take any leading batch axes. `observe`
    takes every agent by itself.

    `base_actions`: how many actions aim at nothing. Where `aimed`, action `base_actions + k` aims at object k; an
    observation with fewer actions has fewer objects. `most_objects`: of any task that is trained on (None: not known).
    """

    base_actions: int
    aimed: bool
    observe: Callable[[Observation], Tokens]
    team: Callable[[Observation], TeamTokens]
    most_objects: int | None = None


class TimeStep(NamedTuple):
    """What an environment returns. `reward` is the scalar team reward of the step just taken.

    At the end of an episode `obs` is the true final observation: environments never reset themselves.
    `terminated`: the episode ended because of the state. `truncated`: because of the time limit.
    """

    obs: Float[Array, "*b N O"]
    action_mask: Bool[Array, "*b N A"]
    reward: Float[Array, "*b"]
    terminated: Bool[Array, "*b"]
    truncated: Bool[Array, "*b"]


@runtime_checkable
class Env(Protocol):
    """A pure, vmappable environment of one task."""

    @property
    def spec(self) -> TaskSpec: ...

    @property
    def obs_scale(self) -> np.ndarray:
        """[O] float32: an observation is its integer features, which fit int8, times this."""
        ...

    def reset(self, key: jax.Array) -> tuple[Any, TimeStep]: ...

    def step(self, state: Any, action: Int[Array, "N"], key: jax.Array) -> tuple[Any, TimeStep]: ...


@jax.tree_util.register_static
@dataclass(frozen=True)
class AtMost:
    """A number that is known before anything is compiled: no leaf of the value that it is a part of."""

    number: int


class Batch(NamedTuple):
    """A batch of windows, time-major inside a row. The only thing a loss sees.

    `first[t]`: reset memory before t. `terminated[t]` / `truncated[t]`: the transition at t ended the
    episode by termination / by time limit or by the end of the recording. `time_mask[t]`: step t is
    real. `return_to_go[t]`: the undiscounted reward from t to the end of the episode, beyond the window too; None
    where the future is not recorded. `last_action`: what each agent did in the step before the window, -1 where an
    episode or the data begin with it; None where it is not recorded, or the memory in `extras` says it. `present`: how
    many of the B N slots hold agents at most, always the same ones of a row; None where all may. `extras` holds what
    the acting policy wrote (log-probabilities, values, memory).
    """

    obs: Float[Array, "B T N O"]
    action_mask: Bool[Array, "B T N A"]
    action: Int[Array, "B T N"]
    agent_mask: Bool[Array, "B T N"]
    reward: Float[Array, "B T"]
    first: Bool[Array, "B T"]
    terminated: Bool[Array, "B T"]
    truncated: Bool[Array, "B T"]
    time_mask: Bool[Array, "B T"]
    task_id: Int[Array, "B"]
    return_to_go: Float[Array, "B T"] | None = None
    last_action: Int[Array, "B N"] | None = None
    present: AtMost | None = None
    extras: Mapping[str, Any] = {}

    @property
    def observation(self) -> Observation:
        return Observation(self.obs, self.action_mask, self.agent_mask)


def example_batch(dims: Dims, rows: int = 1, steps: int = 2) -> Batch:
    """A batch of the right shapes and of no meaning, to initialise networks with."""
    agents = (rows, steps, dims.agents)
    no = jnp.zeros((rows, steps), bool)
    return Batch(
        obs=jnp.zeros((*agents, dims.obs), jnp.float32),
        action_mask=jnp.ones((*agents, dims.actions), bool),
        action=jnp.zeros(agents, jnp.int32),
        agent_mask=jnp.ones(agents, bool),
        reward=jnp.zeros((rows, steps), jnp.float32),
        first=no,
        terminated=no,
        truncated=no,
        time_mask=~no,
        task_id=jnp.zeros(rows, jnp.int32),
        return_to_go=jnp.zeros((rows, steps), jnp.float32),
    )


class Learner(NamedTuple):
    """Everything an update changes. `opt` holds one optimiser state per named gradient step, and what else an update
    keeps that is no part of a policy.
    """

    params: Params
    target: Params
    opt: Mapping[str, Any]
    step: Int[Array, ""]


# act(params, carry, observation, key, sample_probability) -> (carry, action [B, N], extras).
# sample_probability: 0 greedy … 1 sample. The caller clears the carry at episode starts.
Act = Callable[..., tuple[Carry, Array, Mapping[str, Array]]]
Update = Callable[[Learner, Batch, jax.Array], tuple[Learner, Metrics]]
