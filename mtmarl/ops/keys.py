"""Keys of random numbers that cannot meet."""

import jax


def apart(key: jax.Array) -> jax.Array:
    """The one key that no split or fold of an index makes of this one, as split(key, n)[i] is fold_in(key, i)."""
    return jax.random.fold_in(key, 2**31 - 1)
