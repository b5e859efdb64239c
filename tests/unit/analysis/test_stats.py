"""Statistics against numbers worked out by hand and against scipy's own."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from scipy.stats import mannwhitneyu

from mtmarl.analysis import stats


def test_iqm_drops_the_outer_quarters():
    assert stats.value(np.asarray([[0.0, 1.0, 2.0, 100.0]]), stats.iqm) == 1.5


def test_iqm_pools_seeds_and_tasks():
    """Of 1 … 8 in any arrangement the middle half is 3, 4, 5, 6."""
    blocks = [np.asarray([[8.0, 1.0], [2.0, 7.0]]), np.asarray([[3.0], [6.0], [5.0], [4.0]])]
    assert stats.value(blocks, stats.iqm) == 4.5


def test_mean_weighs_tasks_alike_whatever_their_seeds():
    blocks = [np.asarray([[0.0], [0.0], [0.0], [0.0]]), np.asarray([[1.0, 1.0]])]
    assert stats.value(blocks) == pytest.approx(2 / 3)


def test_optimality_gap_does_not_credit_what_lies_above_one():
    assert stats.value(np.asarray([[0.5, 3.0]]), stats.optimality_gap) == 0.25


def test_nothing_scored_has_no_value():
    assert np.isnan(stats.value(np.zeros((3, 0))))
    assert np.isnan(stats.interval(np.zeros((3, 0)))).all()


def test_standard_error_is_of_the_means_of_whole_runs():
    """Runs with means 1, 2, 3: std 1, over sqrt(3). Spread between tasks does not enter."""
    scores = np.asarray([[0.0, 2.0], [1.0, 3.0], [2.0, 4.0]])
    assert stats.standard_error(scores) == pytest.approx(1 / np.sqrt(3))
    assert np.isnan(stats.standard_error(scores[:1]))


def test_standard_error_of_independent_blocks_adds_in_squares():
    block = np.asarray([[0.0, 2.0], [1.0, 3.0], [2.0, 4.0]])
    assert stats.standard_error([block, block]) == pytest.approx(1 / np.sqrt(3) / np.sqrt(2))


def test_interval_of_identical_seeds_has_no_width():
    assert stats.interval(np.asarray([[0.2, 0.8], [0.2, 0.8]])) == (0.5, 0.5)


def test_one_seed_has_no_interval():
    assert np.isnan(stats.interval(np.asarray([[0.2, 0.8]]))).all()
    assert np.isnan(stats.interval([np.ones((3, 2)), np.ones((1, 2))])).all()


def test_interval_is_that_of_the_t_distribution_on_the_means_of_runs():
    """Means 1, 2, 3: 2 ± 4.303 / sqrt(3). Differences between tasks do not widen it."""
    scores = np.asarray([[0.0, 2.0], [1.0, 3.0], [2.0, 4.0]])
    known = scipy.stats.ttest_1samp(scores.mean(1), 0.0).confidence_interval()
    assert stats.interval(scores) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert stats.interval(scores) == pytest.approx(tuple(known))


def test_interval_of_several_cells_has_the_freedom_of_welch_and_satterthwaite():
    """Two cells of 3 and 5 seeds: the mean of both scatters as half their difference does."""
    rng = np.random.default_rng(0)
    one, other = rng.normal(1.0, 0.1, (3, 1)), rng.normal(2.0, 0.3, (5, 1))
    known = scipy.stats.ttest_ind(one[:, 0], other[:, 0], equal_var=False).confidence_interval()
    low, high = stats.interval([one, other])
    assert high - low == pytest.approx((known.high - known.low) / 2)


def test_cells_weigh_by_their_tasks():
    """What scatters in one of four tasks moves the mean of all by a quarter."""
    one, three = np.asarray([[0.0], [1.0], [2.0]]), np.full((3, 3), 0.5)
    low, high = stats.interval([one, three])
    alone = stats.interval(one)
    assert high - low == pytest.approx((alone[1] - alone[0]) / 4)


def test_interval_of_an_iqm_is_that_of_the_mean_where_nothing_is_cut():
    scores = np.asarray([[0.1], [0.5], [0.3]])
    assert stats.interval(scores, stats.iqm) == pytest.approx(stats.interval(scores))


def test_runs_that_are_good_on_all_tasks_at_once_are_not_repeats():
    """Ten tasks that always agree say no more than one."""
    one = np.asarray([[0.0], [0.5], [1.0]])
    assert stats.interval(one.repeat(10, 1)) == pytest.approx(stats.interval(one))


@pytest.fixture(scope="module")
def measured():
    """The committed simulation, on fewer samples."""
    file = Path(__file__).parents[3] / "experiment_scripts" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_of_intervals", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("draw", ["normal", "skewed"])
def test_coverage(measured, draw, seeds):
    """93 to 97%, give or take two standard errors of 300 samples; the percentile bootstrap of 3 runs is far below."""
    found = measured.coverage(getattr(measured, draw), seeds, 0.8, 1.0, samples=300)
    slack = 2 * np.sqrt(0.95 * 0.05 / 300)
    for name in ("mean", "difference", "gain"):
        assert 0.93 - slack <= found[name] <= 0.97 + slack, name
    assert found["IQM"] > 0.9
    assert found["bootstrap"] < (0.8 if seeds == 3 else 0.9)


def test_gain_is_relative():
    found = stats.gain(np.full((3, 2), 0.6), np.full((3, 2), 0.4))
    np.testing.assert_allclose([found.gain, *found.interval], 0.5)
    np.testing.assert_allclose([found.difference, *found.difference_interval], 0.2)
    assert found.detectable == pytest.approx(0)


def test_gain_without_a_positive_baseline_is_unknown_but_the_difference_is_not():
    found = stats.gain(np.asarray([[1.0], [1.1], [1.2]]), np.asarray([[-0.1], [0.0], [0.0]]))
    assert np.isnan([found.gain, *found.interval, found.detectable]).all()
    assert found.difference_interval[0] > 0.9


def test_gain_excludes_nothing_where_the_test_of_welch_is_significant():
    """Fieller's interval at a ratio of 1; baselines from sharp to vague."""
    rng, seen = np.random.default_rng(0), set()
    for scatter in (0.02, 0.05, 0.1, 0.2, 0.5):
        for _ in range(10):
            a, b = rng.normal(1.1, 0.05, (3, 1)), rng.normal(1.0, scatter, (5, 1))
            significant = scipy.stats.ttest_ind(a[:, 0], b[:, 0], equal_var=False).pvalue < 0.05
            found = stats.gain(a, b)
            low, high = found.interval
            assert (low > 0 or high < 0) == significant
            low, high = found.difference_interval
            assert (low > 0 or high < 0) == significant
            seen.add(bool(significant))
    assert seen == {True, False}


