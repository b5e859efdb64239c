"""What agents carry from step to step, and unrolling over a window.

A window that begins inside an episode knows the last actions before it (`Batch.last_action`), but not the histories:
these start as zeros there, which in play happens only at the start of an episode. ODIS and HiSSD train on whole
episodes; a window that covers most of an episode keeps the difference small. There is no burn-in.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from mtmarl.networks.entities.inputs import actions_before
from mtmarl.ops.agents import skip_padded_agents
from mtmarl.types import Batch, Carry


class AgentCarry(NamedTuple):
    """What agents carry from step to step: their history tokens, and their last action (-1: none)."""

    history: Any
    last_action: Int[Array, "B N"]


def empty_histories(names: tuple[str, ...], width: int) -> Callable[[int, int], Carry]:
    """`init_carry` for agents with these history tokens, which begin as zeros."""

    def init_carry(batch_size: int, agents: int) -> AgentCarry:
        zeros = jnp.zeros((batch_size, agents, width))
        return AgentCarry({name: zeros for name in names}, jnp.full((batch_size, agents), -1, jnp.int32))

    return init_carry


def carry_before(init_carry: Callable[[int, int], AgentCarry], batch: Batch) -> AgentCarry:
    """The memory before a window of which no other is known: fresh, but for the actions that the batch knows."""
    rows, _, agents = batch.action.shape
    return init_carry(rows, agents)._replace(last_action=actions_before(batch))


def unroll(step: Callable, history: Any, inputs: Any, first: Bool[Array, "B T"]) -> tuple[Any, Any]:
    """`step(history, inputs of one step) -> (history, outputs)` over time, the history zeroed where `first`.

    Leaves of inputs and outputs are [B, T, …]; of the history [B, …]. The gradient computes every step anew: what it
    would need of all steps together is more than a cache holds, and reading it back takes longer.
    """
    time_first = lambda tree: jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tree)

    def one(history, x):
        now, new = x
        keep = lambda h: jnp.where(new.reshape(-1, *[1] * (h.ndim - 1)), jnp.zeros_like(h), h)
        return step(jax.tree.map(keep, history), now)

    one = jax.checkpoint(one, prevent_cse=False)
    history, outputs = jax.lax.scan(one, history, time_first((inputs, first)))
    return history, jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), outputs)


def unroll_agents(step: Callable, history: Any, inputs: Any, batch: Batch) -> Any:
    """The outputs of `unroll` over a batch by what treats every agent by itself, which padded slots are spared: leaves
    are [B, T, N, …], of the history [B, N, …].
    """
    run = lambda inputs, history, first: unroll(step, history, inputs, first)[1]
    return skip_padded_agents(run, batch, inputs, history, batch.first)
