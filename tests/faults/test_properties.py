"""Searches, patterns, allocations, schedules and trainings against plain NumPy, whatever the numbers are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from faults.properties import DTYPES, INFINITE, arrays, best, chosen, examples, survivors, trees
from hypothesis import given
from hypothesis import strategies as st

import jaxprune as jp
from jaxprune import selection

MENUS = {
    "one": [(37,)],
    "six": [(4,), (8, 5), (8, 5), (8, 5), (8, 5), (3, 2)],
    "with empty and scalar": [(0, 3), (), (1,), (5, 7), (2, 3, 4), (16,)],
}
SHARES = [0.0, 0.1, 0.25, 0.3333333, 0.5, 0.75, 0.9, 0.95, 0.999]


def special(scores):
    """Whether numbers are tied, infinite, NaN, denormal or zeros of both signs."""
    flat = np.concatenate([np.asarray(x).astype(np.float64).ravel() for x in scores])
    return len(np.unique(flat)) < flat.size or not np.isfinite(flat).all()


def equal(found, wanted):
    return all(np.array_equal(np.asarray(f), w) for f, w in zip(found, wanted, strict=True))


SEARCHES = list(itertools.product(["top", "top_each"], MENUS))


@pytest.mark.parametrize(("search", "menu"), chosen([("top_each", "six")], SEARCHES))
def test_searches_mark_what_a_stable_sort_would(search, menu, attack, amount):
    shapes = MENUS[menu]
    sizes = [int(np.prod(shape)) for shape in shapes]
    names = list(DTYPES)[: amount(1, 5)]
    cases = amount(20, 200)
    tally = attack("R16", f"{search} of {menu}", least=cases)

    @examples(20, 200)
    @given(st.data(), st.sampled_from(names))
    def check(data, dtype):
        scores = data.draw(trees(shapes, [DTYPES[dtype]] * len(shapes)))
        k = data.draw(st.sampled_from([0, 1, sum(sizes) // 3, sum(sizes) - 1, sum(sizes)]))
        ks = [data.draw(st.sampled_from([0, 1, n // 2, n - 1, n, n + 1])) for n in sizes]
        tally.happened(True, dtype)
        if search == "top":
            found, wanted = selection.top(scores, k), best(scores, k)
        else:
            found = selection.top_each(scores, ks)
            wanted = [best([x], k)[0] for x, k in zip(scores, ks, strict=True)]
        assert equal(found, wanted), (scores, found)
        tally.survive()

    check()


CONTESTS = [((4, 5, 6), (0, 2)), ((6, 4, 5), 1), ((6, 40), 1)]


@pytest.mark.parametrize(("shape", "axis"), chosen(CONTESTS[:1], CONTESTS))
def test_contests_along_an_axis_mark_what_a_stable_sort_would(shape, axis, attack, amount):
    names = list(DTYPES)[: amount(1, 5)]
    axes = (axis,) if isinstance(axis, int) else axis
    members = int(np.prod([shape[a] for a in axes]))
    tally = attack("R16", f"top_along of {shape} along {axis}", least=amount(20, 150))

    @examples(20, 150)
    @given(st.data(), st.sampled_from(names))
    def check(data, dtype):
        scores = data.draw(arrays(shape, DTYPES[dtype]))
        k = data.draw(st.sampled_from([0, 1, members // 2, members]))
        tally.happened(True, dtype)
        found = np.asarray(selection.top_along(scores, k, axis))
        wanted = np.zeros(shape, bool)
        others = [range(n) if a not in axes else [slice(None)] for a, n in enumerate(shape)]
        for index in itertools.product(*others):
            wanted[index] = best([np.asarray(scores)[index]], k)[0]
        assert np.array_equal(found, wanted)
        tally.survive()

    check()


def test_what_may_not_be_marked_is_not(attack, amount):
    shapes = MENUS["six"]
    tally = attack("R16", "top_each among some", least=amount(20, 200))

    @examples(20, 200)
    @given(st.data())
    def check(data):
        scores = data.draw(trees(shapes, [jnp.float32] * 6, special=INFINITE))
        seed = data.draw(st.integers(0, 10**6))
        rng = np.random.default_rng(seed)
        among = [rng.random(shape) < 0.6 for shape in shapes]
        ks = [int(rng.integers(0, allowed.sum() + 1)) for allowed in among]
        tally.happened(not all(allowed.all() for allowed in among), f"seed {seed}")
        found = selection.top_each(scores, ks, [jnp.asarray(allowed) for allowed in among])
        barred = [np.where(a, np.asarray(x), np.nan) for a, x in zip(among, scores, strict=True)]
        wanted = [best([x], k)[0] for x, k in zip(barred, ks, strict=True)]
        assert equal(found, wanted)
        tally.survive()

    check()


def test_survivors_are_whole_numbers(attack, amount):
    tally = attack("R15", "survivors of n units", least=amount(100, 2_000))
    sparsities = st.one_of(
        st.sampled_from([0.0, 0.5, 1.0, 0.9, 1 / 3]), st.floats(0, 1, width=32), st.floats(0, 1)
    )

    @examples(100, 2_000)
    @given(st.one_of(st.integers(0, 50), st.integers(0, 2**31 - 1)), sparsities)
    def check(n, sparsity):
        tally.happened(True, f"{n}")
        assert int(jp.allocation.survivors(n, sparsity)) == survivors(n, sparsity)
        tally.survive()

    check()


PATTERNS = {
    "unstructured": (jp.patterns.unstructured(), lambda w: w.reshape(1, -1)),
    "groups of 4": (jp.patterns.groups(4), lambda w: w.T.reshape(-1, 4)),
    "whole inputs": (jp.patterns.groups(), lambda w: w.T),
}


@pytest.mark.parametrize("name", chosen(["groups of 4"], PATTERNS))
def test_each_contest_of_a_pattern_keeps_its_best(name, attack, amount):
    pattern, rows_of = PATTERNS[name]
    names = list(DTYPES)[: amount(1, 5)]
    tally = attack("R16", f"the pattern {name}", least=amount(15, 100))

    @examples(15, 100)
    @given(st.data(), st.sampled_from(names), st.sampled_from([0.0, 0.25, 0.5, 0.75]))
    def check(data, dtype, sparsity):
        infinite = () if dtype == "float8_e4m3fn" else INFINITE  # it has no infinity, but NaN
        weights = data.draw(arrays((8, 12), DTYPES[dtype], special=infinite))
        tally.happened(True, dtype)
        method = jp.methods.magnitude(sparsity=sparsity, pattern=pattern)
        pruned, masks = jp.prune({"kernel": weights}, method)
        rows = rows_of(np.abs(np.asarray(weights).astype(np.float64)))
        kept = rows_of(np.asarray(masks["kernel"]))
        wanted = [best([row], survivors(row.size, sparsity))[0] for row in rows]
        assert np.array_equal(kept, np.stack(wanted))
        whole = np.asarray(weights)
        expected = np.where(np.asarray(masks["kernel"]), whole, np.zeros((), whole.dtype))
        assert np.asarray(pruned["kernel"]).tobytes() == expected.tobytes()
        tally.survive()

    check()


TREE = {
    "a": (4,),
    "b": (8, 5),
    "c": (8, 5),
    "d": (8, 5),
    "e": (3, 2),
    "f": (16, 2),
    "empty": (0, 3),
}
ALLOCATIONS = {
    "uniform": jp.allocation.uniform(at_least=0),
    "ERK": jp.allocation.erk(at_least=0),
    "global": jp.allocation.global_budget(),
}


@pytest.mark.parametrize("name", chosen(["global"], ALLOCATIONS))
def test_leaves_that_compete_side_by_side_have_exact_counts(name, attack, amount):
    tally = attack("R16", f"a tree of seven leaves, {name}", least=amount(8, 120))
    sizes = {path: int(np.prod(shape)) for path, shape in TREE.items()}

    @examples(8, 120)
    @given(st.data(), st.sampled_from(SHARES))
    def check(data, sparsity):
        drawn = data.draw(trees(TREE.values(), [jnp.float32] * len(TREE), special=(np.inf,) * 4))
        weights = dict(zip(TREE, drawn, strict=True))
        tally.happened(special(drawn), "ties or infinities")
        method = jp.methods.magnitude(sparsity=sparsity, allocation=ALLOCATIONS[name])
        _, masks = jp.prune(weights, method, prunable=lambda path, leaf: True)
        assert masks["empty"] is None
        counts = {path: int(mask.sum()) for path, mask in masks.items() if mask is not None}
        scores = {path: np.abs(np.asarray(weights[path])) for path in counts}
        if name == "uniform":
            assert counts == {path: survivors(sizes[path], sparsity) for path in counts}
        assert sum(counts.values()) == survivors(sum(sizes.values()), sparsity) or name == "uniform"
        if name == "global":
            wanted = best(list(scores.values()), sum(counts.values()))
        else:
            wanted = [best([scores[path]], counts[path])[0] for path in counts]
        assert equal([masks[path] for path in counts], wanted)
        tally.survive()

    check()


def test_schedules_land_where_they_should(attack, amount):
    tally = attack("R20", "schedules of three kinds", least=amount(40, 300))
    power_of = {"linear": 1, "cubic": 3}

    @examples(40, 300)
    @given(
        st.sampled_from(["linear", "cubic", "exponential"]),
        st.integers(0, 50),
        st.integers(0, 200),
        st.integers(1, 60),
        st.sampled_from(SHARES[1:]),
        st.sampled_from([0.0, 0.1]),
    )
    def check(kind, begin, length, every, sparsity, initial):
        end = begin + length
        make = getattr(jp.schedules, kind)
        schedule = make(sparsity=sparsity, begin=begin, end=end, every=every, initial=initial)
        tally.happened(True, kind)
        steps = range(end + 3)
        due = [bool(schedule.due(step)) for step in steps]
        grid = set(range(begin, end + 1, every)) | {end}
        assert due == [step in grid for step in steps]
        found = np.array([float(schedule.sparsity(step)) for step in steps], np.float64)
        assert abs(found[end] - sparsity) < 1e-7
        inside = [step for step in steps if begin <= step <= end]
        if kind in power_of and length:
            done = (np.array(inside) - begin) / length
            wanted = sparsity + (initial - sparsity) * (1 - done) ** power_of[kind]
            assert np.allclose(found[inside], wanted, atol=1e-6)
        rising = np.diff(found[inside])
        assert (rising >= -1e-6).all() if sparsity >= initial else (rising <= 1e-6).all()
        tally.survive()

    check()


KEY = jax.random.key(0)
METHODS = {
    "GMP": jp.methods.gmp(sparsity=0.8, begin=1, end=7, every=3),
    "GMP, 2:4": jp.methods.gmp(
        sparsity=0.5, begin=0, end=6, every=2, pattern=jp.patterns.groups(4)
    ),
    "GMP, global": jp.methods.global_magnitude(sparsity=0.9, begin=0, end=6, every=2),
    "SET": jp.methods.set_(sparsity=0.8, every=2, end=7),
    "RigL": jp.methods.rigl(sparsity=0.8, every=2, end=7),
}
SHAPES = {"a": (4, 4), "b": (8, 12), "c": (8, 12), "d": (8, 12), "e": (8, 12), "bias": (12,)}


def tied(rng, shape):
    numbers = rng.choice(np.array([-1.0, 1.0, 0.5, 0.0, 2.0, -2.0], np.float32), shape)
    return jnp.asarray(numbers)


@pytest.mark.parametrize("name", chosen(["GMP, 2:4"], METHODS))
def test_whole_trainings_keep_their_counts(name, attack, amount):
    """Ties everywhere, a weight that is infinite, and one update with infinite gradients."""
    runs = amount(1, 12)
    method = METHODS[name]
    tx = jp.sparsify(optax.sgd(0.1, momentum=0.9), method, key=KEY)
    update = jax.jit(tx.update)
    tally = attack("R20", f"trainings with {name}", least=runs)
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        params = {path: tied(rng, shape) for path, shape in SHAPES.items()}
        params["a"] = params["a"].at[1, 2].set(jnp.inf)
        state = tx.init(params)
        params = jp.masks.apply(params, jp.masks_of(state))
        first = [int(mask.sum()) for mask in jp.masks.leaves(jp.masks_of(state))]
        tally.happened(len(np.unique(np.asarray(params["b"]))) < 20, f"seed {seed}")
        for step in range(10):
            grads = {path: tied(rng, shape) for path, shape in SHAPES.items()}
            grads["a"] = grads["a"] * 0
            if step == 3:
                grads["b"] = grads["b"].at[0, 0].set(jnp.inf)
            held = jp.masks_of(state)
            updates, state = update(grads, state, params)
            changed = jp.masks_of(state)
            params = optax.apply_updates(params, updates)
            params["b"] = jnp.where(jnp.isfinite(params["b"]), params["b"], 3.0)
            jp.masks.check({p: jnp.nan_to_num(w) for p, w in params.items()}, changed)
            counts = [int(mask.sum()) for mask in jp.masks.leaves(changed)]
            if step == 3:
                assert jp.masks.hamming(held, changed) == 0, "an infinite gradient is no order"
            if name in ("SET", "RigL"):
                assert counts == first, "regrowth keeps the count of each leaf"
        sparsity = float(method.schedule.sparsity(method.end))
        sizes = [int(np.prod(SHAPES[path])) for path in "abcde"]
        if name in ("GMP", "GMP, 2:4"):
            assert counts == [survivors(size, sparsity) for size in sizes]
        else:
            assert sum(counts) == survivors(sum(sizes), sparsity)
        tally.survive()
