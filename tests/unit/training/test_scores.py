"""The score of a result, and of several tasks together."""

import numpy as np
import pytest

from mtmarl.sinks.summary import score
from mtmarl.training.evaluator import EvalResult
from mtmarl.types import TaskSpec

SPEC = TaskSpec("toy/a", "toy", agents=1, obs=1, actions=2, horizon=5)
RESULT = EvalResult(np.asarray([1.0, 3.0]), np.asarray([5, 5]))


@pytest.mark.parametrize(("reference", "score"), [(4.0, 0.5), (None, None), (0.0, None), (-4.0, None)])
def test_a_better_return_never_has_a_lower_score(reference, score):
    assert RESULT.normalised(SPEC, reference) == score


def test_where_tasks_are_won_the_score_is_the_share_of_those():
    won = TaskSpec("toy/b", "toy", agents=1, obs=1, actions=2, horizon=5, win_return=2.0)
    assert RESULT.normalised(won, 4.0) == RESULT.normalised(won, None) == 0.5


def test_returns_and_scores_are_not_averaged():
    entry = lambda value, score: {"return": [value], "normalised": score}
    known, unknown = {"a": entry(1.0, 0.5), "b": entry(3.0, 0.7)}, {"c": entry(50.0, None)}
    assert score(known, ["a", "b"]) == pytest.approx(0.6)
    assert score(known | unknown, ["a", "b", "c"]) == pytest.approx(18.0)
