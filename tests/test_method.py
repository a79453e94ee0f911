import inspect

import haiku as hk
import jax
import jax.numpy as jnp
import pytest

import jaxprune as jp

PARAMS = {
    "a": {"kernel": jax.random.normal(jax.random.key(0), (32, 16)), "bias": jnp.zeros(16)},
    "b": {"kernel": jax.random.normal(jax.random.key(1), (16, 8)), "bias": jnp.zeros(8)},
}
GRADS = jax.tree.map(jnp.cos, PARAMS)


def test_prune_starts_from_given_masks():
    half, masks = jp.prune(PARAMS, jp.methods.magnitude(sparsity=0.5))
    quarter, fewer = jp.prune(half, jp.methods.magnitude(sparsity=0.75), masks=masks)
    assert float(jp.masks.sparsity(fewer)) == 0.75
    jp.masks.check(quarter, fewer)
    shrunk = jax.tree.map(lambda old, new: bool((old | ~new).all()), masks, fewer)
    assert jax.tree.all(shrunk)


def test_of_remaining_removes_a_share_of_what_is_left():
    method = jp.methods.magnitude(sparsity=0.2)
    masks = jp.masks.make(PARAMS)
    for kept_a, kept_b in ((410, 102), (328, 82), (262, 66)):
        masks = jp.next_masks(method, PARAMS, masks, 0, of_remaining=True)
        assert int(masks["a"]["kernel"].sum()) == kept_a
        assert int(masks["b"]["kernel"].sum()) == kept_b


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_counts_are_exact_in_every_float(dtype):
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)  # full of ties in 16 bits
    pruned, masks = jp.prune(params, jp.methods.magnitude(sparsity=0.7))
    assert int(masks["a"]["kernel"].sum()) == 512 - 358
    assert pruned["a"]["kernel"].dtype == dtype
    _, masks = jp.prune(
        params, jp.methods.magnitude(sparsity=0.7, allocation=jp.allocation.global_budget())
    )
    assert sum(int(m.sum()) for m in jax.tree.leaves(masks)) == 640 - 448


def test_prune_is_the_same_under_jit():
    method = jp.methods.magnitude(sparsity=0.9, allocation=jp.allocation.global_budget())
    eager = jp.prune(PARAMS, method)
    jitted = jax.jit(lambda p: jp.prune(p, method))(PARAMS)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, eager, jitted))


@pytest.mark.parametrize("name", ["snfs", "dsr", "rigl", "set_", "mest", "itop"])
def test_pruning_once_by_a_dynamic_method_keeps_the_budget(name):
    method = getattr(jp.methods, name)(sparsity=0.9, every=2, end=4)
    _, masks = jp.prune(PARAMS, method, key=jax.random.key(0), grads=GRADS, momentum=GRADS)
    assert float(jp.masks.sparsity(masks)) == pytest.approx(0.9, abs=1e-6)


@pytest.mark.parametrize(("m", "sparsity"), [(4, 0.9), (2, 0.75), (1, 0.5), (8, 0.95)])
def test_a_target_that_leaves_nothing_of_a_group_is_refused(m, sparsity):
    with pytest.raises(ValueError, match=f"leaves none of the {m} weights"):
        jp.prune(PARAMS, jp.methods.magnitude(sparsity=sparsity, pattern=jp.patterns.groups(m)))


def test_each_part_of_a_partition_has_a_budget_of_its_own():
    shared = jp.methods.magnitude(sparsity=0.5, allocation=jp.allocation.global_budget())
    big = {"a": 9 * jnp.arange(1.0, 9.0).reshape(2, 4), "b": jnp.arange(1.0, 9.0).reshape(2, 4)}
    _, masks = jp.prune(big, jp.partition({"a": shared, "b": shared}))
    assert [int(m.sum()) for m in jax.tree.leaves(masks)] == [4, 4]
    _, masks = jp.prune(big, jp.partition({".": shared}))
    assert [int(m.sum()) for m in jax.tree.leaves(masks)] == [8, 0]


