"""What a saved policy would return, estimated from vaults alone: nothing is played."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtmarl.data import vault
from mtmarl.data.sampling import gather_windows, make_task_data
from mtmarl.data.source import Windows
from mtmarl.envs.layout import family_of
from mtmarl.envs.registry import make_env
from mtmarl.errors import UserError
from mtmarl.random_streams import Stream, branch, stream
from mtmarl.training import fqe
from mtmarl.types import Batch

ROWS = 256  # episodes that the policy follows at a time


def estimate_policy(
    policy: Any,
    vaults: Sequence[vault.Vault],
    *,
    episodes: int = 1000,
    seed: int = 0,
    sample_probability: float | None = None,
    settings: fqe.Settings | None = None,
    log: Callable[[int, float], None] | None = None,
) -> dict[str, fqe.Estimate]:
    """The estimated return of a policy on the task of each vault (fitted Q evaluation, see `training.fqe`).

    episodes: of each vault at most, spread evenly. sample_probability: 0 greedy … 1 sample; None: as its run was
    scored. Raises UserError where a vault does not fit the policy.
    """
    s = settings or fqe.Settings()
    share = policy.config.evaluator.explore if sample_probability is None else sample_probability
    key = stream(seed, Stream.ESTIMATE)
    batch, counts, horizon = recorded_episodes(policy, vaults, episodes, key)
    follow = jax.jit(
        lambda params, batch, key: fqe.chosen_actions(
            policy.act, policy.init_carry, params, batch, key, s.draws, share
        )
    )
    chosen = []
    for begin in range(0, len(horizon), ROWS):
        part = jax.tree.map(lambda x, begin=begin: _padded(x[begin : begin + ROWS]), batch)
        chosen.append(follow(policy.params, part, branch(key, Stream.ACTIONS, begin)))
    rows = np.concatenate([jax.device_get(c) for c in chosen])[: len(horizon)]
    data = fqe.transitions(batch, jnp.asarray(rows), counts, horizon)
    found = fqe.estimate(data, len(vaults), policy.layout.actions, key, s, log)
    return {v.metadata["task"]: e for v, e in zip(vaults, found, strict=True)}


def _padded(x: jax.Array) -> jax.Array:
    """With copies of the last row up to ROWS rows, so that all parts have one shape."""
    return jnp.concatenate([x, jnp.repeat(x[-1:], ROWS - len(x), axis=0)]) if len(x) < ROWS else x


def recorded_episodes(
    policy: Any, vaults: Sequence[vault.Vault], most: int, key: jax.Array
) -> tuple[Batch, np.ndarray, np.ndarray]:
    """Whole episodes as the policy sees them [B, T], the env steps before each step [B, T], the horizon of each [B]."""
    layout = policy.layout
    envs = [make_env(v.metadata["task"]) for v in vaults]
    for v, env in zip(vaults, envs, strict=True):
        layout.wrap(env)  # refuses what does not fit
        if not v.recording.first.any():
            raise UserError(f"{v.path}: no whole episode; collect more")
    dims = replace(
        policy.dims,
        obs=layout.known,
        agents=max(e.spec.agents for e in envs),
        actions=layout.actions,
        tasks=len(vaults),
    )
    constants = [layout.constant(env.spec) for env in envs]
    data = make_task_data(vaults, dims, constants, layout.constant_scale)
    task, start, counts, horizons = [], [], [], []
    longest = max(env.spec.horizon for env in envs)
    for k, (v, env) in enumerate(zip(vaults, envs, strict=True)):
        r = v.recording
        whole = np.flatnonzero(r.first & (r.step_count == 0))
        whole = whole[np.arange(min(most, len(whole))) * len(whole) // min(most, len(whole))]
        at = np.minimum(whole[:, None] + np.arange(longest), len(r.first) - 1)
        task.append(np.full(len(whole), k, np.int32))
        start.append(whole.astype(np.int32))
        counts.append(r.step_count[at].astype(np.int32))
        horizons.append(np.full(len(whole), env.spec.horizon, np.int32))
    task_id, first = (jnp.asarray(np.concatenate(x)) for x in (task, start))
    batch = gather_windows(data, task_id, first, longest)
    known = jnp.arange(longest) < (data.length[task_id] - first)[:, None]
    slots = tuple(layout.slots_of(family_of(env.spec.name)) for env in envs) if layout.slots else ()
    windows = Windows((1,), 1, 1, shuffle=False, ids=layout.ids, random_ids=layout.random_ids, slots=slots)
    batch = windows.finish(batch._replace(time_mask=known), key)
    return batch, np.concatenate(counts), np.concatenate(horizons)
