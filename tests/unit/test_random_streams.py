"""No two streams of random numbers meet, and each stays what it is."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mtmarl
from mtmarl.algos.base import no_carry, random_act
from mtmarl.errors import UserError
from mtmarl.random_streams import Stream, branch, stream
from mtmarl.training.evaluator import Evaluator

OF_SEEDS = [s for s in Stream if s < Stream.TASK]
OF_KEYS = [s for s in Stream if s >= Stream.TASK]
SEEDS, INDICES = jnp.arange(4), jnp.arange(16)


def every_key():
    """Of four seeds and sixteen indices: every stream, a second index of it, what a split makes of it, its branches."""
    each = lambda make: jax.vmap(lambda seed: jax.vmap(lambda i: make(seed, i))(INDICES))(SEEDS)
    found = []
    for name in OF_SEEDS:
        keys = each(lambda seed, i, name=name: stream(seed, name, i))
        found += [jax.vmap(lambda seed, name=name: stream(seed, name))(SEEDS), keys]
        found += [
            each(lambda seed, i, name=name: stream(seed, name, i, 7)),
            jax.vmap(jax.vmap(jax.random.split))(keys),
        ]
        found += [jax.vmap(jax.vmap(lambda key, of=of: branch(key, of)))(keys) for of in OF_KEYS]
    return jnp.concatenate([keys.ravel() for keys in found])


def test_no_two_streams_meet():
    keys = every_key()
    for rows in (jax.random.key_data(keys), jax.vmap(lambda key: jax.random.bits(key, 2))(keys)):
        assert len(np.unique(np.asarray(rows), axis=0)) == keys.size


def test_evaluations_have_streams_of_their_own():
    keys = [
        Evaluator({}, random_act, no_carry, 4, seed).key(task, index, batch)
        for seed in (0, 1) for task in ("a/x", "a/y") for index in (0, 1, 2**31 - 1) for batch in (0, 1)
    ]  # fmt: skip
    assert len(np.unique([jax.random.key_data(key) for key in keys], axis=0)) == len(keys)


def test_a_stream_stays_what_it_is():
    """Runs go on from their checkpoints by replay, also under a later version."""
    data = {s.name: jax.random.key_data(stream(1, s, 2)).tolist() for s in OF_SEEDS}
    assert data == {
        "PARAMETERS": [1517265166, 758000663],
        "SOURCE": [3296908888, 2070976007],
        "DATA": [4281434976, 2878987151],
        "UPDATE": [2778552040, 3474078920],
        "EPISODES": [350340713, 3581688488],
        "RECORDING": [3887737343, 2233801684],
        "SINGLE_POLICIES": [3963568553, 2118281665],
        "COVERAGE": [4058345124, 1716893164],
        "ESTIMATE": [3707773899, 2945450682],
    }
    beside = branch(stream(1, Stream.DATA, 2), Stream.OFFLINE)
    assert jax.random.key_data(beside).tolist() == [2702790568, 2673765845]


@pytest.mark.parametrize("seed", [-1, 2**31, 2**32 + 1])
def test_a_seed_that_would_be_another_is_refused(seed):
    with pytest.raises(UserError, match="seed must lie in"):
        stream(seed, Stream.DATA)


def test_one_module_makes_keys():
    of_seeds = re.compile(r"random\.(key|PRNGKey)\(")
    files = Path(mtmarl.__file__).parent.rglob("*.py")
    assert [f.name for f in files if of_seeds.search(f.read_text())] == ["random_streams.py"]