def test_a_part_without_leaves_is_refused():
    gmp = jp.methods.magnitude(sparsity=0.5)
    for methods in ({".": gmp, "b": gmp}, {"bias": gmp}):
        with pytest.raises(ValueError, match="has nothing to prune"):
            jp.prune(PARAMS, jp.partition(methods))
    with pytest.raises(ValueError, match="twice"):
        jp.partition([("a", gmp), ("a", gmp)])
    with pytest.raises(TypeError, match=r"partition\(methods\['a'\]=.*: a method is needed"):
        jp.partition({"a": jp.partition({"b": gmp})})


def test_scores_that_do_not_fit_are_refused():
    schedule = jp.schedules.one_shot(sparsity=0.5)
    with pytest.raises(ValueError, match=r"only_a: the scores are .* but the parameters"):
        jp.prune(
            PARAMS, jp.Method(lambda_named("only_a", lambda p, **_: p["a"]), schedule=schedule)
        )
    sums = lambda p, **_: jax.tree.map(jnp.sum, p)
    with pytest.raises(ValueError, match=r"sums: 'a/bias' has scores of the shape \(\)"):
        jp.prune(PARAMS, jp.Method(lambda_named("sums", sums), schedule=schedule))


def lambda_named(name, f):
    f.__name__ = name
    return f


ONE_SHOT = jp.schedules.one_shot(sparsity=0.5)


@pytest.mark.parametrize("jit", [False, True])
def test_complex_scores_are_refused(jit):
    def phases(params, **_):
        return jax.tree.map(lambda w: jnp.exp(1j * w), params)

    params = {"z": jnp.ones((2, 2), jnp.complex64), "w": jnp.ones((2, 2))}
    prune = lambda params: jp.prune(params, jp.Method(phases, schedule=ONE_SHOT))
    with pytest.raises(
        ValueError, match=r"^phases: 'w' has scores of the dtype complex64; .*jnp.abs"
    ):
        (jax.jit(prune) if jit else prune)(params)


def test_integer_scores_that_float32_makes_equal_are_refused():
    def score_by(numbers):
        def hashes(params, **_):
            return {"w": numbers, "n": params["n"]}

        return jp.Method(hashes, schedule=ONE_SHOT)

    params = {"w": jnp.ones(4), "n": jnp.full(4, 2**30)}
    large = [
        2**24 + jnp.arange(4),
        -(2**24) - jnp.arange(4),
        jnp.uint32(2**31) + jnp.ones(4, "uint32"),
    ]
    for numbers in large:
        prune = lambda numbers=numbers: jp.prune(params, score_by(numbers), prunable="w")
        for run in (prune, jax.jit(prune)):  # known, though inside jit
            with pytest.raises(
                ValueError, match=r"^hashes: 'w' has integer scores up to .* 16777216"
            ):
                run()
    _, masks = jp.prune(params, score_by(2**24 - jnp.arange(4)), prunable="w")
    assert masks["w"].tolist() == [True, True, False, False]
    jax.jit(lambda p: jp.prune(p, score_by(p["n"]), prunable="w"))(params)


def test_missing_signals_are_named():
    with pytest.raises(TypeError, match="'key'"):
        jp.prune(PARAMS, jp.methods.random(sparsity=0.5))
    with pytest.raises(TypeError, match="'grads'"):
        jp.prune(
            PARAMS, jp.Method(jp.criteria.gradient, schedule=jp.schedules.one_shot(sparsity=0.5))
        )


def test_nan_is_no_order_and_infinity_is_one():
    params = {"v": jnp.ones((1, 4)), "w": jnp.array([[1.0, jnp.nan, 0.5, jnp.nan]])}
    method = jp.methods.magnitude(sparsity=0.25)
    with pytest.raises(ValueError, match=r"magnitude: 2 of the 4 units of 'w'.*NaN.*prunable="):
        jp.prune(params, method)
    params["w"] = jnp.array([[-jnp.inf, jnp.inf, 0.5, 0.2]])
    assert jp.prune(params, method)[1]["w"].tolist() == [[True, True, True, False]]
    lowest = jp.Method(lambda params, **_: params, schedule=method.schedule)
    assert jp.prune(params, lowest)[1]["w"].tolist() == [[False, True, True, True]]


