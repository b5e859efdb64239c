"""Learning by acting on several tasks at once, each with its own team size, of several seeds in one program."""

import jax
import pytest

from mtmarl.algos import care, mappo
from mtmarl.data.on_policy import on_policy_source
from mtmarl.data.source import stack_task_sources
from mtmarl.networks import care as mixture
from mtmarl.training import loop
from mtmarl.training.evaluator import Evaluator
from mtmarl.types import Dims, example_batch
from tests.counting import Counting

pytestmark = pytest.mark.slow
SETTINGS = dict(
    learning_rate=1e-2, final_learning_rate=1e-2, max_grad_norm=10.0, gamma=0.9, gae_lambda=0.9, clip=0.2,
    entropy_weight=0.01, final_entropy_weight=0.01, value_weight=1.0, epochs=4, minibatches=1, advantage_floor=0.01,
    huber_delta=10.0, normalise_values=True, only_choices=True,
)  # fmt: skip
# What pays in one task costs in the other. The second column of an observation says which it is.
TASKS = {
    "two": Counting(0, agents=2, length=5, width=7),
    "three": Counting(1, agents=3, length=7, limited=True, width=7),
}
DIMS = Dims(3, 7, 3, 7, tasks=2, task_features=(1, 2))
ALGOS = {
    "mappo": lambda: mappo.make(mappo.Config(**SETTINGS, network=mappo.Network(16, "gru")), DIMS, 40),
    "care": lambda: care.make(care.Config(**SETTINGS, network=mixture.Config(16, 2, 8)), DIMS, 40),
}


@pytest.mark.parametrize("name", ALGOS)
def test_one_policy_learns_tasks_that_want_opposite_things(name):
    algo = ALGOS[name]()
    make = lambda env: on_policy_source(env, algo.act, algo.init_carry, 8, 8, pool=8)
    source = stack_task_sources([make(env) for env in TASKS.values()])
    plan = loop.Plan((0, 1), 40, 10, 40)
    state = loop.initial_state(algo, source, example_batch(DIMS), plan.seed)
    logs = ([], [])
    collect = [lambda update, metrics, to=to: to.append(metrics["episodes"]) for to in logs]
    state = loop.train(algo, {"on_policy": source}, plan, state, log=collect)
    evaluator = Evaluator(TASKS, algo.act, algo.init_carry, 4, 0)
    for one in loop.unstack(state):
        scores = evaluator.evaluate(one.learner.params, 0, 4, sample_probability=0.0)
        assert {task: s.mean for task, s in scores.items()} == {"two": 2.0, "three": 3.0}
    # 640 env steps a task in each chunk, of episodes of 5 and of 7 steps.
    assert logs[0] == logs[1] and 8 * (80 // 5 + 80 // 7) <= logs[0][0] <= 8 * (80 // 5 + 80 // 7 + 1)
    assert int(jax.tree.leaves(state.learner.step)[0][0]) == 160
