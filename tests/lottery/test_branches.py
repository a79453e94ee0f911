"""Branches of a ticket: what is kept, what is moved, and what a training leaves alone."""

import collections
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import FrozenDict

import jaxprune as jp
from jaxprune import lottery

KEY = jax.random.key(0)
OTHER = jax.random.key(9)
STACKED = {"layers": jp.Axes(in_axis=1, out_axis=2, batch_axis=0), "head": None, "bias": None}


def draw(key):
    keys = jax.random.split(key)
    return {
        "layers": jax.random.normal(keys[0], (2, 12, 10)),
        "head": jax.random.normal(keys[1], (10, 5)) / 3,
        "bias": jnp.zeros(5),
    }


START = draw(KEY)
TRAINED = jax.tree.map(lambda w, d: w + 0.7 * d, START, draw(jax.random.key(1)))
MASKS = {
    "layers": jnp.arange(240).reshape(2, 12, 10) % 120 < jnp.array([30, 6])[:, None, None],
    "head": jnp.arange(50).reshape(10, 5) < 20,
    "bias": None,
}


def kept(masks):
    return [row["kept"] for row in jp.masks.summary(masks, STACKED)]


@pytest.mark.parametrize("name", lottery.CRITERIA)
def test_masks_keep_as_many_of_each_layer(name):
    criterion = lottery.CRITERIA[name]
    known = {"initial_params": START, "key": KEY, "axes": STACKED}
    masks = lottery.masks_like(MASKS, TRAINED, criterion, **known)
    assert kept(masks) == kept(MASKS) == [20, 30, 6]
    assert masks["bias"] is None
    # Each layer of a stack is ranked by itself.
    one = lambda tree: {"w": tree["layers"][1]}
    alone = lottery.masks_like(
        one(MASKS), one(TRAINED), criterion, initial_params=one(START), key=KEY
    )
    if name != "random":
        assert jnp.array_equal(masks["layers"][1], alone["w"])


def test_large_twice_is_a_corner_of_equal_shares():
    masks = lottery.masks_like(
        MASKS, TRAINED, lottery.CRITERIA["large_init_large_final"], initial_params=START
    )
    sizes = [np.abs(tree["head"]).ravel() for tree in (START, TRAINED)]
    # Both thresholds let equally many pass: raise them until no more are kept than asked.
    for dropped in range(50):
        corner = np.logical_and(*(size >= np.sort(size)[dropped] for size in sizes))
        if corner.sum() <= 20:
            break
    missing = 20 - corner.sum()
    assert 0 <= missing <= 1, "a step removes one or two"
    assert np.asarray(masks["head"]).ravel()[corner].all()


def test_a_score_that_is_no_number_is_refused():
    broken = {**TRAINED, "head": TRAINED["head"].at[0, 0].set(jnp.nan)}
    with pytest.raises(ValueError, match="'head' no number"):
        lottery.masks_like(MASKS, broken, jp.criteria.magnitude)
    with pytest.raises(ValueError, match="masks of the same parameters"):
        lottery.masks_like({**MASKS, "head": MASKS["head"].T}, TRAINED, jp.criteria.magnitude)


@pytest.mark.parametrize("name", ["large_init_large_final", "small_init_small_final"])
@pytest.mark.parametrize("where", [0, 1])
def test_a_weight_that_is_nan_has_no_rank(name, where):
    trees = [{"w": jnp.array([1.0, 5.0, 3.0, 2.0])} for _ in range(2)]
    trees[where]["w"] = trees[where]["w"].at[1].set(jnp.nan)
    ticket = {"w": jnp.array([True, True, False, False])}
    criterion = lottery.CRITERIA[name]
    with pytest.raises(ValueError, match="'w' no number to rank them by"):
        lottery.masks_like(ticket, trees[0], criterion, initial_params=trees[1])


@pytest.mark.parametrize("size", [1e-4, 300.0])
def test_a_constant_of_float16_is_the_spread_that_float32_has(size):
    weights = jnp.array([size, -size], jnp.float16)
    constants = lottery.constant({"w": weights}, {"w": jnp.ones(2, bool)})["w"]
    assert jnp.array_equal(constants, weights)


def test_trees_in_other_containers_are_matched_by_name():
    frozen, trained = FrozenDict(START), FrozenDict(TRAINED)
    for criterion in (lottery.CRITERIA["movement"], lottery.CRITERIA["small_init_small_final"]):
        masks = lottery.masks_like(MASKS, trained, criterion, initial_params=START)
        expected = lottery.masks_like(MASKS, TRAINED, criterion, initial_params=START)
        assert jp.masks.hamming(masks, expected) == 0
    pairs = [
        (
            lottery.reinitialize(frozen, MASKS, OTHER, draw, keep_signs=True),
            lottery.reinitialize(START, MASKS, OTHER, draw, keep_signs=True),
        ),
        (
            lottery.fill_pruned(frozen, MASKS, START, trained),
            lottery.fill_pruned(START, MASKS, START, TRAINED),
        ),
    ]
    for weights, expected in pairs:
        assert isinstance(weights, FrozenDict)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, weights.unfreeze(), expected))


def test_weights_of_another_draw_have_the_dtype_of_the_first():
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), START)
    for weights in (
        lottery.reinitialize(half, MASKS, OTHER, draw),
        lottery.fill_pruned(half, MASKS, START),
    ):
        assert {leaf.dtype for leaf in jax.tree.leaves(weights)} == {jnp.dtype(jnp.bfloat16)}


def test_scores_of_other_shapes_are_refused():
    rows = lambda params, **_: jax.tree.map(lambda w: jnp.abs(w).sum(-1, keepdims=True), params)
    with pytest.raises(ValueError, match="'head' has scores of the shape"):
        lottery.masks_like({"head": MASKS["head"]}, {"head": TRAINED["head"]}, rows)


