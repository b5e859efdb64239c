"""One layout of observations and actions for tasks of several families, for told tasks and for numbered agents.

    observation = [ features, zero-padded to the widest family | one-hot of the family | task features |
                    one-hot of the agent ]

The family part exists where there are several families, the task features where the algorithm asks for them, the agent
part where agents are numbered. With one family and nothing of the rest a task's own layout is left as it is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.envs.registry import BUILT_IN, get_family
from mtmarl.errors import UserError
from mtmarl.ops.slots import shuffled_columns, take_columns
from mtmarl.random_streams import Stream, branch
from mtmarl.types import Env, Slots, TaskSpec, TimeStep

AgentIds = Literal["none", "fixed", "random"]

# Standardised features are stored in this unit, so that int8 holds them; beyond four spreads they are clipped.
FEATURE_STEP = 1 / 32


def family_of(task: str) -> str:
    return task.partition("/")[0]


def task_feature_names(specs: Iterable[TaskSpec] = ()) -> tuple[str, ...]:
    """The names of what describes a task: of the built-in families, then of these tasks' own; 0 where a task has none.

    The features of all built-in families come first, whatever the tasks, so that policies of one can be fine-tuned on
    another.
    """
    specs = list(specs)
    declared = (get_family(f).task_features for f in (*BUILT_IN, *(s.family for s in specs)))
    told = (s.task_features for s in specs)
    return tuple(dict.fromkeys(("agents", "horizon", *(n for names in (*declared, *told) for n in names))))


@dataclass(frozen=True)
class TaskScale:
    """By how much the features of tasks are shifted and divided: their mean and spread over the training tasks."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    spread: tuple[float, ...]

    @classmethod
    def of(cls, specs: Iterable[TaskSpec]) -> "TaskScale":
        specs = list(specs)
        names = task_feature_names(specs)
        values = np.asarray([_task_features(s, names) for s in specs])
        return cls(names, tuple(values.mean(0).tolist()), tuple(values.std(0).tolist()))

    def standardise(self, spec: TaskSpec) -> np.ndarray:
        """[F] int8 in units of `FEATURE_STEP`. What all training tasks agree on is 0 for every task: a network that
        never saw it vary has learned nothing about it.
        """
        mean, spread = np.asarray(self.mean), np.asarray(self.spread)
        varies = spread > 1e-9 * np.maximum(np.abs(mean), 1.0)
        away = _task_features(spec, self.names) - mean
        z = np.where(varies, away / np.where(varies, spread, 1.0), 0.0)
        return np.clip(np.round(z / FEATURE_STEP), -127, 127).astype(np.int8)


def _task_features(spec: TaskSpec, names: Iterable[str]) -> np.ndarray:
    known = {"agents": spec.agents, "horizon": spec.horizon, **spec.task_features}
    return np.asarray([known.get(name, 0) for name in names], np.float64)


@dataclass(frozen=True)
class Layout:
    """`features`: width of what the tasks themselves show; `ids`: width of the agents' one-hot (0: no numbers).

    random_ids: every episode (in training, every window) deals the numbers out anew, so that teams larger than
    those trained on meet no number for the first time. tasks: how tasks are told (None: they are not). slots: of each
    family, the groups of slots whose objects are shuffled once per episode and agent (in training, per window and
    agent); () where none are.
    """

    families: tuple[str, ...]
    features: int
    actions: int
    ids: int = 0
    random_ids: bool = False
    tasks: TaskScale | None = None
    slots: tuple[tuple[Slots, ...], ...] = ()

    @classmethod
    def of(
        cls,
        specs: Iterable[TaskSpec],
        agent_ids: AgentIds = "none",
        ids: int = 0,
        task_features: bool = False,
        shuffle_slots: bool = False,
    ) -> "Layout":
        """The smallest layout that these tasks fit into; `ids` numbers are dealt out unless agent_ids is none."""
        specs = list(specs)
        families = tuple(dict.fromkeys(s.family for s in specs))
        slots = tuple(get_family(f).slots if shuffle_slots else () for f in families)
        return cls(
            families,
            max(s.obs for s in specs),
            max(s.actions for s in specs),
            0 if agent_ids == "none" else ids,
            agent_ids == "random",
            TaskScale.of(specs) if task_features else None,
            slots if any(slots) else (),
        )

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "Layout":
        """The layout whose `dataclasses.asdict` was kept as JSON."""
        tasks = record.get("tasks")
        tasks = None if tasks is None else TaskScale(**{name: tuple(x) for name, x in tasks.items()})
        if tasks is not None:  # Records of before call the objects of a task its targets.
            tasks = replace(tasks, names=tuple("objects" if n == "targets" else n for n in tasks.names))
        slots = tuple(tuple(Slots(*group) for group in groups) for groups in record.get("slots", ()))
        return cls(**{**record, "families": tuple(record["families"]), "tasks": tasks, "slots": slots})

    @property
    def agent_ids(self) -> AgentIds:
        """How agents are numbered, as in `of`."""
        if not self.ids:
            return "none"
        return "random" if self.random_ids else "fixed"

    def slots_of(self, family: str) -> tuple[Slots, ...]:
        """The groups of slots that are shuffled in tasks of this family."""
        return self.slots[self.families.index(family)] if self.slots else ()

    @property
    def _told(self) -> int:
        """Width of the family's one-hot."""
        return len(self.families) if len(self.families) > 1 else 0

    @property
    def task_features(self) -> tuple[int, int]:
        """From where to where an observation tells the task; see `types.Dims`."""
        start = self.features + self._told
        return (0, 0) if self.tasks is None else (start, start + len(self.tasks.names))

    @property
    def known(self) -> int:
        """Width without the agents' one-hot: what can be stored with a step."""
        return max(self.features + self._told, self.task_features[1])

    @property
    def obs(self) -> int:
        return self.known + self.ids

    def constant(self, spec: TaskSpec) -> np.ndarray:
        """[known - features] int8, in units of `constant_scale`: the one-hot of a task's family, and its features."""
        family = np.asarray([spec.family == f for f in self.families], np.int8)[: self._told]
        features = np.zeros(0, np.int8) if self.tasks is None else self.tasks.standardise(spec)
        return np.concatenate([family, features])

    @property
    def constant_scale(self) -> np.ndarray:
        """[known - features] float32: an observation holds `constant` times this."""
        features = self.known - self.features - self._told
        return np.repeat(np.asarray([1.0, FEATURE_STEP], np.float32), [self._told, features])

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
        as_it_is = (spec.obs, spec.actions) == (self.obs, self.actions) and not self.slots_of(spec.family)
        return env if as_it_is else LaidOut(env, self)


