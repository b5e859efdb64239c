"""The one rule by which random keys are derived, so that no two streams of random numbers meet.

A stream is named. Its key is a function of the seed, the name and an index (an update, a round of episodes, …), by
`fold_in` of one after the other. Names are folded in as numbers from 2**31 on. Indices, and the children that
`jax.random.split` makes, lie below. So a key may be handed on to be split and have named branches beside.
"""

from enum import IntEnum

import jax

from mtmarl.errors import UserError

# The version of this rule, recorded with every run. Version 1 (no record of it): subkeys numbered by hand.
RULE = 2


class Stream(IntEnum):
    """Numbers never change: they decide every result. A new stream takes the next one."""

    # Of a seed.
    PARAMETERS = 2**31
    SOURCE = 2**31 + 1
    DATA = 2**31 + 2
    UPDATE = 2**31 + 3
    EPISODES = 2**31 + 4
    RECORDING = 2**31 + 5
    SINGLE_POLICIES = 2**31 + 6
    COVERAGE = 2**31 + 7
    ESTIMATE = 2**31 + 8
    # Of a key that others are made of as well.
    TASK = 2**31 + 32
    START = 2**31 + 33
    ORDER = 2**31 + 34
    AGENT_IDS = 2**31 + 35
    PLAY = 2**31 + 36
    REPLAY = 2**31 + 37
    OFFLINE = 2**31 + 38
    SLOTS = 2**31 + 39
    BOOTSTRAP = 2**31 + 40
    ACTIONS = 2**31 + 41


def stream(seed: int | jax.Array, name: Stream, *index: int | jax.Array) -> jax.Array:
    """The key of a stream of a seed. Each index lies in 0 … 2**31 - 1. Raises UserError of a seed that does not."""
    # JAX takes a larger one for another seed without a word.
    if isinstance(seed, int) and not 0 <= seed < 2**31:
        raise UserError(f"seed must lie in 0 … {2**31 - 1}, not {seed}")
    return branch(jax.random.key(seed), name, *index)


def branch(key: jax.Array, name: Stream, *index: int | jax.Array) -> jax.Array:
    """The key of a named stream beside whatever else the key is used for. Each index lies in 0 … 2**31 - 1."""
    for number in (int(name), *index):
        key = jax.random.fold_in(key, number)
    return key
