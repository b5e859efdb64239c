"""The interface of algorithms, and the building blocks that they share.

An algorithm is a value, as an optax `GradientTransformation` is: a NamedTuple of pure functions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtmarl.acting import Words, by_policy
from mtmarl.ops import masked
from mtmarl.types import Act, Batch, Carry, Dims, Learner, Observation, Params, Update


class Phase(NamedTuple):
    """A part of training with one update rule. `fraction`: its share of all updates."""

    name: str
    fraction: float
    update: Update
    source: str = "default"


class Algorithm(NamedTuple):
    """init(key, example batch) -> Learner; act as in `types.Act`; init_carry(batch_size, agents) -> initial carry.

    critic: top-level parameters that only values depend on, of algorithms that can normalise values.
    """

    init: Callable[[jax.Array, Batch], Learner]
    phases: tuple[Phase, ...]
    act: Act
    init_carry: Callable[[int, int], Carry]
    critic: tuple[str, ...] = ()


class Rollouts(NamedTuple):
    """Requirements of training on rollouts.

    minibatches: the number of rows of a batch must be a multiple of it. critic_warmup: updates that train the critic
    alone; a multiple of the chunk. limit_values: record the value at time limits. unit_values: the critic learns
    normalised returns, with running moments that belong to one run.
    """

    minibatches: int = 1
    critic_warmup: int = 0
    limit_values: bool = False
    unit_values: bool = False


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The record of an algorithm: everything that the library knows about it. Each module ends with its `SPEC`.

    Config: dataclass of its settings. make(config, dims, **needs) -> Algorithm. needs: further arguments of `make`:
    `updates` of the run, or the `value_range` of discounted returns in the vaults. kind: learns from vaults (offline),
    from rollouts (online), or both (hybrid). title: name in reports. acting: describes how it selects actions.

    learns_values: it learns discounted returns, and its settings have `gamma`. has_network: its settings have
    `network`, which must equal that of the policy in `init_from`. rollouts(config): requirements of its rollouts.
    task_features: observations include task features. shuffles_slots: its network reads observation columns by
    position, so interchangeable objects are shuffled. decentralised: agents act on their own observations only.
    """

    Config: type
    make: Callable[..., Algorithm]
    kind: Literal["offline", "online", "hybrid"]
    title: str
    needs: tuple[Literal["updates", "value_range"], ...] = ()
    acting: Words = by_policy
    learns_values: bool = False
    has_network: bool = True
    rollouts: Callable[[Any], Rollouts] = lambda config: Rollouts()
    task_features: bool = False
    shuffles_slots: bool = False
    decentralised: bool = False


def drop_unused_actions(algo: Algorithm, dims: Dims) -> Algorithm:
    """Drops actions on objects that no training task has. Same losses, cheaper updates.

    The parameters of `algo` must not depend on the number of objects.
    """
    split = dims.entities
    if split is None or not split.aimed or split.most_objects is None:
        return algo
    actions = split.base_actions + split.most_objects
    cut = lambda batch: batch._replace(action_mask=batch.action_mask[..., :actions])

    def on_less(update: Update) -> Update:
        return lambda learner, batch, key: update(learner, cut(batch), key)

    phases = tuple(phase._replace(update=on_less(phase.update)) for phase in algo.phases)
    return algo._replace(init=lambda key, batch: algo.init(key, cut(batch)), phases=phases)


def random_act(
    params: Params, carry: Carry, observation: Observation, key: jax.Array, sample_probability: Any
):
    """Samples uniformly over legal actions: the zero of normalised scores. It has no parameters."""
    return carry, jax.random.categorical(key, jnp.where(observation.action_mask, 0.0, masked.NEG_INF)), {}


def no_carry(batch_size: int, agents: int) -> Carry:
    """Returns the carry of a policy without memory."""
    return jnp.zeros((batch_size, 0))


