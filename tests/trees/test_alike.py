"""Trees that do not belong together are refused by the names of their leaves; nothing is broadcast."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.trees.alike import check_alike

W = {"w": jnp.ones((8, 4)), "b": jnp.ones(4)}
GRADS = {"w": jnp.ones((8, 4)), "b": jnp.ones(4)}
MAGNITUDE = jp.methods.magnitude(sparsity=0.5)


def test_up_to_five_leaves_are_named():
    many = {f"l{i}": jnp.ones(2) for i in range(8)}
    with pytest.raises(ValueError, match=r"missing 'l0', 'l1', 'l2', 'l3', 'l4' and 3 more"):
        check_alike("who", "numbers", many, {}, "give them")
    wrong = {name: jnp.ones(3) for name in many}
    with pytest.raises(ValueError, match=r"'l4' has numbers .*\(and 3 more leaves\)"):
        check_alike("who", "numbers", many, wrong, "give them")
    check_alike("who", "numbers", many, many, "give them")


@pytest.mark.parametrize("shape", [(1, 4), (8, 1), (4,), (), (4, 8), (1, 8, 4)])
def test_no_mask_is_broadcast(shape):
    mask = {"w": jnp.ones(shape, bool), "b": None}
    for use in (
        lambda: jp.masks.apply(W, mask),
        lambda: jp.masks.where(mask, W, W),
        lambda: jp.masks.check(W, mask),
        lambda: jp.fixed(optax.sgd(0.1), mask).init(W),
        lambda: jp.masks.apply(W, jp.masks.pack(mask)),
    ):
        with pytest.raises(ValueError, match="'w' has the shape"):
            use()
    whole = {"w": jnp.ones((8, 4), bool), "b": None}
    for compare in (jp.masks.hamming, jp.masks.jaccard):
        with pytest.raises(ValueError, match="'w' has the shape"):
            compare(whole, mask)


def test_masks_of_different_leaves_are_not_compared():
    a, b = {"a": jnp.ones(3, bool)}, {"b": jnp.ones(3, bool)}
    for compare in (jp.masks.hamming, jp.masks.jaccard):
        with pytest.raises(ValueError, match="missing 'a'; unexpected 'b'"):
            compare(a, b)
    assert jp.masks.hamming(jp.masks.pack(a), {"a": np.zeros(3, bool)}) == 1


def test_masks_must_be_bool():
    with pytest.raises(ValueError, match="'w' has the dtype float32, bool is needed"):
        jp.masks.apply(W, {"w": jnp.ones((8, 4)), "b": None})


def test_a_state_of_another_optimizer_is_refused_by_its_leaves():
    tx = jp.sparsify(optax.adam(0.1), MAGNITUDE)
    other = jp.sparsify(optax.sgd(0.1, momentum=0.9), MAGNITUDE).init(W)
    with pytest.raises(ValueError, match=r"another optimizer.*missing .*'0/mu/w'"):
        tx.update(GRADS, other, W)


def test_a_state_of_other_shapes_is_refused_though_they_have_no_mask():
    tx = jp.sparsify(optax.adam(0.1), MAGNITUDE)
    longer = {"w": W["w"], "b": jnp.ones(5)}
    with pytest.raises(ValueError, match=r"'0/mu/b' has the shape \(4,\)"):
        tx.update(longer, tx.init(W), longer)


def test_a_state_of_another_method_is_refused():
    movement = jp.methods.movement(sparsity=0.5, begin=0, end=9, every=1)
    tx = jp.sparsify(optax.sgd(0.1), movement)
    with pytest.raises(ValueError, match="does not remember the signal 'movement_sum'"):
        tx.update(GRADS, jp.sparsify(optax.sgd(0.1), MAGNITUDE).init(W), W)


def test_gradients_are_not_broadcast():
    tx = jp.sparsify(optax.sgd(0.1), MAGNITUDE)
    with pytest.raises(ValueError, match=r"'w' has gradients of the shape \(1, 4\)"):
        tx.update({**GRADS, "w": jnp.ones((1, 4))}, tx.init(W), W)


def test_signals_are_not_broadcast_where_there_is_one_number_for_each_weight():
    snip = jp.Method(jp.criteria.snip, schedule=MAGNITUDE.schedule)
    with pytest.raises(ValueError, match=r"'w' has entries of the signal 'grads' .*\(1, 4\)"):
        jp.prune(W, snip, grads={**GRADS, "w": jnp.ones((1, 4))})


def test_one_transform_within_another_has_no_masks_of_its_own():
    inner = jp.sparsify(optax.sgd(0.1), MAGNITUDE)
    with pytest.raises(ValueError, match=r"2 sparse states .*'w', one is needed"):
        jp.masks_of(jp.sparsify(inner, MAGNITUDE).init(W))


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"])
def test_narrow_floats_have_exact_counts(dtype):
    kernel = jnp.arange(-16.0, 16.0).reshape(8, 4).astype(dtype)
    for pattern in (jp.patterns.unstructured(), jp.patterns.groups(4), jp.patterns.channel()):
        method = jp.methods.magnitude(sparsity=0.5, pattern=pattern)
        pruned, masks = jp.prune({"kernel": kernel}, method)
        assert int(masks["kernel"].sum()) == 16
        assert pruned["kernel"].dtype == kernel.dtype
        jp.masks.check(pruned, masks)
    tx = jp.sparsify(optax.sgd(0.5), MAGNITUDE)
    state = tx.init({"kernel": kernel})
    updates, state = tx.update({"kernel": kernel}, state, {"kernel": kernel})
    trained = optax.apply_updates({"kernel": kernel}, updates)
    jp.masks.check(trained, jp.masks_of(state))
    assert int(jp.masks_of(state)["kernel"].sum()) == 16


def test_keys_and_other_leaves_are_passed_over():
    params = {"kernel": W["w"], "rng": jax.random.key(0), "n": 3, "on": jnp.array(True), "no": None}
    for method in (MAGNITUDE, jp.Method(jp.criteria.snip, schedule=MAGNITUDE.schedule)):
        grads = {**params, "kernel": GRADS["w"]}
        pruned, masks = jp.prune(
            params, method, **({} if method is MAGNITUDE else {"grads": grads})
        )
        assert int(masks["kernel"].sum()) == 16
        assert masks["rng"] is None
        assert pruned["rng"] is params["rng"]
        assert pruned["n"] == 3
    masks = jp.masks.make(params)
    assert jp.masks.apply(params, masks)["rng"] is params["rng"]


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_what_is_no_number_off_the_mask_is_zero_where_masks_are_applied_and_told_elsewhere(value):
    params = {"w": W["w"].at[0, 0].set(value)}
    masks = {"w": W["w"] > 0}
    masks["w"] = masks["w"].at[0, 0].set(False)
    tx = jp.fixed(optax.sgd(0.1), masks)
    updates, _ = tx.update({"w": GRADS["w"]}, tx.init(params), params)
    trained = optax.apply_updates(params, updates)
    with pytest.raises(ValueError, match=r"'w': 1 \(1 of them NaN or infinite"):
        jp.masks.check(trained, masks)
    jp.masks.check(jp.masks.apply(trained, masks), masks)


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_loss_that_is_no_number_is_no_sensitivity(loss):
    found = iter([1.0, loss])
    with pytest.raises(ValueError, match=r"the network without 0\.5 of 'w' is"):
        jp.sensitivity.sensitivity(lambda params: next(found), W, [0.5])


def test_empty_masks_are_packed_and_counted():
    for shape in ((0, 1), (3, 0), (0,)):
        masks = {"w": jnp.zeros(shape, bool)}
        assert jp.masks.unpack(jp.masks.pack(masks))["w"].shape == shape
    assert jp.masks.sparsity({"w": None}) == jp.masks.hamming({"w": None}, {"w": None}) == 0
