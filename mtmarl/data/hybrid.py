"""Batches that mix recorded and replayed windows (HyGen, Zhang et al. 2024, section 4.2)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from mtmarl.data.replay import Kept, ended, keep, kept_length, kept_scale, kept_windows, nothing_kept, play
from mtmarl.data.source import Source, Windows
from mtmarl.random_streams import Stream, branch
from mtmarl.training.rollout import RolloutState, Trajectory, as_batch, start, where_rows
from mtmarl.types import Act, Batch, Env, Params


class HybridState(NamedTuple):
    """kept: rows k E … (k + 1) E - 1 are the E environments of task k, with padded teams."""

    vault: Any
    envs: tuple[RolloutState, ...]
    kept: Kept
    update: Int[Array, ""]


def recorded_rows(rows: int, share: jax.Array, update: jax.Array) -> Bool[Array, "B"]:
    """Returns which of B rows come from vaults: int(B * share) consecutive rows, shifted by one row per update.

    Tasks alternate by row, so consecutive rows hold all tasks equally; the shift favours no task in the long run.
    """
    # The product may be a rounding error below an integer.
    count = jnp.floor(rows * share + 1e-4)
    return (jnp.arange(rows) - update) % rows < count


def pad_team(new: Trajectory, agents: int) -> Trajectory:
    """Pads the steps of a smaller team: padded slots have zero observations and only NOOP."""
    missing = agents - new.action.shape[2]
    if not missing:
        return new
    pad = lambda x: jnp.pad(x, [(0, missing if axis == 2 else 0) for axis in range(x.ndim)])
    mask = pad(new.action_mask).at[:, :, agents - missing :, 0].set(True)
    return new._replace(obs=pad(new.obs), action_mask=mask, action=pad(new.action))


def hybrid_source(
    vault: Source,
    windows: Windows,
    envs: Sequence[Env],
    act: Act,
    init_carry,
    num_envs: int,
    steps: int,
    pool: int,
    capacity: int,
    share: Callable[[jax.Array], jax.Array],
    exploration: Callable[[jax.Array], jax.Array],
) -> Source:
    """Returns a source of `vault` batches in which a fraction of the rows is replaced by replayed windows.

    Before each batch it runs `steps` steps in `num_envs` environments of every task. The buffer has `capacity` env
    steps, split equally over the tasks. `vault` must yield windows without agent shuffling and ids: `windows` applies
    both to recorded and replayed rows alike. share(update): fraction of recorded rows; at 1 the batch equals that of a
    vault source with the options of `windows`. exploration(update): sample probability of acting.

    extras, per row: `share`, `recorded` and `episodes`. `return_to_go` is None because replayed episodes may be
    unfinished. Raises UserError if no window fits.
    """
    context = windows.context
    length = kept_length(capacity // len(envs), num_envs, steps, context, "trainer.context")
    specs = [env.spec for env in envs]
    agents, actions = max(s.agents for s in specs), specs[0].actions
    # Vaults have no agent ids, and the ids of a rollout belong to an episode, not to a window.
    width = specs[0].obs - windows.ids
    scales, dtype = kept_scale(envs, width)
    teams = jnp.asarray([s.agents for s in specs], jnp.int32)

    def init(key: jax.Array) -> HybridState:
        key_vault, *keys = jax.random.split(key, 1 + len(envs))
        started = tuple(start(env, init_carry, num_envs, k) for env, k in zip(envs, keys, strict=True))
        kept = nothing_kept(len(envs) * num_envs, length, agents, width, actions, dtype)
        return HybridState(vault.init(key_vault), started, kept, jnp.zeros((), jnp.int32))

    def play_all(state: HybridState, params: Params, key: jax.Array) -> tuple[tuple, Trajectory]:
        probability, keys = exploration(state.update), jax.random.split(key, len(envs))
        states, news = zip(
            *(
                play(env, act, init_carry, env_state, params, k, steps, probability, pool, scale, dtype)
                for env, env_state, k, scale in zip(envs, state.envs, keys, scales, strict=True)
            ),
            strict=True,
        )
        news = [pad_team(new, agents) for new in news]
        return states, jax.tree.map(lambda *x: jnp.concatenate(x), *news)

    def replayed(kept: Kept, task_id: Int[Array, "B"], key: jax.Array) -> Batch:
        key_env, key_start = jax.random.split(key)
        row = task_id * num_envs + jax.random.randint(key_env, task_id.shape, 0, num_envs)
        seen, before = kept_windows(kept, row, context, key_start)
        seen = seen._replace(obs=seen.obs.astype(jnp.float32) * jnp.asarray(scales)[task_id][:, None, None])
        real = jnp.arange(agents) < teams[task_id][:, None]
        mask = jnp.broadcast_to(real[:, None], seen.action.shape)
        return as_batch(seen, {})._replace(agent_mask=mask, task_id=task_id, last_action=before)

    def next_batch(state: HybridState, data: Any, x: Any, params: Params, key: jax.Array):
        played, new = play_all(state, params, branch(key, Stream.PLAY))
        kept = keep(state.kept, new)
        drawn, batch = vault.next(state.vault, data, x, params, key)
        part, rows = share(state.update), batch.task_id.shape[0]
        recorded = recorded_rows(rows, part, state.update)
        offline = batch._replace(return_to_go=None)
        online = replayed(kept, batch.task_id, branch(key, Stream.REPLAY))._replace(present=batch.present)
        mixed = windows.finish(where_rows(recorded, offline, online), key)
        extras = {"share": jnp.full(rows, part), "recorded": recorded, "episodes": ended(new, rows)}
        return HybridState(drawn, played, kept, state.update + 1), mixed._replace(extras=extras)

    total = len(envs) * num_envs * steps
    return Source(init, next_batch, vault.data, vault.prefetch, total)
