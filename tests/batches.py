"""Random batches with every kind of episode end, for the tests of losses."""

import jax
import jax.numpy as jnp

from mtmarl.types import Batch, Entities, Observation, TeamTokens, Tokens

OBS, ACTIONS, ROWS, STEPS = 7, 5, 4, 6


def _toy_objects(obs: Observation):
    objects = obs.obs[..., 2 : obs.action_mask.shape[-1] - 1, None]
    return objects, objects[..., 0] > -1


def _toy_observe(obs: Observation) -> Tokens:
    objects, seen = _toy_objects(obs)
    ally = obs.obs[..., None, 4:7][..., : obs.obs.shape[-2] - 1, :]
    return Tokens(obs.obs[..., :2], ally, objects, ally[..., 0] > -1, seen)


def _toy_team(obs: Observation) -> TeamTokens:
    objects, seen = _toy_objects(obs)
    seen &= obs.agent_mask[..., None]
    count = seen.sum(-2)
    mean = (objects * seen[..., None]).sum(-3) / jnp.maximum(count, 1)[..., None]
    return TeamTokens(obs.obs, mean, count > 0)


# An agent with two numbers of its own sees two objects of one number and, unless it is alone, an ally of three; actions
# 3 and 4 aim.
TOY = Entities(3, True, _toy_observe, _toy_team)


def make_batch(agents, seed=0, tasks=2):
    keys = jax.random.split(jax.random.key(seed), 8)
    mask = jax.random.bernoulli(keys[0], 0.7, (ROWS, STEPS, agents, ACTIONS)).at[..., 0].set(True)
    action = jax.random.categorical(keys[1], jnp.where(mask, 0.0, -jnp.inf))
    ends = jax.random.bernoulli(keys[2], 0.3, (ROWS, STEPS))
    terminated = ends & jax.random.bernoulli(keys[3], 0.5, (ROWS, STEPS))
    first = jnp.concatenate([jax.random.bernoulli(keys[4], 0.5, (ROWS, 1)), ends[:, :-1]], 1)
    return Batch(
        obs=jax.random.normal(keys[5], (ROWS, STEPS, agents, OBS)),
        action_mask=mask,
        action=action,
        agent_mask=jnp.ones((ROWS, STEPS, agents), bool),
        reward=jax.random.normal(keys[6], (ROWS, STEPS)),
        first=first,
        terminated=terminated,
        truncated=ends & ~terminated,
        time_mask=jnp.ones((ROWS, STEPS), bool),
        task_id=jnp.arange(ROWS) % tasks,
        return_to_go=jax.random.normal(keys[7], (ROWS, STEPS)),
    )


def walk(batch, step, memory):
    """`step(memory, observation, last action) -> (outputs, memory)` from one step to the next as play goes, with
    nothing known where an episode begins. Outputs are [B, T, …]; memory is an array [B, N, D] of zeros.
    """
    none, outputs = jnp.full(batch.action[:, 0].shape, -1), []
    last = none
    for t in range(batch.first.shape[1]):
        new = batch.first[:, t, None]
        last, memory = jnp.where(new, none, last), jnp.where(new[..., None], 0.0, memory)
        out, memory = step(memory, jax.tree.map(lambda x, t=t: x[:, t], batch.observation), last)
        outputs.append(out)
        last = batch.action[:, t]
    return jax.tree.map(lambda *x: jnp.stack(x, axis=1), *outputs)


def by_hand(batch, q, following, gamma, scale=1.0, of=lambda row, t, error: error**2):
    """The mean over tasks of each task's mean of `of(row, t, error)`, where error is r_t + gamma * following_{t+1} less
    q [B, T], over the transitions of which the end is known; where it is None it does not count.
    """
    errors = {}
    for row, task in enumerate(batch.task_id.tolist()):
        for t in range(q.shape[1] - 1):
            if batch.truncated[row, t]:
                continue
            more = 0.0 if batch.terminated[row, t] else gamma * float(following[row, t + 1])
            value = of(row, t, scale * float(batch.reward[row, t]) + more - float(q[row, t]))
            if value is not None:
                errors.setdefault(task, []).append(value)
    return sum(sum(x) / len(x) for x in errors.values()) / len(errors)


def pad(batch, agents):
    """Padded slots hold rubbish wherever nothing may look."""
    grow = lambda x, value: jnp.concatenate(
        [x, jnp.full((*x.shape[:2], agents - x.shape[2], *x.shape[3:]), value, x.dtype)], axis=2
    )
    return batch._replace(
        obs=grow(batch.obs, 7.0),
        action_mask=grow(batch.action_mask, False).at[:, :, batch.action.shape[2] :, 0].set(True),
        action=grow(batch.action, 0),
        agent_mask=grow(batch.agent_mask, False),
    )


def extreme_batches(batch):
    """By name, batches of the shapes of `batch` that are rare and legal: the ends of what a run may meet."""
    yes, no = jnp.ones_like(batch.terminated), jnp.zeros_like(batch.terminated)
    rewards = lambda value: jnp.full_like(batch.reward, value)
    only_first = lambda x: jnp.zeros_like(x).at[:, :, 0].set(x[:, :, 0])
    cases = {
        "every step an episode": dict(first=yes, terminated=yes, truncated=no),
        "every step ends at a time limit": dict(first=yes, terminated=no, truncated=yes),
        "several episodes in a window": dict(first=no.at[:, ::2].set(True), terminated=no.at[:, 1::2].set(True)),
        "no rewards": dict(reward=rewards(0.0)),
        "constant rewards": dict(reward=rewards(3.0)),
        "large rewards": dict(reward=rewards(1e6)),
        "large losses": dict(reward=rewards(-1e6), first=no, terminated=no, truncated=no),
        "large rewards of both signs": dict(reward=1e6 * jnp.sign(batch.reward)),
        "one agent": dict(agent_mask=only_first(jnp.ones_like(batch.agent_mask)), action=only_first(batch.action)),
        "no agent": dict(agent_mask=jnp.zeros_like(batch.agent_mask), action=jnp.zeros_like(batch.action)),
        "no choice": dict(
            action_mask=jnp.zeros_like(batch.action_mask).at[..., 0].set(True), action=jnp.zeros_like(batch.action)
        ),
        "one real step": dict(time_mask=no.at[:, 0].set(True)),
        "no real step": dict(time_mask=no),
        "one task": dict(task_id=jnp.zeros_like(batch.task_id)),
        "nothing seen": dict(obs=jnp.zeros_like(batch.obs)),
        "large observations": dict(obs=1e3 * batch.obs),
    }  # fmt: skip
    found = {name: batch._replace(**change) for name, change in cases.items()}
    offline = batch.extras.get("offline")
    if offline is None:
        return found
    beside = extreme_batches(offline)
    return {name: b._replace(extras={**b.extras, "offline": beside[name]}) for name, b in found.items()}
