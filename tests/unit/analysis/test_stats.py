"""Statistics against numbers worked out by hand and against scipy's own."""

import numpy as np
import pytest
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


def test_interval_covers_the_mean_of_a_normal_sample():
    """Differences between tasks do not widen it."""
    rng = np.random.default_rng(0)
    scores = np.asarray([0.0, 100.0]) + rng.normal(size=(40, 2))
    low, high = stats.interval(scores)
    assert low < 50 < high and high - low < 2 * 2.6 * np.sqrt(1 / 80)


def test_bootstrap_draws_whole_runs():
    """A run scores all its tasks: whichever seed is drawn for one task is drawn for all of them."""
    scores = np.asarray([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0]])
    (drawn,) = stats.resample([scores], np.random.default_rng(0))
    assert drawn.shape == (stats.RESAMPLES, 3, 2)
    assert set(np.unique(drawn[..., 0])) == {0, 1, 2}
    np.testing.assert_array_equal(drawn[..., 0] + 10, drawn[..., 1])


def test_blocks_are_strata():
    """Cells hold different runs: the seeds of one say nothing about those of another."""
    block = np.arange(3.0)[:, None]
    one, other = stats.resample([block, block], np.random.default_rng(0))
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.05


def test_bootstrap_stratified_by_task_draws_seeds_anew_within_each_task():
    """Every resample of a task holds that task's scores alone, and tasks are drawn independently."""
    scores = np.asarray([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0]])
    (drawn,) = stats.resample([scores], np.random.default_rng(0), by_task=True)
    assert drawn.shape == (stats.RESAMPLES, 3, 2)
    assert set(np.unique(drawn[..., 0])) == {0, 1, 2} and set(np.unique(drawn[..., 1])) == {10, 11, 12}
    assert abs(np.corrcoef(drawn[..., 0].ravel(), drawn[..., 1].ravel())[0, 1]) < 0.05


def test_of_single_tasks_both_ways_are_the_same():
    """Several blocks, too: a stratum is then a task."""
    rng = np.random.default_rng(0)
    blocks, others = [[rng.normal(1.0, 0.1, (3, 1)) for _ in range(4)] for _ in range(2)]
    assert stats.interval(blocks) == stats.interval(blocks, by_task=True)
    assert stats.gain(blocks, others) == stats.gain(blocks, others, by_task=True)


def test_bootstrap_variance_of_three_seeds_is_two_thirds_of_the_unbiased_one():
    scores = np.asarray([[0.0, 5.0], [1.0, 9.0], [5.0, 1.0]])
    for by_task, unbiased in (
        (False, scores.mean(1).var(ddof=1) / 3),
        (True, scores.var(0, ddof=1).sum() / 3 / 4),
    ):
        means = stats.mean(stats.resample([scores], np.random.default_rng(0), by_task))
        assert means.var() == pytest.approx(2 / 3 * unbiased, rel=0.08)


def coverage(seeds, shared, by_task=False):
    """How often the interval of 5 tasks holds the truth; `shared`: the part of the variance that is a run's own."""
    rng, hits = np.random.default_rng(1), []
    for _ in range(500):
        noise = np.sqrt(shared) * rng.normal(size=(seeds, 1)) + np.sqrt(1 - shared) * rng.normal(
            size=(seeds, 5)
        )
        low, high = stats.interval(noise, by_task=by_task)
        hits.append(low < 0 < high)
    return float(np.mean(hits))


def test_coverage(monkeypatch):
    """Near 95% with 12 seeds. With 3 it is 1 - 2 / 2^3: the truth lies outside if all lie on one side of it."""
    monkeypatch.setattr(stats, "RESAMPLES", 1000)
    for shared in (0.0, 0.8):
        assert 0.88 < coverage(12, shared) < 0.97
        assert coverage(3, shared) == pytest.approx(0.75, abs=0.05)


def test_stratified_by_task_it_covers_less_where_runs_are_good_on_all_tasks_at_once(monkeypatch):
    monkeypatch.setattr(stats, "RESAMPLES", 400)
    assert 0.88 < coverage(12, 0.0, by_task=True) < 0.97
    assert coverage(12, 0.8, by_task=True) < 0.75


def test_three_seeds_of_a_cell_span_their_interval():
    scores = np.asarray([[0.0, 0.2], [0.5, 0.7], [1.0, 0.9]])
    assert stats.interval(scores) == pytest.approx((0.1, 0.95))


