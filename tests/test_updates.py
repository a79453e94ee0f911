import jax
import jax.numpy as jnp
import pytest

import jaxprune as jp
from jaxprune.types import Keep, Units

SCORES = jnp.array([[5.0, 1.0, 4.0, 4.0], [3.0, jnp.nan, 0.0, 2.0]])
ALL = jnp.ones(SCORES.shape, bool)


def select(update, scores, keep, alive=ALL, rivals=None, axis=None, step=0):
    scores = (
        scores
        if update.revives
        else jnp.where(alive, jnp.nan_to_num(scores, nan=-jnp.inf), jnp.nan)
    )
    rivals = scores if rivals is None else rivals
    (found,) = update.select(
        [alive], [Units(scores, axis)], [Units(rivals, axis)], [Keep(keep)], step
    )
    return found


@pytest.mark.parametrize("keep", range(9))
def test_prune_keeps_exactly_the_best(keep):
    found = select(jp.updates.prune(), SCORES, keep)
    assert int(found.sum()) == keep
    ranked = jnp.argsort(-jnp.nan_to_num(SCORES, nan=-jnp.inf).ravel(), stable=True)
    assert found.ravel()[ranked[:keep]].all(), "ties go to the lower index, NaN goes first"


def test_prune_never_revives():
    alive = ALL.at[0, 0].set(False)
    found = select(jp.updates.prune(), SCORES, 8, alive)
    assert (found == alive).all()


def test_reselect_revives_by_score():
    alive = ALL.at[0, 0].set(False)
    found = select(jp.updates.reselect(), SCORES, 1, alive)
    assert found.ravel().tolist() == [True] + [False] * 7


@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 1.0])
def test_regrow_keeps_the_count_and_grows_the_best_challengers(axis, fraction):
    scores = jax.random.uniform(jax.random.key(0), (8, 8)) + 1
    alive = jp.updates.best(
        [Units(jax.random.uniform(jax.random.key(1), (8, 8)), axis)], [Keep(4)]
    )[0]
    rivals = jax.random.uniform(jax.random.key(2), (8, 8))
    update = jp.updates.regrow(jp.criteria.gradient, fraction=fraction)
    found = select(update, scores, 4, alive, rivals, axis)
    assert int(found.sum()) == int(alive.sum())
    if axis is not None:
        assert (found.sum(axis) == 4).all()
    else:
        dealt = round(fraction * 4)
        stay = select(jp.updates.prune(), scores, 4 - dealt, alive)
        assert (found & stay == stay).all()
        grown = jnp.where(found & ~stay, rivals, jnp.inf).min()
        passed_over = jnp.where(found | stay, -jnp.inf, rivals).max()
        assert dealt == 0 or grown >= passed_over


def test_regrow_fills_up_when_too_few_are_alive():
    alive = jnp.zeros(SCORES.shape, bool).at[0, 0].set(True)
    update = jp.updates.regrow(jp.criteria.gradient, fraction=0.0)
    found = select(update, SCORES, 3, alive, jnp.arange(8.0).reshape(2, 4))
    assert int(found.sum()) == 3
    assert bool(found[0, 0] & found[1, 3] & found[1, 2])


def test_a_decaying_fraction_reads_the_step():
    cosine = jp.updates.cosine(0.5, 100)
    update = jp.updates.regrow(jp.criteria.gradient, fraction=cosine)
    alive = ALL.at[1].set(False)
    rivals = jnp.zeros(SCORES.shape).at[1].set(9.0)
    early, late = (select(update, SCORES, 4, alive, rivals, step=t) for t in (0, 100))
    assert int((early & ~alive).sum()) == 2
    assert (late == alive).all()
