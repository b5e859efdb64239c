"""Statistics over seeds and tasks, after Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice".

Scores are one block [seeds, tasks], or several blocks whose tasks are pooled (cells of a sweep, families of
environments; they may differ in seeds). Every task weighs the same, but for `iqm`. A row of a block is one run, which
scores all tasks of the block; runs are independent, tasks are fixed.

Intervals are 95% t intervals over runs. The percentile bootstrap of Agarwal et al. needs more runs: with three seeds
it holds the true mean three times in four. `experiment_scripts/coverage.py` measures how often these intervals hold
the truth with 3 and with 5 seeds.

* The standard error of a statistic is that of the jackknife over the runs of each block. For a mean it is the usual
  std / sqrt(seeds).
* Degrees of freedom of several blocks, or of two sides, are those of Welch and Satterthwaite.
* A gain is a ratio of means, so its interval is Fieller's. It excludes 0 exactly where Welch's t test of the
  difference of the two means is significant, and it has no end where the baseline may be 0.
* The probability of improvement has no interval: three runs of one side all above three of the other are no rare
  chance, and would give an interval without width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit
from scipy.stats import trim_mean

CONFIDENCE = 0.95
# How often an effect of the size that `Gain.detectable` names is told from none.
POWER = 0.8

Scores = np.ndarray | Sequence[np.ndarray]
Interval = tuple[float, float]
# From blocks [..., seeds, tasks] to [...].
Statistic = Callable[[Sequence[np.ndarray]], np.ndarray]

UNKNOWN: Interval = (float("nan"), float("nan"))
# What scores may be: shares have ends, which no interval passes.
ANY: Interval = (float("-inf"), float("inf"))
SHARES: Interval = (0.0, 1.0)


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


# ----------------------------------------------------------------------------------------------- intervals


@dataclass(frozen=True)
class Spread:
    """The variance of an estimate as independent terms [terms], and the degrees of freedom of each [terms]."""

    variances: np.ndarray
    freedoms: np.ndarray

    @property
    def error(self) -> float:
        """The standard error of the estimate."""
        return float(np.sqrt(self.variances.sum()))

    @property
    def freedom(self) -> float:
        """After Welch and Satterthwaite; the smallest of the terms' where nothing varies."""
        return float(_freedom(self.variances[:, None], self.freedoms)[0])

    def interval(self, centre: float) -> Interval:
        """The t interval around an estimate."""
        reach = float(_quantile(self.freedom)) * self.error
        return centre - reach, centre + reach


def _freedom(variances: np.ndarray, freedoms: np.ndarray) -> np.ndarray:
    """Of variances [terms, n]: [n]."""
    total = variances.sum(0)
    below = (variances**2 / freedoms[:, None]).sum(0)
    return np.where(below > 0, total**2 / np.where(below > 0, below, 1.0), freedoms.min())


