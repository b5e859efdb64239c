"""Statistics over seeds and tasks, after Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice".

Scores are one block [seeds, tasks], or several blocks whose tasks are pooled (cells of a sweep, families of
environments; they may differ in seeds). Every task weighs the same, but for `iqm`. A block is a stratum: the bootstrap
draws its seeds anew, by itself, and takes percentiles of the statistic. Two things to know:

* A row of a block is one run that scores all tasks of it, so its seeds are drawn once for all tasks. The paper's
  strata are single tasks, each with runs of its own; `by_task` draws so. Where a run is good or bad on all tasks at
  once, those intervals are too narrow.
* With n seeds the bootstrap variance is (n - 1) / n of the unbiased one, so intervals of 3 seeds are narrow. Of one
  block's mean they reach from the lowest run to the highest and hold the true mean three times in four.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import trim_mean

RESAMPLES = 2000
CONFIDENCE = 0.95
BOOTSTRAP_SEED = 0

Scores = np.ndarray | Sequence[np.ndarray]
Interval = tuple[float, float]
# From blocks [..., seeds, tasks] to [...].
Statistic = Callable[[Sequence[np.ndarray]], np.ndarray]

UNKNOWN: Interval = (float("nan"), float("nan"))


def blocks(scores: Scores) -> list[np.ndarray]:
    """Scores as a list of blocks [seeds, tasks]; those without tasks are dropped."""
    parts = [scores] if isinstance(scores, np.ndarray) else list(scores)
    parts = [np.asarray(p, float) for p in parts]
    return [p for p in parts if p.size]


# ---------------------------------------------------------------------------------------------- statistics


def mean(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over tasks of the mean over seeds; blocks [..., seeds, tasks] to [...]."""
    return np.asarray(np.concatenate([p.mean(-2) for p in parts], -1).mean(-1))


