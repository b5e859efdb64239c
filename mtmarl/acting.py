"""How an algorithm chooses actions when it is scored, in words: what follows "actions are".

Each function takes the algorithm's settings and `evaluator.explore`, from 0 (greedy) to 1.
"""

from collections.abc import Callable, Mapping
from typing import Any

GREEDY = "greedy"
SAMPLED = "sampled from the policy"

Settings = Mapping[str, Any]
Words = Callable[[Settings, float], str]


def by_policy(settings: Settings, sample_probability: float) -> str:
    return _partly(SAMPLED, sample_probability)


def by_values(settings: Settings, sample_probability: float) -> str:
    temperature = settings.get("acting_temperature", 0.0)
    way = f"sampled from a softmax over values at temperature {temperature:g}"
    return _partly(way, sample_probability if temperature else 0.0)


def greedily(settings: Settings, sample_probability: float) -> str:
    return GREEDY


def nearly_greedily(settings: Settings, sample_probability: float) -> str:
    """A share `sample_probability * final_epsilon` is random."""
    if not sample_probability:
        return GREEDY
    known = settings.get("final_epsilon")
    return "epsilon-greedy" + ("" if known is None else f" with epsilon {sample_probability * known:g}")


def _partly(way: str, share: float) -> str:
    if share in (0.0, 1.0):
        return way if share else GREEDY
    return f"{way} with probability {share:g}, else {GREEDY}"