def one_hot_ids(key: jax.Array, rows: int, agents: int, ids: int, random: bool) -> jax.Array:
    """[rows, agents, ids] float32: each agent's own slot, or different slots at random."""
    if not ids:
        return jnp.zeros((rows, agents, 0))
    order = jnp.broadcast_to(jnp.arange(ids), (rows, ids))
    if random:
        order = jnp.argsort(jax.random.uniform(key, (rows, ids)), axis=1)
    return jax.nn.one_hot(order[:, :agents], ids)


class LaidOutState(NamedTuple):
    """task: the task's own state. What lasts for an episode: ids, the one-hots of the agents [N, ids]; columns, which
    column of the task's observation stands where, for each agent [N, O]. None where the layout has no such thing.
    """

    task: Any
    ids: jax.Array | None
    columns: jax.Array | None


@dataclass(frozen=True, eq=False)
class LaidOut:
    """A task in a layout."""

    raw: Env
    layout: Layout

    @property
    def spec(self) -> TaskSpec:
        return replace(self.raw.spec, obs=self.layout.obs, actions=self.layout.actions)

    @property
    def obs_scale(self) -> np.ndarray:
        ones = lambda width: np.ones(width, np.float32)
        own, layout = self.raw.obs_scale, self.layout
        parts = (own, ones(layout.features - own.size), layout.constant_scale, ones(layout.ids))
        return np.concatenate(parts)

    def reset(self, key: jax.Array) -> tuple[Any, TimeStep]:
        # The start state must be the one that the task itself has under this key.
        state, step = self.raw.reset(key)
        ids = columns = None
        agents, width = step.obs.shape
        if self.layout.ids:
            own = branch(key, Stream.AGENT_IDS)
            ids = one_hot_ids(own, 1, agents, self.layout.ids, self.layout.random_ids)[0]
        if slots := self.layout.slots_of(self.raw.spec.family):
            columns = shuffled_columns(branch(key, Stream.SLOTS), slots, width, (agents,))
        laid_out = LaidOutState(state, ids, columns)
        return laid_out, self._lay_out(step, laid_out)

    def step(self, state: LaidOutState, action: jax.Array, key: jax.Array) -> tuple[LaidOutState, TimeStep]:
        own, step = self.raw.step(state.task, action, key)
        state = state._replace(task=own)
        return state, self._lay_out(step, state)

    def _lay_out(self, step: TimeStep, state: LaidOutState) -> TimeStep:
        agents, width = step.obs.shape
        constant = jnp.asarray(self.layout.constant(self.raw.spec) * self.layout.constant_scale)
        parts = (
            step.obs if state.columns is None else take_columns(step.obs, state.columns),
            jnp.zeros((agents, self.layout.features - width)),
            jnp.broadcast_to(constant, (agents, constant.size)),
            *(() if state.ids is None else (state.ids,)),
        )
        more_actions = self.layout.actions - step.action_mask.shape[1]
        mask = jnp.pad(step.action_mask, ((0, 0), (0, more_actions)))
        return step._replace(obs=jnp.concatenate(parts, axis=1), action_mask=mask)
