"""Straight lines between networks: what is on them, and what must not be."""

import jax.numpy as jnp
import pytest

from jaxprune import lottery

A = {"w": jnp.array([1.0, 5.0]), "count": jnp.array(3)}
B = {"w": jnp.array([3.0, -5.0]), "count": jnp.array(3)}
NORMED = {"params": {"w": jnp.ones(2)}, "batch_stats": {"bn": {"mean": jnp.ones(2)}}}


def test_a_line_has_both_ends_and_what_lies_between():
    seen = []
    line = lottery.errors_along_line(lambda p: seen.append(p) or p["w"][1] ** 2, A, B)
    assert len(line.alphas) == len(line.errors) == 30
    assert jnp.array_equal(seen[0]["w"], A["w"])
    assert jnp.array_equal(seen[-1]["w"], B["w"])
    assert line.errors[0] == line.errors[-1] == 25.0
    assert min(line.errors) < 0.1
    assert line.instability == 0.0, "a valley is no barrier"
    up = lottery.errors_along_line(lambda p: -(p["w"][1] ** 2), A, B, points=5)
    assert up.instability == 25.0


def test_statistics_are_recomputed_or_refused():
    with pytest.raises(ValueError, match=r"batch_stats/bn/mean.*recompute="):
        lottery.errors_along_line(lambda p: 0.0, NORMED, NORMED)
    measured = []

    def recompute(point):
        measured.append(point)
        return {**point, "batch_stats": {"bn": {"mean": jnp.zeros(2)}}}

    line = lottery.errors_along_line(
        lambda p: p["batch_stats"]["bn"]["mean"].sum(),
        NORMED,
        NORMED,
        points=4,
        recompute=recompute,
    )
    assert line.errors == (0.0,) * 4
    assert len(measured) == 4


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((lambda p: 0.0, A, {**B, "count": jnp.array(4)}), "whole numbers and differ"),
        ((lambda p: 0.0, A, {**B, "w": jnp.ones(3)}), "two networks of one model"),
        ((lambda p: float("nan"), A, B), "at alpha=0 is nan"),
    ],
)
def test_what_is_no_line_is_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        lottery.errors_along_line(*arguments)


def test_a_line_of_one_point_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        lottery.errors_along_line(lambda p: 0.0, A, B, points=1)
    with pytest.raises(ValueError, match="both ends"):
        lottery.instability([0.5])


def test_an_error_that_is_no_number_is_not_passed_over():
    with pytest.raises(ValueError, match="one is not finite"):
        lottery.instability([0.1, float("nan"), 0.5])
