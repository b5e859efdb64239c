"""Statistics over seeds and tasks (Agarwal et al. 2021; Gorsane et al. 2022). Scores are arrays [seeds, tasks]."""

from collections.abc import Callable

import numpy as np
from scipy.stats import trim_mean

RESAMPLES = 2000
CONFIDENCE = 0.95


def iqm(scores: np.ndarray) -> float:
    """The mean of the middle half of all scores."""
    return float(trim_mean(np.asarray(scores).ravel(), 0.25))


def mean(scores: np.ndarray) -> float:
    return float(np.mean(scores))


def _resample(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Seeds drawn anew within every task: [resamples, seeds, tasks]."""
    seeds, tasks = scores.shape
    rows = rng.integers(0, seeds, (RESAMPLES, seeds, tasks))
    return scores[rows, np.arange(tasks)]


def interval(scores: np.ndarray, statistic: Callable[[np.ndarray], float] = mean) -> tuple[float, float]:
    """The 95% percentile interval of a statistic under a bootstrap stratified by task.

    With one seed there is nothing to resample: both ends are the statistic itself.
    """
    samples = [statistic(s) for s in _resample(np.asarray(scores, float), np.random.default_rng(0))]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return float(low), float(high)


def gain(scores: np.ndarray, baseline: np.ndarray) -> tuple[float, tuple[float, float]]:
    """mean(scores) / mean(baseline) - 1 with its 95% interval, both sides resampled."""
    a, b = np.asarray(scores, float), np.asarray(baseline, float)
    rng = np.random.default_rng(0)
    ratios = _resample(a, rng).mean((1, 2)) / _resample(b, rng).mean((1, 2)) - 1
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(a.mean() / b.mean() - 1), (float(low), float(high))


def probability_of_improvement(scores: np.ndarray, baseline: np.ndarray) -> float:
    """The chance that a run scores above a run of the baseline on a task drawn at random; ties count half."""
    a, b = np.asarray(scores)[:, None, :], np.asarray(baseline)[None, :, :]
    return float(((a > b) + 0.5 * (a == b)).mean())


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """For each threshold the share of (seed, task) scores above it."""
    return (np.asarray(scores).ravel()[None, :] > np.asarray(thresholds)[:, None]).mean(1)