def test_gain_has_the_ends_of_fieller():
    """Pairs have one number of degrees of freedom, so the ends are roots of a quadratic."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(1.0, 0.1, (4, 1)), rng.normal(0.8, 0.1, (4, 1))
    cov, t = np.cov(a[:, 0], b[:, 0]) / 4, scipy.stats.t.ppf(0.975, 3)
    above, below = a.mean(), b.mean()
    roots = np.roots(
        [
            below**2 - t**2 * cov[1, 1],
            -2 * (above * below - t**2 * cov[0, 1]),
            above**2 - t**2 * cov[0, 0],
        ]
    )
    assert stats.gain(a, b, paired=True).interval == pytest.approx(tuple(np.sort(roots) - 1))


def test_gain_over_a_baseline_that_may_be_nothing_is_unbounded_above():
    found = stats.gain(np.asarray([[1.0], [1.01], [0.99]]), np.asarray([[0.0], [0.1], [0.5]]))
    low, high = found.interval
    assert found.gain == pytest.approx(4.0) and 0 < low < 4.0 and high == np.inf


def test_gain_where_neither_side_is_told_from_nothing_may_be_anything():
    found = stats.gain(np.asarray([[-1.0], [1.5], [0.2]]), np.asarray([[0.0], [-0.4], [0.6]]))
    assert found.interval == (-np.inf, np.inf)


def test_gain_of_one_seed_has_no_interval():
    found = stats.gain(np.full((1, 2), 0.6), np.full((3, 2), 0.4))
    assert found.gain == pytest.approx(0.5) and np.isnan(found.interval).all()
    assert np.isnan(found.difference_interval).all() and np.isnan(found.detectable)


def test_the_smallest_gain_that_is_seen_is_seen_four_times_in_five():
    rng, seen, told = np.random.default_rng(0), [], []
    for _ in range(150):
        noise = [rng.normal(0, 0.1, (3, 1)) for _ in range(2)]
        told.append(stats.gain(1.0 + noise[0], 1.0 + noise[1]).detectable)
    effect = float(np.sqrt(np.mean(np.square(told))))
    for _ in range(150):
        found = stats.gain(rng.normal(1.0 + effect, 0.1, (3, 1)), rng.normal(1.0, 0.1, (3, 1)))
        seen.append(found.interval[0] > 0)
    assert np.mean(seen) == pytest.approx(stats.POWER, abs=0.1)


def test_rows_that_belong_together_are_compared_as_pairs():
    scores = np.asarray([[0.4], [0.5], [0.6]])
    found = stats.gain(scores * 1.1, scores, paired=True)
    np.testing.assert_allclose([found.gain, *found.interval], 0.1)
    low, high = stats.gain(scores * 1.1, scores).interval
    assert low < 0 < high  # apart the seeds scatter more than the pairs differ
    assert stats.probability_of_improvement(scores * 1.1, scores, paired=True) == 1.0
    assert stats.probability_of_improvement(scores * 1.1, scores) == pytest.approx(6 / 9)
    with pytest.raises(ValueError, match="differ in seeds"):
        stats.gain(scores[:2], scores, paired=True)


def test_probability_of_improvement_counts_ties_half():
    a, b = np.asarray([[1.0, 1.0]]), np.asarray([[0.0, 1.0]])
    assert stats.probability_of_improvement(a, b) == 0.75
    assert stats.probability_of_improvement(a, b) + stats.probability_of_improvement(b, a) == 1.0
    assert stats.probability_of_improvement(b, b) == 0.5


def test_probability_of_improvement_is_the_mann_whitney_statistic_averaged_over_tasks():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 4, (5, 3)).astype(float), rng.integers(0, 4, (4, 3)).astype(float)
    expected = np.mean([mannwhitneyu(a[:, k], b[:, k]).statistic / 20 for k in range(3)])
    assert stats.probability_of_improvement(a, b) == pytest.approx(expected)
    assert stats.probability_of_improvement([a, a[:, :1]], [b, b[:, :1]]) != pytest.approx(expected)


def test_scores_of_different_tasks_are_not_compared():
    with pytest.raises(ValueError, match="2 tasks against 3"):
        stats.probability_of_improvement(np.ones((3, 2)), np.ones((3, 3)))


def test_performance_profile_falls_from_one_to_zero():
    profile = stats.performance_profile(np.asarray([[0.25, 0.75]]), np.asarray([0.0, 0.5, 1.0]))
    np.testing.assert_array_equal(profile, [1.0, 0.5, 0.0])


def test_profile_scatters_as_whole_runs_do():
    """One of two runs is above 0.5 everywhere, the other nowhere: shares 1 and 0."""
    scores, thresholds = np.asarray([[0.0], [1.0]]).repeat(10, 1), np.asarray([-1.0, 0.5])
    errors = stats.profile_errors(scores, thresholds)
    assert errors is not None
    np.testing.assert_allclose(errors, [0.0, np.sqrt(0.5 / 2)])
    assert stats.profile_errors(scores[:1], thresholds) is None


def test_late_change_of_a_straight_line():
    """Smoothed 0.95 at the end (of 0.9 and 1.0) over 0.8 (of 0.7, 0.8 and 0.9)."""
    steps = np.linspace(0, 1000, 11)
    assert stats.late_change(steps, steps / 1000) == pytest.approx(0.95 / 0.8 - 1)
    assert stats.late_change(steps, np.full(11, 0.7)) == pytest.approx(0.0)
    assert np.isnan(stats.late_change(steps[:4], steps[:4]))
    assert np.isnan(stats.late_change(steps, -np.ones(11)))


def test_intervals_of_shares_hold_no_impossible_share():
    high, low = np.array([[0.9], [1.0], [1.0]]), np.array([[0.0], [0.1], [0.4]])
    assert stats.interval(high)[1] > 1 and stats.interval(low)[0] < 0
    assert stats.interval(high, possible=stats.SHARES)[1] == 1
    assert stats.interval(low, possible=stats.SHARES)[0] == 0
    assert stats.gain(low, high, possible=stats.SHARES).interval[0] == -1
