"""Statistics against numbers worked out by hand."""

import numpy as np

from mtmarl.analysis import stats


def test_iqm_drops_the_outer_quarters():
    assert stats.iqm(np.asarray([[0.0, 1.0, 2.0, 100.0]])) == 1.5


def test_interval_of_identical_seeds_has_no_width():
    assert stats.interval(np.asarray([[0.2, 0.8], [0.2, 0.8]])) == (0.5, 0.5)


def test_interval_covers_the_mean_of_a_normal_sample():
    """Stratified by task: differences between tasks do not widen it."""
    rng = np.random.default_rng(0)
    scores = np.asarray([0.0, 100.0]) + rng.normal(size=(40, 2))
    low, high = stats.interval(scores)
    assert low < 50 < high and high - low < 2 * 2.6 * np.sqrt(1 / 80)


def test_gain_is_relative():
    value, (low, high) = stats.gain(np.full((3, 2), 0.6), np.full((3, 2), 0.4))
    np.testing.assert_allclose([value, low, high], 0.5)


def test_probability_of_improvement_counts_ties_half():
    a, b = np.asarray([[1.0, 1.0]]), np.asarray([[0.0, 1.0]])
    assert stats.probability_of_improvement(a, b) == 0.75
    assert stats.probability_of_improvement(a, b) + stats.probability_of_improvement(b, a) == 1.0


def test_performance_profile_falls_from_one_to_zero():
    profile = stats.performance_profile(np.asarray([[0.25, 0.75]]), np.asarray([0.0, 0.5, 1.0]))
    np.testing.assert_array_equal(profile, [1.0, 0.5, 0.0])
