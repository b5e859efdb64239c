"""Tasks whose simulator is not written in JAX, stepped inside the compiled loop: one host call a step for a batch."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from mtmarl.envs.simulators import Simulators, TeamReward, Workers, sizes_of
from mtmarl.errors import SimulatorError, UserError
from mtmarl.task_names import task_parts
from mtmarl.types import TaskSpec, TimeStep


class HostState(NamedTuple):
    """An episode: its seed and all its actions so far. `handle` and `digest` find the simulator that has just played
    them; `over`: it has ended.
    """

    handle: Int[Array, ""]
    digest: Int[Array, ""]
    over: Bool[Array, ""]
    seed: Int[Array, ""]
    count: Int[Array, ""]
    history: Int[Array, "H N"]


@dataclass(frozen=True, eq=False)
class HostEnv:
    """An `Env` whose steps are computed on the host.

    Pure: equal states and actions give equal results, in a copy of a state or in a later process as well, as far as
    the simulator is deterministic for a seed.
    """

    spec: TaskSpec
    simulators: Simulators | Workers

    @property
    def obs_scale(self) -> np.ndarray:
        return np.ones(self.spec.obs, np.float32)

    def reset(self, key: jax.Array) -> tuple[HostState, TimeStep]:
        seed = (jax.random.bits(key, dtype=jnp.uint32) >> 1).astype(jnp.int32)
        handle, digest, *shown = self._call(self.simulators.reset, seed)
        history = jnp.zeros((self.spec.horizon, self.spec.agents), jnp.int32)
        state = HostState(handle, digest, jnp.zeros((), bool), seed, jnp.int32(0), history)
        return state, TimeStep(*shown)

    def step(self, state: HostState, action: jax.Array, key: jax.Array) -> tuple[HostState, TimeStep]:
        action = action.astype(jnp.int32)
        handle, digest, *shown = self._call(self.simulators.step, *state, action)
        step = TimeStep(*shown)
        over = state.over | step.terminated | step.truncated
        history = state.history.at[state.count].set(action, mode="drop")
        return HostState(handle, digest, over, state.seed, state.count + 1, history), step

    def _call(self, run: Callable[..., Any], *arguments: jax.Array) -> tuple[jax.Array, ...]:
        """Calls the host once, whatever axes `jax.vmap` has put in front."""
        s = self.spec
        scalar = lambda dtype: jax.ShapeDtypeStruct((), dtype)
        shapes = (
            scalar(jnp.int32),
            scalar(jnp.int32),
            jax.ShapeDtypeStruct((s.agents, s.obs), jnp.float32),
            jax.ShapeDtypeStruct((s.agents, s.actions), jnp.bool_),
            scalar(jnp.float32),
            scalar(jnp.bool_),
            scalar(jnp.bool_),
        )
        ranks = [a.ndim for a in arguments]

        def on_host(*arrays):
            arrays = [np.asarray(a) for a in arrays]
            batch = arrays[0].shape[: arrays[0].ndim - ranks[0]]
            flat = [a.reshape(-1, *a.shape[a.ndim - rank :]) for a, rank in zip(arrays, ranks, strict=True)]
            with _LOCK:
                handle, digest, outcome = run(*flat)
            return tuple(x.reshape((*batch, *x.shape[1:])) for x in (handle, digest, *outcome))

        return jax.pure_callback(on_host, shapes, *arguments, vmap_method="broadcast_all")


# Programs of several devices or tasks may call at the same time.
_LOCK = threading.Lock()


def _not_of_simulators(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], SimulatorError))


def from_pettingzoo(
    make: Callable[[], Any],
    name: str,
    horizon: int,
    *,
    team_reward: TeamReward = "mean",
    workers: int = 0,
) -> HostEnv:
    """The task `name` (family/scenario) of a PettingZoo parallel environment with discrete actions.

    `make() -> env`. horizon: env steps after which an episode is truncated at the latest. team_reward: the mean or the
    sum of the rewards of the agents that acted. Agents that have left see zeros and may only do action 0. Action masks
    come from `infos[agent]["action_mask"]` or from the observation. workers: processes that step the simulators (0:
    this one); `make` must then be picklable. Raises UserError for other spaces.
    """
    family, _ = task_parts(name)
    logging.getLogger("jax._src.callback").addFilter(
        _not_of_simulators
    )  # The error itself says it, in one line.
    if horizon < 1:
        raise UserError(f"{name}: horizon must be at least 1, not {horizon}")
    if workers < 0:
        raise UserError(f"{name}: workers must be at least 0, not {workers}")
    try:
        env = make()
    except Exception as error:  # Whatever the simulator raises.
        raise UserError(f"{name}: cannot be made: {type(error).__name__}: {error}") from error
    sizes = sizes_of(env, name)
    env.close()
    spec = TaskSpec(name, family, len(sizes.agents), max(sizes.obs), max(sizes.actions), horizon)
    arguments = (make, name, sizes, horizon, team_reward)
    return HostEnv(spec, Workers(workers, *arguments) if workers else Simulators(*arguments))
