"""JAX's 64-bit mode and its search for NaN: every algorithm takes an update in either."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtmarl.algos import ALGOS

ROOT = Path(__file__).parents[2]
FAST = ("mt_bc_sable", "mappo")


@pytest.mark.parametrize("mode", ["JAX_ENABLE_X64", "JAX_DEBUG_NANS"])
@pytest.mark.parametrize(
    "names",
    [FAST, pytest.param(sorted(ALGOS.keys() - {*FAST}), marks=pytest.mark.slow)],
    ids=["two", "others"],
)
def test_every_algorithm_learns_in_it(mode, names):
    command = [sys.executable, "-W", "error", "-m", "tests.contract.test_precision", *names]
    env = {**os.environ, mode: "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == list(names), done.stderr[-3000:]
    assert done.returncode == 0, done.stderr[-3000:]


def learn(name):
    """An update of every phase and a step of acting, in loops as they are run in: what goes round keeps its types."""
    import jax
    import numpy as np

    from mtmarl.types import example_batch
    from tests.contract.test_algos import DIMS, first_step, make, make_batch

    algo = make(name)
    learner = jax.jit(algo.init)(jax.random.key(0), example_batch(DIMS))
    batch, keys = make_batch(algo, learner), jax.random.split(jax.random.key(1), 1)

    def act(carry, key):
        return algo.act(learner.params, carry, first_step(batch), key, 1.0)[:2]

    @jax.jit
    def run(learner, carry):
        metrics = []
        for phase in algo.phases:
            learner, found = jax.lax.scan(lambda x, key, p=phase: p.update(x, batch, key), learner, keys)
            metrics.append(found)
        return learner, metrics, jax.lax.scan(act, carry, keys)

    *learned, (_, action) = run(learner, algo.init_carry(batch.task_id.size, DIMS.agents))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(learned))
    assert (np.take_along_axis(batch.action_mask[None, :, 0], action[..., None], -1)).all()


if __name__ == "__main__":
    import tests.conftest  # noqa: F401  (its settings of JAX, before anything is computed)

    for name in sys.argv[1:]:
        learn(name)
        print(name, flush=True)
