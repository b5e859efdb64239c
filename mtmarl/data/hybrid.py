"""Recorded and replayed experience in one batch (HyGen, Zhang et al. 2024, section 4.2)."""

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
    """`kept`: rows k E … (k + 1) E - 1 are the E environments of task k, teams padded."""

    vault: Any
    envs: tuple[RolloutState, ...]
    kept: Kept
    update: Int[Array, ""]


def recorded_rows(rows: int, share: jax.Array, update: jax.Array) -> Bool[Array, "B"]:
    """Which of B rows come from vaults: int(B * share) that follow each other, from one row further at every update.

    Tasks alternate along the rows, so every stretch of them holds all tasks alike; in the long run none is favoured.
    """
    # The product may lie a rounding error below an integer.
    count = jnp.floor(rows * share + 1e-4)
    return (jnp.arange(rows) - update) % rows < count


def pad_team(new: Trajectory, agents: int) -> Trajectory:
    """Steps of a smaller team: padded slots see zeros and may do nothing, which they do."""
    more = agents - new.action.shape[2]
    if not more:
        return new
    grow = lambda x: jnp.pad(x, [(0, more if axis == 2 else 0) for axis in range(x.ndim)])
    mask = grow(new.action_mask).at[:, :, agents - more :, 0].set(True)
    return new._replace(obs=grow(new.obs), action_mask=mask, action=grow(new.action))


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
    """The batches of `vault` with all but a share of their rows replaced by replayed windows of the same tasks.

    Before each batch, `steps` steps are played in `num_envs` environments of every task and kept with the latest
    `capacity` env steps, of which every task has its own part. `vault` gives windows in which agents have neither been
    shuffled nor numbered; `windows` does that to rows of both kinds, so that nothing tells them apart. At a share of 1
    the batch is the one that a vault source with the options of `windows` draws. `share(update)` and
    `exploration(update)` are the share of recorded rows and the sample probability of acting, by the number of batches
    drawn so far.

    `extras`, per row: the share, whether the row is `recorded`, and `episodes`. How returns go on is not known of what
    was just played, so `return_to_go` is None. Raises UserError where no window fits.
    """
    context = windows.context
    length = kept_length(capacity // len(envs), num_envs, steps, context, "trainer.context")
    specs = [env.spec for env in envs]
    agents, actions = max(s.agents for s in specs), specs[0].actions
    # Vaults hold no numbers of agents; those that were acted with belong to an episode, not to a window.
    width = specs[0].obs - windows.ids
    scales, dtype = kept_scale(envs, width)
    teams = jnp.asarray([s.agents for s in specs], jnp.int32)

    def init(key: jax.Array) -> HybridState:
        key_vault, *keys = jax.random.split(key, 1 + len(envs))
        started = tuple(start(env, init_carry, num_envs, k) for env, k in zip(envs, keys, strict=True))
        kept = nothing_kept(len(envs) * num_envs, length, agents, width, actions, dtype)
        return HybridState(vault.init(key_vault), started, kept, jnp.zeros((), jnp.int32))

    def play_all(state: HybridState, params: Params, key: jax.Array) -> tuple[tuple, Trajectory]:
        told, keys = exploration(state.update), jax.random.split(key, len(envs))
        states, news = zip(
            *(
                play(env, act, init_carry, own, params, k, steps, told, pool, scale, dtype)
                for env, own, k, scale in zip(envs, state.envs, keys, scales, strict=True)
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
        there = jnp.arange(agents) < teams[task_id][:, None]
        mask = jnp.broadcast_to(there[:, None], seen.action.shape)
        return as_batch(seen, {})._replace(agent_mask=mask, task_id=task_id, last_action=before)

    def next_batch(state: HybridState, data: Any, x: Any, params: Params, key: jax.Array):
        played, new = play_all(state, params, branch(key, Stream.PLAY))
        kept = keep(state.kept, new)
        drawn, batch = vault.next(state.vault, data, x, params, key)
        part, rows = share(state.update), batch.task_id.shape[0]
        recorded = recorded_rows(rows, part, state.update)
        known = batch._replace(return_to_go=None)
        fresh = replayed(kept, batch.task_id, branch(key, Stream.REPLAY))._replace(present=batch.present)
        mixed = windows.finish(where_rows(recorded, known, fresh), key)
        extras = {"share": jnp.full(rows, part), "recorded": recorded, "episodes": ended(new, rows)}
        return HybridState(drawn, played, kept, state.update + 1), mixed._replace(extras=extras)

    total = len(envs) * num_envs * steps
    return Source(init, next_batch, vault.data, vault.prefetch, total)
