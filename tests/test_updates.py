import jax
import jax.numpy as jnp
import pytest

import jaxprune as jp
from jaxprune.types import Keep, Units

SCORES = jnp.array([[5.0, 1.0, 4.0, 4.0], [3.0, jnp.nan, 0.0, 2.0]])
ALL = jnp.ones(SCORES.shape, bool)


def select(update, scores, keep, alive=ALL, grow_scores=None, axis=None, step=0):
    scores = (
        scores
        if update.ranks_dead_units
        else jnp.where(alive, jnp.nan_to_num(scores, nan=-jnp.inf), jnp.nan)
    )
    grow_scores = scores if grow_scores is None else grow_scores
    (found,) = update.select(
        [alive], [Units(scores, axis)], [Units(grow_scores, axis)], [Keep(keep)], step
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
    alive = jp.updates.best_units(
        [Units(jax.random.uniform(jax.random.key(1), (8, 8)), axis)], [Keep(4)]
    )[0]
    grow_scores = jax.random.uniform(jax.random.key(2), (8, 8))
    update = jp.updates.regrow(jp.criteria.gradient, fraction=fraction)
    found = select(update, scores, 4, alive, grow_scores, axis)
    assert int(found.sum()) == int(alive.sum())
    if axis is not None:
        assert (found.sum(axis) == 4).all()
    else:
        dealt = round(fraction * 4)
        stay = select(jp.updates.prune(), scores, 4 - dealt, alive)
        assert (found & stay == stay).all()
        grown = jnp.where(found & ~stay, grow_scores, jnp.inf).min()
        passed_over = jnp.where(found | stay, -jnp.inf, grow_scores).max()
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
    grow_scores = jnp.zeros(SCORES.shape).at[1].set(9.0)
    early, late = (select(update, SCORES, 4, alive, grow_scores, step=t) for t in (0, 100))
    assert int((early & ~alive).sum()) == 2
    assert (late == alive).all()
    assert [float(jp.updates.cosine(0.5, 0)(t)) for t in (0, 1)] == [0, 0]


@pytest.mark.parametrize("axis", [0, 1])
def test_regrow_drops_over_the_whole_leaf_and_refills_each_contest(axis):
    """With two places per contest a share of each would round to nothing, or to half of them."""
    scores = jax.random.uniform(jax.random.key(0), (4, 64) if axis == 0 else (64, 4)) + 1
    alive = jp.updates.best_units([Units(scores, axis)], [Keep(2)])[0]
    update = jp.updates.regrow(jp.criteria.gradient, fraction=0.25)
    grow_scores = jnp.where(alive, 0.0, 1.0)  # the dead want in
    found = select(update, scores, 2, alive, grow_scores, axis)
    assert (found.sum(axis) == 2).all()
    assert int((found & ~alive).sum()) == 32, "a quarter of the 128 places"
    dropped = jnp.where(alive & ~found, scores, -jnp.inf).max()
    assert dropped <= jnp.where(alive & found, scores, jnp.inf).min()


def redistributed(update, scores, alive, grow_scores):
    units = [Units(jnp.where(a, s, jnp.nan)) for a, s in zip(alive, scores, strict=True)]
    keep = [Keep(jnp.sum(a, dtype=jnp.int32)) for a in alive]
    return update.select(alive, units, [Units(r) for r in grow_scores], keep, 0)


SCORES_OF_TWO = [jnp.arange(1.0, 11.0), jnp.arange(11.0, 21.0)]
HALF = [jnp.arange(10) % 2 == 0] * 2


def test_redistribute_follows_the_signal():
    update = jp.updates.redistribute(
        jp.criteria.momentum, fraction=0.4, shares=jp.updates.by_signal
    )
    grow_scores = [jnp.ones(10), 3 * jnp.ones(10)]
    found = redistributed(update, SCORES_OF_TWO, HALF, grow_scores)
    assert [int(f.sum()) for f in found] == [3 + 1, 3 + 3], "4 places in the proportion 1 : 3"
    assert (found[0][jnp.array([4, 6, 8])]).all(), "the best stay"


def test_redistribute_pools_and_counts_survivors():
    update = jp.updates.redistribute(
        jp.criteria.random, fraction=0.4, shares=jp.updates.by_survivors, pooled=True
    )
    found = redistributed(update, SCORES_OF_TWO, HALF, [jnp.ones(10)] * 2)
    # The 4 smallest of 10 all lie in the first leaf, which keeps 1 of 6 and so grows 1 of 4 at most.
    assert sum(int(f.sum()) for f in found) == 10
    assert int(found[0].sum()) <= 2
    assert found[1][jnp.array([0, 2, 4, 6, 8])].all()


def test_a_full_leaf_passes_its_places_on():
    update = jp.updates.redistribute(
        jp.criteria.momentum, fraction=0.5, shares=jp.updates.by_signal
    )
    scores = [jnp.arange(1.0, 5.0), jnp.arange(1.0, 101.0)]
    alive = [jnp.ones(4, bool), jnp.arange(100) < 50]
    found = redistributed(update, scores, alive, [1e9 * jnp.ones(4), jnp.ones(100)])
    assert [int(f.sum()) for f in found] == [4, 50]


@pytest.mark.parametrize("pooled", [True, False])
def test_redistribute_comes_down_to_the_budget(pooled):
    update = jp.updates.redistribute(
        jp.criteria.momentum, fraction=0.3, shares=jp.updates.by_signal, pooled=pooled
    )
    alive, grow_scores = [jnp.ones(10, bool)] * 2, [jnp.ones(10)] * 2
    units = [Units(s) for s in SCORES_OF_TWO]
    found = update.select(alive, units, [Units(r) for r in grow_scores], [Keep(3), Keep(3)], 0)
    assert sum(int(f.sum()) for f in found) == 6


@pytest.mark.parametrize("fraction", [-0.1, 1.5])
def test_fractions_out_of_range_are_refused(fraction):
    for make in (jp.methods.rigl, jp.methods.set_, jp.methods.snfs, jp.methods.dsr):
        with pytest.raises(ValueError, match="in \\[0, 1\\], is needed"):
            make(sparsity=0.5, every=2, end=4, fraction=fraction)


@pytest.mark.parametrize("share", [jnp.nan, 0.0, -1.0])
def test_places_are_dealt_out_whatever_the_signal_says(share):
    update = jp.updates.redistribute(
        jp.criteria.momentum,
        fraction=0.5,
        shares=lambda stays, grow_scores: [jnp.float32(share)] * 2,
    )
    found = redistributed(update, SCORES_OF_TWO, HALF, [jnp.ones(10)] * 2)
    assert sum(int(f.sum()) for f in found) == 10


def test_splice_leaves_the_band_as_it_is():
    scores = jnp.array([[1.0, 1.0, 0.95, 1.05, 0.5, 1.5]])  # mean 1
    alive = jnp.array([[True, False, True, False, True, False]])
    found = select(jp.updates.splice(margin=0.1), scores, 0, alive)
    assert found.tolist() == [[True, False, True, False, False, True]]


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("at_least", [0, 1, 2])
def test_redistribute_leaves_each_layer_its_floor(at_least, pooled):
    update = jp.updates.redistribute(
        jp.criteria.momentum,
        fraction=1.0,
        shares=lambda stays, grow_scores: [jnp.float32(1), jnp.float32(0)],
        pooled=pooled,
        at_least=at_least,
    )
    found = redistributed(update, SCORES_OF_TWO, HALF, [jnp.ones(10)] * 2)
    assert [int(f.sum()) for f in found] == [10 - at_least, at_least]
    stacked = [Units(jnp.stack(SCORES_OF_TWO), layers=(0,))]
    keep, alive = [Keep(jnp.array([5, 5]))], [jnp.stack(HALF)]
    [one] = update.select(alive, stacked, [Units(jnp.ones((2, 10)), layers=(0,))], keep, 0)
    assert one.tolist() == jnp.stack(found).tolist()


def test_splice_leaves_the_best_where_all_would_be_cut():
    scores = jnp.array([[1.0, 3.0, 2.0]])
    found = select(jp.updates.splice(c=9.0), scores, 0, jnp.ones((1, 3), bool))
    assert found.tolist() == [[False, True, False]]


def test_shares_that_are_no_function_are_refused_at_once():
    with pytest.raises(
        TypeError, match="a function of survivors and scores is needed, not a string"
    ):
        jp.updates.redistribute(jp.criteria.gradient, shares="by_survivors")
