"""Scalar summaries of per-episode results."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

HEADLINE = "eval/mean_normalised_return"
HEADLINE_TEST = "eval/test/mean_normalised_return"


def score(results: Mapping[str, Mapping[str, Any]], tasks: Sequence[str]) -> float:
    """Returns the mean normalised score over tasks, or the mean return if a task has no normalised score."""
    scores = [results[t]["normalised"] for t in tasks]
    return fmean(scores if None not in scores else [fmean(results[t]["return"]) for t in tasks])


def summarise(results: Mapping[str, Mapping[str, Any]], final: bool = False) -> dict[str, float]:
    """Returns means per task as `eval/<task>/…` and the mean normalised return of training and of test tasks.

    final: the prefix is `final/` instead of `eval/`.
    """
    out: dict[str, float] = {}
    scores: dict[str, list[float]] = {"train": [], "test": []}
    for task, result in results.items():
        out[f"eval/{task}/return"] = fmean(map(float, result["return"]))
        out[f"eval/{task}/length"] = fmean(map(float, result["length"]))
        if result.get("win_rate") is not None:
            out[f"eval/{task}/win_rate"] = float(result["win_rate"])
        if result.get("normalised") is not None:
            out[f"eval/{task}/normalised_return"] = float(result["normalised"])
            scores[result.get("split", "train")].append(float(result["normalised"]))
    if scores["train"]:
        out[HEADLINE] = fmean(scores["train"])
    if scores["test"]:
        out[HEADLINE_TEST] = fmean(scores["test"])
    return {name.replace("eval/", "final/", 1): v for name, v in out.items()} if final else out
