"""How often the 95% intervals of the reports hold the truth: `python experiment_scripts/coverage.py [--samples N]`.

Runs are drawn from known distributions, 3 or 5 of them on 5 tasks, and the interval of `mtmarl.analysis.stats` is made
of each sample. The part of a run's deviation that all its tasks share is 0 or 80% of the variance; the baseline of
comparisons scatters as much as the other side or three times as much. Skewed: log-normal, with a skewness of 0.61.
The last column is the percentile bootstrap, which earlier reports had, of the mean.
"""

import argparse
from collections.abc import Callable

import numpy as np

from mtmarl.analysis import stats

TASKS, SCATTER, SCORE, BASELINE = 5, 0.15, 1.2, 1.0
WIDTH = 0.2  # Standard deviation of the logarithm of what is skewed.
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape)


def skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Log-normal, with mean 0 and variance 1."""
    raw = np.exp(WIDTH * rng.normal(size=shape))
    middle, variance = np.exp(WIDTH**2 / 2), np.expm1(WIDTH**2) * np.exp(WIDTH**2)
    return (raw - middle) / np.sqrt(variance)


def runs(rng: np.random.Generator, draw: Draw, seeds: int, shared: float) -> np.ndarray:
    """Deviations of scores, mean 0 and variance 1: [seeds, tasks]."""
    return np.sqrt(shared) * draw(rng, (seeds, 1)) + np.sqrt(1 - shared) * draw(rng, (seeds, TASKS))


def bootstrap(scores: np.ndarray, rng: np.random.Generator, resamples: int = 1000) -> stats.Interval:
    """The percentile bootstrap of whole runs."""
    rows = rng.integers(0, len(scores), (resamples, len(scores)))
    low, high = np.quantile(scores.mean(1)[rows].mean(1), [0.025, 0.975])
    return float(low), float(high)


def coverage(
    draw: Draw, seeds: int, shared: float, ratio: float, samples: int, seed: int = 0
) -> dict[str, float]:
    """The share of samples whose interval holds the truth; `ratio`: scatter of the baseline over that of the scores."""
    rng = np.random.default_rng(seed)
    middle = stats.value(SCORE + SCATTER * runs(rng, draw, 200_000, shared), stats.iqm)
    hits: dict[str, int] = dict.fromkeys(("mean", "difference", "gain", "IQM", "bootstrap"), 0)
    for _ in range(samples):
        scores = SCORE + SCATTER * runs(rng, draw, seeds, shared)
        baseline = BASELINE + SCATTER * ratio * runs(rng, draw, seeds, shared)
        gain = stats.gain(scores, baseline)
        for name, (low, high), truth in (
            ("mean", stats.interval(scores), SCORE),
            ("difference", gain.difference_interval, SCORE - BASELINE),
            ("gain", gain.interval, SCORE / BASELINE - 1),
            ("IQM", stats.interval(scores, stats.iqm), middle),
            ("bootstrap", bootstrap(scores, rng), SCORE),
        ):
            hits[name] += low <= truth <= high
    return {name: count / samples for name, count in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1500, help="per row; default: %(default)s")
    samples = parser.parse_args().samples
    print(f"{samples:,} samples a row; standard error of a share: {np.sqrt(0.95 * 0.05 / samples):.1%}\n")
    print(
        "| scores | seeds | shared by tasks | scatter of the baseline | mean | difference | gain | IQM | bootstrap |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for draw in (normal, skewed):
        for seeds in (3, 5):
            for shared in (0.0, 0.8):
                for ratio in (1.0, 3.0):
                    row = coverage(draw, seeds, shared, ratio, samples)
                    found = " | ".join(f"{share:.1%}" for share in row.values())
                    print(f"| {draw.__name__} | {seeds} | {shared:.0%} | × {ratio:g} | {found} |", flush=True)


if __name__ == "__main__":
    main()
