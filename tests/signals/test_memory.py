import functools

import jax
import jax.numpy as jnp
import pytest

import jaxprune as jp

PARAMS = {"w": jnp.array([2.0, -1.0]), "n": jnp.arange(2)}
GRADS = {"w": jnp.array([0.5, 1.0]), "n": jnp.zeros(2)}


def carried(memory, steps):
    value = memory.init(PARAMS)
    for _ in range(steps):
        value = memory.update(value, PARAMS, GRADS)
    return value


def test_total_adds_up():
    assert carried(jp.signals.running_sum(lambda w, g: -w * g), 3)["w"].tolist() == [-3.0, 3.0]


def test_moving_average_forgets():
    found = carried(jp.signals.moving_average(lambda w, g: g, decay=0.5), 2)["w"]
    assert found.tolist() == [0.375, 0.75]
    with pytest.raises(ValueError, match="decay=1"):
        jp.signals.moving_average(lambda w, g: g, decay=1.0)


def test_start_is_a_copy_of_what_was():
    found = carried(jp.signals.initial_params(), 2)["w"]
    assert found.tolist() == [2.0, -1.0]
    assert found is not PARAMS["w"], "training donates its parameters"


def test_sums_are_wide_and_other_leaves_stay():
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), {"w": PARAMS["w"]})
    assert jp.signals.running_sum(lambda w, g: g).init(half)["w"].dtype == jnp.float32
    assert carried(jp.signals.running_sum(lambda w, g: g), 2)["n"].tolist() == [0.0, 0.0]


def test_needs_are_found_through_bound_arguments():
    bound = functools.partial(jp.criteria.movement)
    assert list(jp.signals.needed([bound, None, jp.criteria.magnitude])) == ["movement_sum"]


def test_one_keyword_means_one_memory():
    @jp.signals.needs(movement_sum=jp.signals.running_sum(lambda w, g: g))
    def other(params, *, movement_sum, **_):
        return movement_sum

    with pytest.raises(ValueError, match="other: needs a signal 'movement_sum'"):
        jp.signals.needed([jp.criteria.movement, other])


def test_declarations_are_joined_and_alter_no_criterion():
    squares = jp.signals.moving_average(lambda w, g: g * g)
    sums = jp.signals.running_sum(lambda w, g: g)

    @jp.signals.needs(squares=squares)
    @jp.signals.needs(sums=sums)
    def both(params, *, sums, squares, **_):
        """Says what it does."""
        return sums

    assert jp.signals.needed([both]) == {"sums": sums, "squares": squares}
    assert (both.__name__, both.__doc__) == ("both", "Says what it does.")
    assert list(jp.signals.needed([jp.signals.needs(sums=sums)(both)])) == ["sums", "squares"]
    with pytest.raises(ValueError, match=r"^needs\(sums=\): both declares another memory"):
        jp.signals.needs(sums=squares)(both)
    magnitude = jp.signals.needs(sums=sums)(jp.criteria.magnitude)
    assert list(jp.signals.needed([magnitude])) == ["sums"]
    assert not jp.signals.needed([jp.criteria.magnitude])
    one_shot = jp.schedules.one_shot(sparsity=0.5)
    assert "Method(magnitude, " in repr(jp.Method(magnitude, schedule=one_shot))
    signed = functools.partial(jp.criteria.taylor, signed=True)
    declaring = jp.signals.needs(sums=sums)(signed)
    assert list(jp.signals.needed([declaring])) == ["sums"]
    assert "partial(taylor, signed=True)" in repr(jp.Method(declaring, schedule=one_shot))
    scored = declaring(PARAMS, grads=GRADS, sums=None)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, scored, signed(PARAMS, grads=GRADS)))


def test_where_weights_began_is_the_same_memory_for_all():
    criteria = [jp.criteria.weight_change, jp.criteria.large_init]
    own = jp.signals.needs(initial_params=jp.signals.initial_params())(jp.criteria.magnitude)
    assert list(jp.signals.needed([*criteria, own])) == ["initial_params"]


def test_a_criterion_of_ones_own_with_a_memory_works_everywhere():
    import optax

    @jp.signals.needs(energy=jp.signals.moving_average(lambda w, g: (w * g) ** 2))
    def fisher(params, *, energy, **_):
        return energy

    params = {"w": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    grads = {"w": jnp.array([[4.0, 1.0, 1.0, 0.1]])}  # w g: 4, 2, 3, 0.4
    tx = jp.sparsify(
        optax.sgd(0.0), jp.Method(fisher, schedule=jp.schedules.one_shot(sparsity=0.5, at=1))
    )
    state = tx.init(params)
    for _ in range(2):
        _, state = tx.update(grads, state, params)
    assert jp.masks_of(state)["w"].tolist() == [[True, False, True, False]]
    _, masks = jp.prune(
        params, jp.Method(fisher, schedule=jp.schedules.one_shot(sparsity=0.5)), energy=grads
    )
    assert masks["w"].tolist() == [[True, True, False, False]]
    with pytest.raises(TypeError, match="'energy'"):
        jp.prune(params, jp.Method(fisher, schedule=jp.schedules.one_shot(sparsity=0.5)))
