"""Statistics against published quantiles and hand-computed cases."""

import math

import pytest

from experiments import stats


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


def test_seeds_are_paired():
    a, b = [0.90, 0.95, 0.99], [0.89, 0.94, 0.98]  # spread much wider than the difference
    assert stats.exceeds(a, b, 0.009).passed
    assert not stats.exceeds(a, [0.98, 0.89, 0.94], 0.009).passed
    with pytest.raises(ValueError, match="paired"):
        stats.exceeds(a, b[:2], 0.0)


def test_matches_allows_the_larger_of_a_tenth_of_a_point_and_the_spread():
    steady, noisy = [0.98, 0.98, 0.98], [0.97, 0.98, 0.99]
    assert stats.matches(steady, steady).threshold == -0.001
    assert stats.matches(noisy, noisy).threshold == pytest.approx(-0.01)
    assert stats.matches([0.9795] * 3, steady).passed
    assert not stats.matches([0.9785] * 3, steady).passed
    assert stats.matches([0.9785] * 3, steady, margin=0.002).passed


def test_beats_needs_the_mean_and_half_of_it_for_sure():
    b = [0.90, 0.91, 0.92, 0.93, 0.94]
    assert stats.beats(
        [x + 0.010 + e for x, e in zip(b, [1e-4, 0, 0, 0, 0], strict=True)], b, 0.01
    ).passed
    assert not stats.beats([x + 0.009 for x in b], b, 0.01).passed  # the mean falls short
    wide = [0.06, -0.03, 0.05, -0.02, 0.01]  # the bound does
    verdict = stats.beats([x + w for x, w in zip(b, wide, strict=True)], b, 0.01)
    assert verdict.mean >= 0.01 - 1e-12
    assert not verdict.passed


def test_one_seed_decides_nothing():
    for verdict in (stats.matches([1.0], [0.0]), stats.beats([1.0], [0.0], 0.1)):
        assert verdict.passed is None
        assert verdict.bound is None
        assert verdict.mean == 1.0
    assert math.isnan(stats.std([1.0]))


def test_percentages():
    assert stats.percent([0.9750, 0.9786]) == "97.68 ± 0.25"
    assert stats.percent([0.9768]) == "97.68"
    assert stats.percent([0.97681, 0.97679], digits=3) == "97.680 ± 0.001"
