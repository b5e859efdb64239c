"""MT CQL-Sable: where its targets come from."""

import jax.numpy as jnp
import numpy as np

from mtmarl.algos.mt_cql_sable import following_slots


def test_following_slots_skip_padding():
    mask = jnp.asarray([[True, False, True, False], [False, True, True, True], [False, False, False, True]])
    after, first = following_slots(mask)
    np.testing.assert_array_equal(after[0, [0, 2]], [2, 4])
    np.testing.assert_array_equal(after[1, 1:], [2, 3, 4])
    np.testing.assert_array_equal(after[2, 3], 4)
    np.testing.assert_array_equal(first, [0, 1, 3])