def adam(learning_rate: float, max_grad_norm: float, eps: float = 1e-8) -> optax.GradientTransformation:
    """Returns Adam with clipping of the global gradient norm."""
    return optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.adam(learning_rate, eps=eps))


def adamw(
    learning_rate: float,
    max_grad_norm: float,
    weight_decay: float,
    b2: float = 0.999,
    spare: Sequence[str] = (),
) -> optax.GradientTransformation:
    """Returns AdamW with clipping of the global gradient norm. Only matrices decay, except in the modules `spare`."""
    decays = lambda params: jax.tree.map_with_path(
        lambda at, x: x.ndim > 1 and at[0].key not in spare, params
    )
    return optax.chain(
        optax.clip_by_global_norm(max_grad_norm),
        optax.adamw(learning_rate, b2=b2, weight_decay=weight_decay, mask=decays),
    )


def init_learner(
    params: Params, txs: dict[str, optax.GradientTransformation], target: bool = True
) -> Learner:
    """Returns a new learner. The target is a copy of the parameters; each named step has its own optimiser state."""
    return Learner(
        params=params,
        target=jax.tree.map(jnp.copy, params) if target else (),
        opt={name: tx.init(params) for name, tx in txs.items()},
        step=jnp.zeros((), jnp.int32),
    )


def gradient_step(
    name: str,
    loss: Callable,
    tx: optax.GradientTransformation,
    tau: float | None = None,
    period: int | None = None,
) -> Update:
    """Turns `loss(params, target, batch, key) -> (scalar, metrics)` into an update.

    The target network follows by Polyak averaging with `tau`, or by a copy every `period` steps. Metrics are named
    `name/metric`.
    """

    def update(learner: Learner, batch: Batch, key: jax.Array):
        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(
            learner.params, learner.target, batch, key
        )
        updates, opt = tx.update(grads, learner.opt[name], learner.params)
        params = optax.apply_updates(learner.params, updates)
        target = learner.target
        if tau is not None:
            target = optax.incremental_update(params, target, tau)
        elif period is not None:
            target = optax.periodic_update(params, target, learner.step + 1, period)
        metrics = {f"{name}/{k}": v for k, v in {**metrics, "grad_norm": optax.tree.norm(grads)}.items()}
        return Learner(params, target, {**learner.opt, name: opt}, learner.step + 1), metrics

    return update


def minibatches(update: Update, epochs: int, count: int) -> Update:
    """Applies `update` to each of `count` minibatches of rows, for `epochs` epochs with new permutations.

    Windows are not split in time. Metrics are means over all steps.
    """

    def epoch(learner: Learner, batch: Batch, key: jax.Array):
        key_rows, key_steps = jax.random.split(key)
        rows = jax.random.permutation(key_rows, batch.task_id.shape[0])
        parts = jax.tree.map(lambda x: x[rows].reshape(count, -1, *x.shape[1:]), batch)
        step = lambda learner, x: update(learner, *x)
        return jax.lax.scan(step, learner, (parts, jax.random.split(key_steps, count)))

    def run(learner: Learner, batch: Batch, key: jax.Array):
        body = lambda learner, k: epoch(learner, batch, k)
        learner, metrics = jax.lax.scan(body, learner, jax.random.split(key, epochs))
        return learner, jax.tree.map(lambda x: x.mean(axis=(0, 1)), metrics)

    return run


def freeze(tx: optax.GradientTransformation, modules: Sequence[str]) -> optax.GradientTransformation:
    """Applies `tx` to all top-level modules except the named ones, which stay frozen."""
    return route({"frozen": (optax.set_to_zero(), modules)}, tx)


def route(
    groups: Mapping[str, tuple[optax.GradientTransformation, Sequence[str]]],
    rest: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Applies a separate transformation to each group of top-level modules, and `rest` to all others."""
    of = {module: name for name, (_, modules) in groups.items() for module in modules}
    label = lambda params: {module: of.get(module, "rest") for module in params}
    return optax.multi_transform({"rest": rest, **{name: tx for name, (tx, _) in groups.items()}}, label)