def test_dead_weights_need_no_score():
    params = {"w": jnp.array([[1.0, jnp.nan, 0.5, 0.2]])}
    masks = {"w": jnp.array([[True, False, True, True]])}
    method = jp.methods.magnitude(sparsity=0.5)
    assert jp.prune(params, method, masks=masks)[1]["w"].tolist() == [[True, False, True, False]]


def test_inside_jit_nan_leaves_the_masks_as_they_were():
    params = {"w": jnp.array([[1.0, jnp.nan, 0.5, 0.2]])}
    masks = {"w": jnp.array([[True, True, True, False]])}
    method = jp.methods.magnitude(sparsity=0.75)
    after = jax.jit(lambda p, m: jp.next_masks(method, p, m, 0))(params, masks)
    assert after["w"].tolist() == masks["w"].tolist()


def test_what_remains_is_what_masks_leave():
    params = {"w": jnp.arange(1.0, 11.0).reshape(2, 5)}
    method, masks, kept = jp.methods.magnitude(sparsity=0.5), None, []
    for _ in range(3):
        params, masks = jp.prune(params, method, masks=masks, of_remaining=True)
        kept.append(int(masks["w"].sum()))
    assert kept == [5, 2, 1]  # halves are removed half up


def test_random_criterion_is_a_stream_per_leaf_and_key():
    twins = {"a": jnp.ones((8, 8)), "b": jnp.ones((8, 8))}
    first = jp.criteria.random(twins, key=jax.random.key(0))
    assert not jnp.array_equal(first["a"], first["b"])
    again = jp.criteria.random(twins, key=jax.random.key(0))
    assert jnp.array_equal(first["a"], again["a"])
    other = jp.criteria.random(twins, key=jax.random.key(1))
    assert not jnp.array_equal(first["a"], other["a"])


def test_criteria_by_hand():
    params, grads = {"w": jnp.array([-2.0, 1.0])}, {"w": jnp.array([0.5, -4.0])}
    assert jp.criteria.magnitude(params)["w"].tolist() == [2.0, 1.0]
    assert jp.criteria.gradient(params, grads=grads)["w"].tolist() == [0.5, 4.0]
    assert jp.criteria.taylor(params, grads=grads)["w"].tolist() == [1.0, 4.0]


def _is_signal(parameter):
    return parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty


@pytest.mark.parametrize("name", jp.criteria.__all__)
def test_every_criterion_scores_every_weight(name):
    criterion = getattr(jp.criteria, name)
    remembered = {k: m.init(PARAMS) for k, m in jp.signals.needed([criterion]).items()}
    inverse = jax.tree.map(lambda p: jnp.eye(p.size)[None], PARAMS)
    read = [p.name for p in inspect.signature(criterion).parameters.values() if _is_signal(p)]
    grams = jax.tree.map(lambda p: jnp.eye(len(p)), PARAMS)  # the first axes are inputs
    data = dict.fromkeys(read, GRADS) | {"key": jax.random.key(0), "inverse_fisher": inverse}
    data |= {"grams": grams}
    scores = criterion(PARAMS, **data | remembered)
    assert jax.tree.structure(scores) == jax.tree.structure(PARAMS)
    shapes = jax.tree.map(lambda s, p: s.shape == p.shape, scores, PARAMS)
    assert jax.tree.all(shapes)


def test_pruning_in_a_mapping_that_cannot_hold_none():
    inside = {"mlp/linear": {"w": jnp.arange(12.0).reshape(3, 4), "b": jnp.ones(4)}}
    params = hk.data_structures.to_immutable_dict(inside)
    pruned, masks = jp.prune(params, jp.methods.magnitude(sparsity=0.5))
    assert jax.tree.structure(pruned) == jax.tree.structure(params)
    assert jp.masks.paths(masks) == ["mlp/linear/w"]
    jp.masks.check(pruned, masks)
    pruned, masks = jp.prune(pruned, jp.methods.magnitude(sparsity=0.75), masks=masks)
    assert jp.masks.summary(masks)[0]["kept"] == 3