def test_runs_that_are_good_on_all_tasks_at_once_need_the_wider_interval():
    scores = np.asarray([[0.0], [0.5], [1.0]]) + np.zeros((3, 10))
    width = lambda interval: interval[1] - interval[0]
    assert width(stats.interval(scores)) == 1.0
    assert width(stats.interval(scores, by_task=True)) < 0.4


def test_probability_of_improvement_and_profiles_draw_whole_runs():
    """One seed of two wins everywhere, the other loses everywhere: so may all of a resample."""
    scores, level = np.asarray([[0.0], [1.0]]) + np.zeros((2, 10)), np.full((2, 10), 0.5)
    assert stats.improvement_interval(scores, level) == (0.0, 1.0)
    band = stats.profile_band(scores, np.asarray([0.5]))
    assert band is not None and (band[0][0], band[1][0]) == (0.0, 1.0)


def test_intervals_are_the_same_each_time():
    scores = np.random.default_rng(2).normal(size=(3, 4))
    assert stats.interval(scores, stats.iqm) == stats.interval(scores, stats.iqm)


def test_gain_is_relative():
    value, interval = stats.gain(np.full((3, 2), 0.6), np.full((3, 2), 0.4))
    np.testing.assert_allclose([value, *interval], 0.5)


def test_gain_of_exact_multiples():
    """Seeds differ, yet with one seed order on both sides the point is exact and the interval holds it."""
    baseline = np.asarray([[0.1, 0.4], [0.2, 0.5], [0.3, 0.6]])
    value, (low, high) = stats.gain(3 * baseline, baseline)
    assert value == pytest.approx(2.0)
    assert low < 2.0 < high and low > 0.5


def test_gain_without_a_positive_baseline_is_unknown():
    value, interval = stats.gain(np.ones((3, 2)), np.zeros((3, 2)))
    assert np.isnan(value) and np.isnan(interval).all()


def test_gain_over_a_baseline_that_may_be_nothing_is_unbounded_above():
    value, (low, high) = stats.gain(np.full((3, 1), 1.0), np.asarray([[0.0], [0.0], [0.6]]))
    assert value == pytest.approx(4.0)
    assert low == pytest.approx(1 / 0.6 - 1) and high == np.inf


def test_gain_of_one_seed_has_no_interval():
    value, interval = stats.gain(np.full((1, 2), 0.6), np.full((3, 2), 0.4))
    assert value == pytest.approx(0.5) and np.isnan(interval).all()


def test_rows_that_belong_together_are_drawn_together():
    scores = np.asarray([[0.2], [0.5], [0.8]])
    value, (low, high) = stats.gain(scores * 1.1, scores, paired=True)
    assert value == pytest.approx(0.1) and low == pytest.approx(0.1) and high == pytest.approx(0.1)
    low, high = stats.gain(scores * 1.1, scores)[1]
    assert low < 0 < high  # apart the seeds scatter more than the pairs differ
    assert stats.probability_of_improvement(scores * 1.1, scores, paired=True) == 1.0
    assert stats.improvement_interval(scores * 1.1, scores, paired=True) == (1.0, 1.0)
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
    low, high = stats.improvement_interval(a, b)
    assert 0 <= low < expected < high <= 1


def test_scores_of_different_tasks_are_not_compared():
    with pytest.raises(ValueError, match="2 tasks against 3"):
        stats.probability_of_improvement(np.ones((3, 2)), np.ones((3, 3)))


def test_performance_profile_falls_from_one_to_zero():
    profile = stats.performance_profile(np.asarray([[0.25, 0.75]]), np.asarray([0.0, 0.5, 1.0]))
    np.testing.assert_array_equal(profile, [1.0, 0.5, 0.0])


def test_profile_band_holds_the_profile():
    scores = np.random.default_rng(0).uniform(size=(5, 4))
    thresholds = np.linspace(0, 1, 11)
    band = stats.profile_band(scores, thresholds)
    assert band is not None
    profile = stats.performance_profile(scores, thresholds)
    assert (band[0] <= profile).all() and (profile <= band[1]).all() and (band[0] < band[1]).any()
    assert stats.profile_band(scores[:1], thresholds) is None


def test_late_change_of_a_straight_line():
    """Smoothed 0.95 at the end (of 0.9 and 1.0) over 0.8 (of 0.7, 0.8 and 0.9)."""
    steps = np.linspace(0, 1000, 11)
    assert stats.late_change(steps, steps / 1000) == pytest.approx(0.95 / 0.8 - 1)
    assert stats.late_change(steps, np.full(11, 0.7)) == pytest.approx(0.0)
    assert np.isnan(stats.late_change(steps[:4], steps[:4]))
    assert np.isnan(stats.late_change(steps, -np.ones(11)))
