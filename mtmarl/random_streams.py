"""Derivation of random keys: named streams whose keys never collide.

The key of a stream is `fold_in` of the seed, the name and the indices (update, evaluation round, …). Names are numbers
from 2**31 on. Indices and the subkeys of `jax.random.split` are below 2**31, so one key can be split and can also have
named branches.
"""

from enum import IntEnum

import jax

from mtmarl.errors import UserError

# Version of this rule, recorded with every run. Version 1 (not recorded): subkeys numbered by hand.
RULE = 2


class Stream(IntEnum):
    """The numbers must never change: all results depend on them. A new stream takes the next free number."""

    # Streams of a seed.
    PARAMETERS = 2**31
    SOURCE = 2**31 + 1
    DATA = 2**31 + 2
    UPDATE = 2**31 + 3
    EPISODES = 2**31 + 4
    RECORDING = 2**31 + 5
    SINGLE_POLICIES = 2**31 + 6
    COVERAGE = 2**31 + 7
    ESTIMATE = 2**31 + 8
    # Branches of a key.
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
    """Returns the key of a stream. Seed and indices lie in 0 … 2**31 - 1. Raises UserError for another seed."""
    # JAX silently truncates larger seeds.
    if isinstance(seed, int) and not 0 <= seed < 2**31:
        raise UserError(f"seed must lie in 0 … {2**31 - 1}, not {seed}")
    return branch(jax.random.key(seed), name, *index)


def branch(key: jax.Array, name: Stream, *index: int | jax.Array) -> jax.Array:
    """Returns a subkey that never collides with those of split(). Indices lie in 0 … 2**31 - 1."""
    for number in (int(name), *index):
        key = jax.random.fold_in(key, number)
    return key
