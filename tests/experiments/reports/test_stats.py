"""Statistics against published quantiles and hand-computed cases."""

import math

import numpy as np
import pytest

from experiments.reports import stats


@pytest.mark.parametrize(
    ("p", "df", "value"),  # tables of Student's t, as printed everywhere
    [
        (0.95, 1, 6.313752),
        (0.95, 2, 2.919986),
        (0.95, 3, 2.353363),
        (0.95, 4, 2.131847),
        (0.95, 9, 1.833113),
        (0.95, 30, 1.697261),
        (0.95, 120, 1.657651),
        (0.975, 1, 12.706205),
        (0.975, 4, 2.776445),
        (0.975, 10, 2.228139),
        (0.99, 5, 3.364930),
        (0.995, 7, 3.499483),
        (0.5, 3, 0.0),
        (0.05, 4, -2.131847),
    ],
)
def test_quantiles(p, df, value):
    assert stats.t_quantile(p, df) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("p", "df"), [(0.0, 3), (1.0, 3), (0.9, 0)])
def test_quantiles_that_do_not_exist(p, df):
    with pytest.raises(ValueError, match="0 < p < 1"):
        stats.t_quantile(p, df)


def test_the_bound_is_the_t_interval():
    d = [0.1, 0.4, 0.2, 0.5, 0.3]  # mean 0.3, s = sqrt(0.025)
    expected = 0.3 - 2.131847 * math.sqrt(0.025) / math.sqrt(5)
    assert stats.lower_bound(d) == pytest.approx(expected, abs=1e-6)
    assert stats.lower_bound([0.2]) is None
    assert stats.lower_bound([0.2, 0.2, 0.2]) == pytest.approx(0.2)


def test_the_upper_bound_mirrors_the_lower():
    d = [0.1, 0.4, 0.2, 0.5, 0.3]
    lower, upper = stats.bounds(d)
    assert lower == stats.lower_bound(d)
    assert upper == pytest.approx(0.6 - lower)


@pytest.mark.parametrize(
    (
        "n",
        "lower",
        "upper",
    ),  # tables of the sign test: of 5 none may lie outside, of 8 one, of 11 two
    [(1, None, None), (4, None, None), (5, 0, 4), (7, 0, 6), (8, 1, 6), (10, 1, 8), (11, 2, 8)],
)
def test_bounds_of_medians_are_order_statistics(n, lower, upper):
    found = stats.median_bounds([float(i) for i in reversed(range(n))])
    assert found == (None if lower is None else (lower, upper))


def test_seeds_are_paired():
    a, b = [0.90, 0.95, 0.99], [0.89, 0.94, 0.98]  # spread much wider than the difference
    assert stats.exceeds(a, b, 0.009).word == "holds"
    assert stats.exceeds(a, [0.98, 0.89, 0.94], 0.009).word == "open"
    with pytest.raises(ValueError, match="paired"):
        stats.exceeds(a, b[:2], 0.0)


def test_three_words():
    d = [0.1, 0.4, 0.2, 0.5, 0.3]
    lower, upper = stats.bounds(d)
    zero = [0.0] * 5
    assert stats.exceeds(d, zero, lower - 1e-9).word == "holds"
    assert stats.exceeds(d, zero, lower + 1e-9).word == "open"
    assert stats.exceeds(d, zero, upper - 1e-9).word == "open"
    assert stats.exceeds(d, zero, upper + 1e-9).word == "refuted"


def test_the_margin_is_the_larger_of_a_tenth_of_a_point_and_the_spread_of_dense():
    assert stats.margin_of(None) == stats.margin_of([0.9]) == stats.margin_of([0.98] * 3) == 0.001
    assert stats.margin_of([0.97, 0.98, 0.99]) == pytest.approx(0.01)


def test_matches_allows_the_margin():
    b = [0.98, 0.98, 0.98]
    assert stats.matches([0.9795] * 3, b, 0.001).word == "holds"
    assert stats.matches([0.9785] * 3, b, 0.001).word == "refuted"
    assert stats.matches([0.9785] * 3, b, 0.002).word == "holds"


def test_beats_needs_the_mean_and_half_of_it_for_sure():
    b = [0.90, 0.91, 0.92, 0.93, 0.94]
    better = lambda *by: [x + y for x, y in zip(b, by, strict=True)]
    assert stats.beats(better(0.0101, 0.01, 0.01, 0.01, 0.01), b, 0.01).word == "holds"
    assert stats.beats(better(0.009, 0.009, 0.009, 0.009, 0.009), b, 0.01).word == "refuted"
    assert stats.beats(better(0.001, 0.002, 0.001, 0.002, 0.001), b, 0.01).word == "refuted"
    verdict = stats.beats(better(0.06, -0.03, 0.05, -0.02, 0.01), b, 0.01)  # the bound falls short
    assert verdict.mean >= 0.01 - 1e-12
    assert verdict.word == "open"


@pytest.mark.parametrize("n", [2, 3, 5, 10])
def test_a_band_as_wide_as_the_spread_errs_in_a_twentieth_of_cases_each_way(n):
    draws = np.random.default_rng(0).standard_normal((4000, n)) + 3.0  # exactly at the edge
    words = [stats.in_band(list(draw), 0.0, 1e-9, 3.0) for draw in draws]
    assert 0.03 < words.count("holds") / len(words) < 0.07
    assert 0.03 < words.count("refuted") / len(words) < 0.07


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("published_std", [0.1, 1.0, 10.0])  # of ours
def test_a_pooled_band_errs_in_about_a_twentieth_of_cases_each_way(n, published_std):
    edge = 3 * stats.pooled_std(1.0, published_std)
    draws = np.random.default_rng(0).standard_normal((1000, n)) + edge
    words = [stats.in_pooled_band(list(draw), 0.0, 1e-9, 3.0, published_std) for draw in draws]
    assert 0.02 < words.count("holds") / len(words) < 0.1
    assert 0.02 < words.count("refuted") / len(words) < 0.1


def test_a_floor_holds_where_the_spread_is_small():
    steady = [0.9800, 0.9801, 0.9799, 0.9800, 0.9800]
    assert stats.in_band(steady, 0.982, 0.003, 3.0) == "holds"
    assert stats.in_band(steady, 0.990, 0.003, 3.0) == "refuted"
    assert stats.in_band([0.98] * 3, 0.982, 0.003, 3.0) == "holds"
    assert stats.in_band([0.98], 0.98, 0.003, 3.0) == "open"


def test_one_seed_decides_nothing():
    for verdict in (stats.matches([1.0], [0.0], 0.1), stats.beats([1.0], [0.0], 0.1)):
        assert verdict.word == "open"
        assert verdict.bounds is None
        assert verdict.mean == 1.0
    assert math.isnan(stats.std([1.0]))


def test_percentages():
    assert stats.percent([0.9750, 0.9786]) == "97.68 ± 0.25"
    assert stats.percent([0.9768]) == "97.68"
    assert stats.percent([0.97681, 0.97679], digits=3) == "97.680 ± 0.001"


def test_medians_stand_beside_means_where_seeds_differ_much():
    assert stats.percent([0.97, 0.98, 0.70]) == "88.33 ± 15.89 (median 97.00)"
    assert "median" not in stats.percent([0.97, 0.98])
    assert "median" not in stats.percent([0.97, 0.98, 0.975])