def _quantile(freedom: float | np.ndarray) -> np.ndarray:
    """How many standard errors a t interval reaches to each side."""
    return np.asarray(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def _jackknife(parts: Sequence[np.ndarray], statistic: Statistic) -> Spread:
    """The spread of a statistic of runs: each is left out once, by itself."""
    variances = []
    for i, part in enumerate(parts):
        n = len(part)
        without = part[np.asarray([np.delete(np.arange(n), seed) for seed in range(n)])]
        values = statistic([without if j == i else p[None].repeat(n, 0) for j, p in enumerate(parts)])
        variances.append((n - 1) * values.var(0))
    return Spread(np.asarray(variances), np.asarray([len(p) - 1.0 for p in parts]))


def interval(scores: Scores, statistic: Statistic = mean, possible: Interval = ANY) -> Interval:
    """The 95% t interval of a statistic, as far as its values are possible.

    NaN with one seed: a seed alone says nothing of its spread.
    """
    parts = blocks(scores)
    if not _repeated(parts):
        return UNKNOWN
    return _within(possible, _jackknife(parts, statistic).interval(float(statistic(parts))))


def _within(possible: Interval, found: Interval) -> Interval:
    low, high = (float(np.clip(end, *possible)) for end in found)
    return low, high


def standard_error(scores: Scores) -> float:
    """Of the mean over tasks, from the spread of whole runs: std over seeds / sqrt(seeds).

    Blocks are independent runs, weighted by their numbers of tasks. NaN where a block has one seed.
    """
    parts = blocks(scores)
    return _jackknife(parts, mean).error if _repeated(parts) else float("nan")


def _repeated(parts: Sequence[np.ndarray]) -> bool:
    return bool(parts) and all(len(p) > 1 for p in parts)


# ---------------------------------------------------------------------------------------------- comparisons


@dataclass(frozen=True)
class Gain:
    """mean(scores) / mean(baseline) - 1 and the difference of the means, each with its 95% interval.

    `detectable`: the smallest gain, up or down, that runs which scatter like these tell from none four times in five.
    """

    gain: float
    interval: Interval
    difference: float
    difference_interval: Interval
    detectable: float


def gain(scores: Scores, baseline: Scores, paired: bool = False, possible: Interval = ANY) -> Gain:
    """How much one side scores above the other.

    `paired`: equal rows of both sides belong together, so their differences count. `possible`: what scores may be;
    where none is below 0, no gain is below −100%. The ratio is NaN where the baseline's mean is not above 0: it has no
    meaning there.
    """
    a, b = blocks(scores), blocks(baseline)
    nothing = float("nan")
    if not a or not b:
        return Gain(nothing, UNKNOWN, nothing, UNKNOWN, nothing)
    above, below = float(mean(a)), float(mean(b))
    ratio = above / below - 1 if below > 0 else nothing
    if not (_repeated(a) and _repeated(b)):
        return Gain(ratio, UNKNOWN, above - below, UNKNOWN, nothing)
    both = _Sides.of(a, b, paired)
    apart = both.spread(np.pi / 4)
    # `spread` is of (A - B) / sqrt(2) there.
    difference = Spread(2 * apart.variances, apart.freedoms)
    ratios = (-1.0 if possible[0] >= 0 else -np.inf, np.inf)
    reach = float(_quantile(difference.freedom) + stdtrit(difference.freedom, POWER))
    return Gain(
        ratio,
        _within(ratios, both.fieller(above, below)) if below > 0 else UNKNOWN,
        above - below,
        _within((possible[0] - possible[1], possible[1] - possible[0]), difference.interval(above - below)),
        reach * difference.error / below if below > 0 else nothing,
    )


# The end of an interval is looked for in so many steps, then within one of these, and so on.
STEPS, ZOOMS = 128, 6


@dataclass(frozen=True)
class _Sides:
    """Variances and covariances of two means, as independent terms [terms] with their degrees of freedom."""

    one: np.ndarray
    other: np.ndarray
    together: np.ndarray
    freedoms: np.ndarray

    @classmethod
    def of(cls, a: Sequence[np.ndarray], b: Sequence[np.ndarray], paired: bool) -> "_Sides":
        if not paired:
            left, right = _jackknife(a, mean), _jackknife(b, mean)
            none = lambda spread: np.zeros_like(spread.variances)
            return cls(
                np.concatenate([left.variances, none(right)]),
                np.concatenate([none(left), right.variances]),
                np.concatenate([none(left), none(right)]),
                np.concatenate([left.freedoms, right.freedoms]),
            )
        if [x.shape for x in a] != [y.shape for y in b]:
            raise ValueError("sides of pairs differ in seeds or tasks")
        tasks = sum(x.shape[1] for x in a)
        known = [np.cov(x.sum(1) / tasks, y.sum(1) / tasks) / len(x) for x, y in zip(a, b, strict=True)]
        pick = lambda i, j: np.asarray([c[i, j] for c in known])
        return cls(pick(0, 0), pick(1, 1), pick(0, 1), np.asarray([len(x) - 1.0 for x in a]))

    def _variances(self, angle: np.ndarray) -> np.ndarray:
        """Of A cos(angle) - B sin(angle), for angles [n]: [terms, n]."""
        cos, sin = np.cos(angle), np.sin(angle)
        terms = np.stack([self.one, self.other, self.together])[..., None]
        return np.maximum(terms[0] * cos**2 + terms[1] * sin**2 - 2 * terms[2] * cos * sin, 0)

    def spread(self, angle: float) -> Spread:
        return Spread(self._variances(np.asarray([angle]))[:, 0], self.freedoms)

    def fieller(self, above: float, below: float) -> Interval:
        """All A / B - 1 that the means do not contradict, for B above 0.

        A ratio is the tangent of an angle, at which A cos - B sin is 0. From the angle that was found it goes up and
        down until that is significantly not 0; an end at which B is 0 is infinite.
        """

        def beyond(angle: np.ndarray) -> np.ndarray:
            variances = self._variances(angle)
            reach = _quantile(_freedom(variances, self.freedoms)) * np.sqrt(variances.sum(0))
            return np.abs(above * np.cos(angle) - below * np.sin(angle)) - reach

        def end(last: float) -> float:
            inside, outside = float(np.arctan2(above, below)), last
            for _ in range(ZOOMS):
                angles = np.linspace(inside, outside, STEPS + 1)
                first = np.flatnonzero(beyond(angles)[1:] > 0)[:1]
                if not first.size:
                    return float(np.copysign(np.inf, last))
                inside, outside = float(angles[first[0]]), float(angles[first[0] + 1])
            return float(np.tan(outside) - 1)

        return end(-np.pi / 2), end(np.pi / 2)


def probability_of_improvement(scores: Scores, baseline: Scores, paired: bool = False) -> float:
    """The chance that a run scores above a run of the baseline, averaged over tasks; ties count half.

    The Mann-Whitney statistic per task; `paired`: above the run of the baseline that it belongs to. Blocks of both
    sides must hold the same tasks in the same order.
    """
    wins = []
    for x, y in zip(blocks(scores), blocks(baseline), strict=True):
        if x.shape[1] != y.shape[1]:
            raise ValueError(f"{x.shape[1]} tasks against {y.shape[1]}")
        if not paired:
            x, y = x[:, None], y[None]
        won = (x > y) + 0.5 * (x == y)
        wins.append(won.reshape(-1, won.shape[-1]).mean(0))
    return float(np.concatenate(wins).mean()) if wins else float("nan")


# ------------------------------------------------------------------------------------ performance profiles


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """For each threshold [n] the share of (seed, task) scores above it."""
    parts = blocks(scores)
    return np.asarray([mean([(p > t).astype(float) for p in parts]) for t in thresholds])


def profile_errors(scores: Scores, thresholds: np.ndarray) -> np.ndarray | None:
    """The standard errors of the profile over runs [n]; None with one seed."""
    parts = blocks(scores)
    if not _repeated(parts):
        return None
    return np.asarray([_jackknife([(p > t).astype(float) for p in parts], mean).error for t in thresholds])


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
