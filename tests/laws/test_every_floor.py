"""What holds of every allocation and method: no layer dies by rounding, and what it keeps is paid for."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.allocation.counts import raise_to_floors
from jaxprune.pruning.by_method import initial_masks
from jaxprune.types import Axes, Keep, Units

# Layers of 1, 5 and 40 weights, four stacked ones of 12, and large ones of large and small weights.
SHAPES = {
    "one": (1, 1),
    "five": (1, 5),
    "head": (40, 1),
    "large": (60, 50),
    "small": (50, 40),
    "stack": (4, 3, 4),
}
SCALES = {"large": 1.0, "small": 1e-3}
AXES = {name: Axes(in_axis=-2, out_axis=-1) for name in SHAPES} | {"stack": Axes(1, 2, 0)}
PARAMS = {
    name: SCALES.get(name, 0.1) * jax.random.normal(jax.random.key(i), shape)
    for i, (name, shape) in enumerate(SHAPES.items())
}
LAYERS = {name: (0,) if name == "stack" else () for name in SHAPES}
COSTS = {name: float(w.size) for name, w in PARAMS.items()}
SIZES = np.array([1, 5, 40, 3000, 2000, 12, 12, 12, 12])
SPARSITIES = (0.0, 0.5, 0.9, 0.99, 0.9999)

A = jp.allocation
# Each as a function of its floor, with the floor that it has by default.
FLOORED = {
    "uniform": (A.uniform, 1),
    "uniform_plus": (functools.partial(A.uniform_plus, first="five", last="head"), 1),
    "erk": (A.erk, 1),
    "by_path": (
        functools.partial(A.by_path, {"large": 0.9, "small": 0.99, "stack": 0.95, "head": 0.9}),
        1,
    ),
    "owl": (functools.partial(A.owl, outlier=2.0, spread=0.3), 1),
    "cost_budget": (functools.partial(A.cost_budget, COSTS), 1),
    "threshold": (functools.partial(A.threshold, 100.0), 1),
    "global": (A.global_budget, 0),
    "lamp": (functools.partial(A.global_budget, "lamp"), 0),
    "at_cost": (lambda **floor: A.at_cost(A.uniform(**floor), COSTS), 1),
}
NO_BUDGET = {"uniform", "threshold", "at_cost"}  # whose total is what comes out
DENSE = {"uniform_plus": [1], "by_path": [0, 1]}  # layers that are never pruned


UNITS = {
    name: Units(jnp.abs(w), layers=LAYERS[name], kernel=AXES[name]) for name, w in PARAMS.items()
}


def keeps(allocation, sparsity):
    found = allocation(PARAMS, UNITS, sparsity)
    return {name: k if isinstance(k, Keep) else Keep(k) for name, k in found.items()}


def in_order(found):
    return np.concatenate([np.ravel(found[name].count) for name in SHAPES])


@functools.cache
def counts(name, at_least):
    """By sparsity, how many each layer keeps; one compiled program for all."""
    allocation = FLOORED[name][0](at_least=at_least)
    traced = jax.jit(lambda s: keeps(allocation, s))
    return {s: in_order(traced(jnp.float32(s))) for s in SPARSITIES}


def test_every_allocation_is_here():
    plain = {"survivors", "knapsack", "global_budget", "removing"}  # it counts, and has no floor
    assert set(A.__all__) - plain <= set(FLOORED)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "lamp" else ()) for n in FLOORED]
)
def test_no_layer_falls_below_its_floor(name):
    make, default = FLOORED[name]
    assert make() == make(at_least=default) or name == "at_cost"
    for at_least in (0, 1):
        for found in counts(name, at_least).values():
            assert (found >= np.minimum(at_least, SIZES)).all()
            assert (found <= SIZES).all()
    eagerly = in_order(keeps(make(at_least=3), 0.9999))
    assert (eagerly >= np.minimum(3, SIZES)).all()


@pytest.mark.parametrize("name", FLOORED)
def test_without_a_floor_layers_are_emptied(name):
    assert (counts(name, 0)[0.9999] == 0).any()


@pytest.mark.parametrize("name", sorted(set(FLOORED) - NO_BUDGET))
def test_floors_do_not_change_the_total_unless_they_are_more(name):
    for at_least in (0, 1):
        for sparsity, found in counts(name, at_least).items():
            budget = int(A.survivors(int(SIZES.sum()), sparsity))
            least = np.minimum(at_least, SIZES)
            least[DENSE.get(name, [])] = SIZES[DENSE.get(name, [])]
            if name == "uniform_plus":  # its last layer loses 80 % at most
                least[2] = max(least[2], 40 - round(40 * min(sparsity, 0.8)))
            slack = name == "cost_budget"  # it rounds its budget down
            assert max(budget, least.sum()) - slack <= found.sum() <= max(budget, least.sum())


@pytest.mark.parametrize("name", sorted(set(FLOORED) - {"threshold"}))
def test_a_floor_changes_nothing_where_no_layer_is_below_it(name):
    for bare, found in zip(counts(name, 0).values(), counts(name, 1).values(), strict=True):
        assert found.tolist() == bare.tolist() or (bare < 1).any()


def test_the_layer_furthest_above_its_floor_pays():
    bare, found = counts("owl", 0)[0.99], counts("owl", 1)[0.99]
    assert (bare == 0).any()
    paid = bare - found
    assert paid[np.argmax(bare)] == -np.minimum(paid, 0).sum()


@pytest.mark.parametrize("seed", range(10))
def test_payment_unit_by_unit_by_hand(seed):
    draw = np.random.default_rng(seed)
    given, floors = draw.integers(0, 12, 7), draw.integers(0, 6, 7)
    expected, total = np.maximum(given, floors), max(given.sum(), floors.sum())
    while expected.sum() > total:
        expected[np.argmax(expected - floors)] -= 1
    found = raise_to_floors(jnp.asarray(given), jnp.asarray(floors))
    assert found.sum() == total
    assert sorted((found - floors).tolist()) == sorted((expected - floors).tolist())
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("normalize", [None, "lamp", "l2"])
@pytest.mark.parametrize(("at_least", "at_most"), [(2, 1.0), (0, 0.98), (3, 0.75)])
def test_a_global_budget_keeps_the_best_of_each_layer_and_no_less_than_it_says(
    normalize, at_least, at_most
):
    sparsity = 0.95
    bare = keeps(A.global_budget(normalize), sparsity)
    found = keeps(A.global_budget(normalize, at_least=at_least, at_most=at_most), sparsity)
    lower, kept = in_order(bare), in_order(found)
    least = np.maximum(np.minimum(at_least, SIZES), SIZES - np.floor(SIZES * at_most + 1e-9))
    assert (kept >= least).all()
    assert kept.sum() == max(A.survivors(int(SIZES.sum()), sparsity), least.sum())
    assert ((kept <= lower) | (kept == least)).all(), "others have no more than without a floor"
    for name, keep in found.items():
        own = np.abs(np.asarray(PARAMS[name])).reshape(*np.shape(keep.count), -1)
        chosen = np.asarray(keep.chosen).reshape(own.shape)
        assert (chosen.sum(-1) == keep.count).all()
        worst = np.where(chosen, own, np.inf).min(-1)
        assert (worst >= np.where(chosen, -np.inf, own).max(-1)).all()


def test_the_floor_of_a_ticket_is_of_remaining():
    alive = jnp.array([0, 1, 2, 3])
    given = {"stack": dataclasses.replace(UNITS["stack"], competing=alive)}
    for allocation in (A.uniform(at_least=2), A.erk(at_least=2), A.owl(at_least=2)):
        keep = allocation({"stack": PARAMS["stack"]}, given, 0.9999)["stack"]
        assert keep.tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("at_least", [0, 1])
def test_a_ticket_prunes_until_one_is_left_and_stops_there(at_least):
    method = jp.methods.magnitude(sparsity=0.5, allocation=A.uniform(at_least=at_least))
    masks = jp.masks.make(PARAMS, axes=AXES)
    for _ in range(14):
        masks = jp.next_masks(method, PARAMS, masks, 0, of_remaining=True, axes=AXES)
    assert all(int(layer["kept"]) == at_least for layer in rows(masks))


def rows(masks):
    return jp.masks.summary(masks, axes=AXES)


GRADUAL = {"sparsity": 0.999, "begin": 1, "end": 9, "every": 2}
MOVING = {"sparsity": 0.999, "every": 2, "end": 9}
METHODS = {
    "none": jp.methods.none(),
    "magnitude": jp.methods.magnitude(sparsity=0.999),
    "random": jp.methods.random(sparsity=0.999),
    "gmp": jp.methods.gmp(**GRADUAL),
    "gmp, erk": jp.methods.gmp(**GRADUAL, allocation=A.erk()),
    "gmp, channels": jp.methods.gmp(**GRADUAL, pattern=jp.patterns.channel()),
    "gmp, blocks": jp.methods.gmp(**GRADUAL, pattern=jp.patterns.block((1, 1))),
    "saliency": jp.methods.saliency(**GRADUAL),
    "iterative": jp.methods.iterative(rate=0.9, every=2, levels=4),
    "movement": jp.methods.movement(**GRADUAL),
    "weight_change": jp.methods.weight_change(**GRADUAL),
    "magnitude_increase": jp.methods.magnitude_increase(**GRADUAL),
    "std_threshold": jp.methods.std_threshold(quality=50.0),
    "cyclical": jp.methods.cyclical(sparsity=0.999, begin=1, end=9, every=2, cycles=2),
    "static": jp.methods.static(sparsity=0.999),
    "set_": jp.methods.set_(**MOVING),
    "rigl": jp.methods.rigl(**MOVING),
    "itop": jp.methods.itop(**MOVING),
    "snfs": jp.methods.snfs(**MOVING, fraction=0.9),
    "dsr": jp.methods.dsr(**MOVING, fraction=0.9),
    "mest": jp.methods.mest(**MOVING),
    "ste": jp.methods.ste(sparsity=0.999, end=9),
    "sr_ste": jp.methods.sr_ste(sparsity=0.5, end=9, m=2),
    "top_kast": jp.methods.top_kast(sparsity=0.999, backward_sparsity=0.9, end=9),
    "surgery": jp.methods.surgery(end=9, c=50.0),
}
# The budget of these is one of the whole tree: a layer may lose all, unless the allocation has a floor.
WHOLE_TREE = {"global_magnitude", "lamp", "ac_dc", "granet"}


def test_every_method_is_here():
    assert {name.split(",")[0] for name in METHODS} | WHOLE_TREE == set(jp.methods.__all__) - {
        "partition"
    }


ALIKE = {"static", "set_", "itop", "mest", "dsr", "iterative", "weight_change", "random", "sr_ste"}
MANY = [pytest.param(n, marks=pytest.mark.slow if n in ALIKE else ()) for n in METHODS]


@pytest.mark.parametrize("name", MANY)
def test_no_method_empties_a_layer(name):
    method, key = METHODS[name], jax.random.key(0)
    leaves = ("head", "small", "large" if name == "sr_ste" else "one")  # 1 is no multiple of 2
    params, axes = ({leaf: tree[leaf] for leaf in leaves} for tree in (PARAMS, AXES))
    masks = initial_masks(method, params, key=key, axes=axes)

    @jax.jit
    def change(masks, step):
        draw = jax.random.fold_in(key, step)
        noise = jax.tree.map(lambda w: jax.random.normal(draw, w.shape) * w, params)
        signals = dict.fromkeys(jp.method.memory_rules_of(method), noise)
        signals |= {"grads": noise, "key": draw}
        return jp.next_masks(method, params, masks, step, axes=axes, **signals)

    for step in (1, 5, 9):
        masks = change(masks, step)
        assert all(row["kept"] > 0 for row in jp.masks.summary(masks, axes=axes)), step


NARROW = {"narrow": jnp.arange(24.0).reshape(3, 8) + 1, "wide": jnp.arange(320.0).reshape(40, 8)}
PER_OUTPUT = {"sparsity": 0.9, "pattern": jp.patterns.groups()}


def kept(masks):
    return {row["leaf"]: row["kept"] for row in jp.masks.summary(masks)}


@pytest.mark.parametrize("allocation", [A.uniform(), A.by_path({"narrow": 0.9, "wide": 0.9})])
def test_each_leaf_whose_contests_would_keep_none_is_refused(allocation):
    method = jp.methods.magnitude(**PER_OUTPUT, allocation=allocation)
    with pytest.raises(
        ValueError, match=r"none of the 3 weights .* in 'narrow'; .* 0.666667 at most"
    ):
        jp.prune(NARROW, method)


@pytest.mark.parametrize(
    ("allocation", "expected"),
    [
        (A.uniform(at_least=0), {"narrow": 0, "wide": 32}),
        (A.uniform({"narrow": 0.0}), {"narrow": 24, "wide": 32}),
        (A.global_budget(at_least=1), {"narrow": 8, "wide": 24}),
        (A.erk(), {"narrow": 8, "wide": 24}),
    ],
)
def test_leaves_that_keep_some_or_may_be_emptied_are_not(allocation, expected):
    _, masks = jp.prune(NARROW, jp.methods.magnitude(**PER_OUTPUT, allocation=allocation))
    assert kept(masks) == expected


def ticket(rounds, sparsity=0.2, m=4, **options):
    method = jp.methods.magnitude(sparsity=sparsity, pattern=jp.patterns.groups(m), **options)
    return method, jp.lottery.Plan(round_steps=2, rounds=rounds)


WIDE = {"wide": NARROW["wide"]}


@pytest.mark.parametrize(("rounds", "m", "number"), [(3, 4, 2), (1, 2, 0)])
def test_tickets_whose_share_of_a_contest_rounds_to_nothing_are_refused(rounds, m, number):
    method, plan = ticket(rounds, m=m)
    words = (
        rf"round {number}: 0.2 of the 2 weights .* of 'wide' rounds to nothing.* removes nothing"
    )
    with pytest.raises(ValueError, match=words):
        jp.lottery_ticket(optax.sgd(0.1), method, plan).init(WIDE)
    with pytest.raises(ValueError, match="removes nothing"):
        jax.jit(jp.lottery_ticket(optax.sgd(0.1), method, plan).init)(WIDE)
    masks = jp.masks.make(WIDE)
    for _ in range(number):
        masks = jp.next_masks(method, WIDE, masks, 0, of_remaining=True)
    with pytest.raises(ValueError, match=r"round 0: 0.2 of the 2 weights .* removes nothing"):
        jp.next_masks(method, WIDE, masks, 0, of_remaining=True)


def test_tickets_that_would_keep_none_are_refused():
    method, plan = ticket(2, sparsity=0.75)
    with pytest.raises(ValueError, match=r"round 1: 0.75 of the 1 weights .* keeps none"):
        jp.lottery_ticket(optax.sgd(0.1), method, plan).init(WIDE)


@pytest.mark.parametrize(
    ("rounds", "options"), [(2, {}), (9, {"allocation": A.uniform({"wide": 0.0})})]
)
def test_tickets_that_remove_some_or_leave_a_leaf_dense_are_not(rounds, options):
    method, plan = ticket(rounds, **options)
    jp.lottery_ticket(optax.sgd(0.1), method, plan).init(WIDE)
