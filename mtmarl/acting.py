"""Descriptions of how an algorithm chooses actions in evaluation; they complete the sentence "actions are …".

Each function takes the settings of the algorithm and the sampling probability, from 0 (greedy) to 1.
"""

from collections.abc import Callable, Mapping
from typing import Any

GREEDY = "greedy"
SAMPLED = "sampled from the policy"

Settings = Mapping[str, Any]
Words = Callable[[Settings, float], str]


def by_policy(settings: Settings, sample_probability: float) -> str:
    return _with_probability(SAMPLED, sample_probability)


def by_values(settings: Settings, sample_probability: float) -> str:
    temperature = settings.get("acting_temperature", 0.0)
    rule = f"sampled from a softmax over values at temperature {temperature:g}"
    return _with_probability(rule, sample_probability if temperature else 0.0)


def greedily(settings: Settings, sample_probability: float) -> str:
    return GREEDY


def nearly_greedily(settings: Settings, sample_probability: float) -> str:
    """Epsilon is `sample_probability * final_epsilon`."""
    if not sample_probability:
        return GREEDY
    epsilon = settings.get("final_epsilon")
    return "epsilon-greedy" + ("" if epsilon is None else f" with epsilon {sample_probability * epsilon:g}")


def _with_probability(rule: str, probability: float) -> str:
    if probability in (0.0, 1.0):
        return rule if probability else GREEDY
    return f"{rule} with probability {probability:g}, else {GREEDY}"