ACTIONS = {
    "reinitialize": lambda signs: lottery.reinitialize(START, MASKS, OTHER, draw, keep_signs=signs),
    "reshuffle": lambda signs: lottery.reshuffle(START, MASKS, KEY, keep_signs=signs, axes=STACKED),
    "constant": lambda signs: lottery.constant(START, MASKS, None if signs else KEY, axes=STACKED),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_signs_stay_where_they_are_asked_to(name):
    for keep_signs in (True, False):
        weights = ACTIONS[name](keep_signs)
        jp.masks.check(weights, MASKS)
        same = [
            float((jnp.sign(weights[leaf]) == jnp.sign(START[leaf]))[MASKS[leaf]].mean())
            for leaf in ("layers", "head")
        ]
        if keep_signs:
            assert same == [1.0, 1.0]
        else:
            assert max(same) < 0.85


def test_a_reinitialisation_is_the_draw_of_its_key():
    weights = lottery.reinitialize(START, MASKS, jax.random.key(7), draw)
    expected = jp.masks.apply(draw(jax.random.key(7)), MASKS)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, weights, expected))
    with pytest.raises(ValueError, match="the same model"):
        lottery.reinitialize(START, MASKS, KEY, lambda key: {"w": jnp.ones(3)})


@pytest.mark.parametrize("keep_signs", [False, True])
def test_reshuffled_values_are_those_that_were_kept(keep_signs):
    weights = lottery.reshuffle(START, MASKS, KEY, keep_signs=keep_signs, axes=STACKED)
    change = jnp.abs if keep_signs else lambda x: x
    for layer in range(2):
        mask = MASKS["layers"][layer]
        before = change(START["layers"][layer][mask])
        after = change(weights["layers"][layer][mask])
        assert jnp.array_equal(jnp.sort(before), jnp.sort(after)), "each layer keeps its own"
        assert not jnp.array_equal(before, after)


def test_a_constant_is_the_spread_of_its_layer():
    weights = lottery.constant(START, MASKS, axes=STACKED)
    for layer in range(2):
        sizes = jnp.abs(weights["layers"][layer][MASKS["layers"][layer]])
        np.testing.assert_allclose(sizes, jnp.std(START["layers"][layer]), rtol=1e-6)


def trained(transform, params, steps=5):
    state = transform.init(params)
    for _ in range(steps):
        grads = jax.tree.map(lambda w: jnp.cos(w + 1), params)
        updates, state = transform.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_frozen_weights_stay_and_zeros_train_as_fixed_ones():
    inner = optax.adamw(0.1, weight_decay=0.1)
    filled = lottery.fill_pruned(jp.masks.apply(START, MASKS), MASKS, START)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, filled, START))
    frozen = trained(lottery.frozen_pruned(inner, MASKS), filled)
    for leaf in ("layers", "head"):
        unchanged = frozen[leaf] == START[leaf]
        assert jnp.array_equal(unchanged, ~MASKS[leaf])
    assert not jnp.array_equal(frozen["bias"], START["bias"])
    masked = jp.masks.apply(START, MASKS)
    alike = trained(lottery.frozen_pruned(inner, MASKS), masked)
    fixed = trained(jp.fixed(inner, MASKS), masked)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, alike, fixed))


def test_what_moved_towards_zero_is_zero():
    filled = lottery.fill_pruned(jp.masks.apply(START, MASKS), MASKS, START, TRAINED)
    for leaf in ("layers", "head"):
        shrunk = jnp.abs(TRAINED[leaf]) < jnp.abs(START[leaf])
        pruned = ~MASKS[leaf]
        assert 0 < float((shrunk & pruned).sum()) < float(pruned.sum())
        assert jnp.array_equal(filled[leaf] == 0, shrunk & pruned)


def test_overlap_of_random_masks_is_what_is_expected():
    pair = [jp.masks.shuffle(MASKS, jax.random.key(seed), STACKED) for seed in range(40)]
    overlaps = [lottery.overlap(a, b, STACKED) for a, b in itertools.pairwise(pair)]
    mean = np.mean([found.jaccard for found in overlaps])
    assert mean == pytest.approx(overlaps[0].expected, abs=0.02)
    assert lottery.overlap(MASKS, MASKS, STACKED).jaccard == 1.0
    reversed_order = collections.OrderedDict(reversed(MASKS.items()))
    assert lottery.overlap(MASKS, reversed_order) == lottery.overlap(MASKS, MASKS)
    empty = jax.tree.map(jnp.zeros_like, MASKS)
    with pytest.raises(ValueError, match="keeps a weight"):
        lottery.overlap(empty, empty)


@pytest.mark.parametrize("within", ["rows", "layer", "tree"])
def test_a_shuffle_keeps_the_counts_that_it_is_asked_to(within):
    mixed = jp.masks.shuffle(MASKS, jax.random.key(1), STACKED)
    shuffled = jp.masks.shuffle(mixed, jax.random.key(2), STACKED, within=within)
    assert sum(kept(shuffled)) == 56
    assert (kept(shuffled) == kept(mixed)) == (within != "tree")
    for leaf in ("layers", "head"):
        rows_stay = jnp.array_equal(shuffled[leaf].sum(-1), mixed[leaf].sum(-1))
        assert rows_stay == (within == "rows")
        assert not jnp.array_equal(shuffled[leaf], mixed[leaf])


def test_rows_need_inputs():
    with pytest.raises(ValueError, match=r"'layers' are inputs is not known.*axes="):
        jp.masks.shuffle(MASKS, KEY, within="rows")
    with pytest.raises(ValueError, match="one of"):
        jp.masks.shuffle(MASKS, KEY, within="row")