def iqm(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of the middle half of all scores, one per seed and task; blocks [..., seeds, tasks] to [...].

    Here a task of a block with more seeds weighs more.
    """
    flat = np.concatenate([p.reshape(*p.shape[:-2], -1) for p in parts], -1)
    return np.asarray(trim_mean(flat.reshape(-1, flat.shape[-1]), 0.25, axis=1)).reshape(flat.shape[:-1])


def optimality_gap(parts: Sequence[np.ndarray]) -> np.ndarray:
    """How far scores fall short of 1 on average; scores above 1 make up for nothing."""
    return mean([np.maximum(1 - p, 0) for p in parts])


def value(scores: Scores, statistic: Statistic = mean) -> float:
    """The statistic of the scores as they are; NaN where there are none."""
    parts = blocks(scores)
    return float(statistic(parts)) if parts else float("nan")


def standard_error(scores: Scores) -> float:
    """Of the mean over tasks, from the spread of whole runs: std over seeds / sqrt(seeds).

    Blocks are independent runs, weighted by their numbers of tasks. NaN where a block has one seed.
    """
    parts = blocks(scores)
    if not _repeated(parts):
        return float("nan")
    tasks = sum(p.shape[1] for p in parts)
    errors = [p.mean(1).std(ddof=1) / np.sqrt(len(p)) * p.shape[1] / tasks for p in parts]
    return float(np.sqrt(np.sum(np.square(errors))))


# ----------------------------------------------------------------------------------------------- bootstrap


def resample(
    parts: Sequence[np.ndarray], rng: np.random.Generator, by_task: bool = False
) -> list[np.ndarray]:
    """Each block [seeds, tasks] with its seeds drawn anew: [RESAMPLES, seeds, tasks].

    Seeds are drawn for all tasks of a block at once or, `by_task`, for each of them by itself.
    """
    out = []
    for part in parts:
        seeds, tasks = part.shape
        rows = rng.integers(0, seeds, (RESAMPLES, seeds, tasks if by_task else 1))
        out.append(part[rows, np.arange(tasks)])
    return out


def _resample_both(
    a: Sequence[np.ndarray], b: Sequence[np.ndarray], by_task: bool = False, paired: bool = False
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two sides resampled, each by itself or, `paired`, both alike."""
    if paired and [x.shape for x in a] != [y.shape for y in b]:
        raise ValueError("sides of pairs differ in seeds or tasks")
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    ours = resample(a, rng, by_task)
    return ours, resample(b, np.random.default_rng(BOOTSTRAP_SEED) if paired else rng, by_task)


def interval(scores: Scores, statistic: Statistic = mean, by_task: bool = False) -> Interval:
    """The 95% percentile interval of a statistic. NaN with one seed: a seed alone says nothing of its spread."""
    parts = blocks(scores)
    if not _repeated(parts):
        return UNKNOWN
    return percentiles(statistic(resample(parts, np.random.default_rng(BOOTSTRAP_SEED), by_task)))


def percentiles(samples: np.ndarray) -> Interval:
    """The middle 95% of samples [n], as order statistics: infinite samples do no harm."""
    ordered = np.sort(samples)
    cut = int((1 - CONFIDENCE) / 2 * (len(ordered) - 1))
    return float(ordered[cut]), float(ordered[-1 - cut])


def _repeated(parts: Sequence[np.ndarray]) -> bool:
    return bool(parts) and all(len(p) > 1 for p in parts)


# ---------------------------------------------------------------------------------------------- comparisons


def gain(
    scores: Scores, baseline: Scores, by_task: bool = False, paired: bool = False
) -> tuple[float, Interval]:
    """mean(scores) / mean(baseline) - 1 with its 95% interval, both sides resampled.

    `paired`: equal rows of both sides belong together and are drawn together. NaN where the baseline's mean is not
    above 0: no ratio has a meaning there.
    """
    a, b = blocks(scores), blocks(baseline)
    if not a or not b or not mean(b) > 0:
        return float("nan"), UNKNOWN
    point = float(mean(a) / mean(b) - 1)
    if not (_repeated(a) and _repeated(b)):
        return point, UNKNOWN
    over, under = map(mean, _resample_both(a, b, by_task, paired))
    # Where a resampled baseline is not positive only the direction is known.
    unbounded = np.where(over > under, np.inf, np.where(over < under, -np.inf, 0.0))
    ratios = np.where(under > 0, over / np.where(under > 0, under, 1.0) - 1, unbounded)
    return point, percentiles(ratios)


def probability_of_improvement(scores: Scores, baseline: Scores, paired: bool = False) -> float:
    """The chance that a run scores above a run of the baseline, averaged over tasks; ties count half.

    The Mann-Whitney statistic per task; `paired`: above the run of the baseline that it belongs to. Blocks of both
    sides must hold the same tasks in the same order.
    """
    a, b = blocks(scores), blocks(baseline)
    return float(_improvement(a, b, paired)) if a and b else float("nan")


def improvement_interval(scores: Scores, baseline: Scores, paired: bool = False) -> Interval:
    """The 95% interval of the probability of improvement, both sides resampled."""
    a, b = blocks(scores), blocks(baseline)
    if not (_repeated(a) and _repeated(b)):
        return UNKNOWN
    return percentiles(_improvement(*_resample_both(a, b, paired=paired), paired))


def _improvement(a: Sequence[np.ndarray], b: Sequence[np.ndarray], paired: bool) -> np.ndarray:
    wins = []
    for x, y in zip(a, b, strict=True):
        if x.shape[-1] != y.shape[-1]:
            raise ValueError(f"{x.shape[-1]} tasks against {y.shape[-1]}")
        if not paired:
            x, y = x[..., :, None, :], y[..., None, :, :]
        won = (x > y) + 0.5 * (x == y)
        wins.append(won.mean(-2 if paired else (-3, -2)))
    return np.asarray(np.concatenate(wins, -1).mean(-1))


# ------------------------------------------------------------------------------------ performance profiles


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """For each threshold [n] the share of (seed, task) scores above it."""
    return _above(blocks(scores), thresholds)


def profile_band(scores: Scores, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Pointwise 95% intervals of the profile, (low [n], high [n]); None with one seed."""
    parts = blocks(scores)
    if not _repeated(parts):
        return None
    samples = resample(parts, np.random.default_rng(BOOTSTRAP_SEED))
    bounds = np.asarray([percentiles(_above(samples, np.asarray([t]))[..., 0]) for t in thresholds])
    return bounds[:, 0], bounds[:, 1]


def _above(parts: Sequence[np.ndarray], thresholds: np.ndarray) -> np.ndarray:
    return np.stack([mean([(p > t).astype(float) for p in parts]) for t in thresholds], -1)


# ------------------------------------------------------------------------------------------------- plateau

# Fewer evaluations than this say nothing about a plateau.
FEWEST_EVALUATIONS = 5


def late_change(steps: np.ndarray, values: np.ndarray) -> float:
    """The relative change of a smoothed curve over the last fifth of training: 0 on a plateau.

    Smoothed = mean of all evaluations within a tenth of training. NaN for curves with fewer than 5 evaluations or
    that start the last fifth at or below 0.
    """
    if len(steps) < FEWEST_EVALUATIONS:
        return float("nan")
    end = steps[-1]
    around = lambda at: values[np.abs(steps - at) <= 0.1 * end * (1 + 1e-9)].mean()
    before, after = around(steps[np.abs(steps - 0.8 * end).argmin()]), around(end)
    return float(after / before - 1) if before > 0 else float("nan")
