import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp

s = jp.schedules
SCHEDULES = {
    "one_shot": s.one_shot(sparsity=0.8, at=7),
    "cubic": s.cubic(sparsity=0.8, begin=3, end=50, every=10),
    "cubic, grid misses its end": s.cubic(sparsity=0.8, begin=0, end=47, every=9),
    "linear": s.linear(sparsity=0.8, begin=5, end=30, every=4, initial=0.1),
    "exponential": s.exponential(sparsity=0.8, begin=5, end=30, every=4),
    "every": s.every(10, sparsity=0.8, end=55),
    "begin is end": s.cubic(sparsity=0.8, begin=9, end=9),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_lands_on_its_target_at_its_end(name):
    schedule = SCHEDULES[name]
    assert bool(schedule.due(schedule.end))
    assert np.float32(schedule.sparsity(schedule.end)) == np.float32(0.8)
    assert not any(bool(schedule.due(schedule.end + i)) for i in range(1, 30))


@pytest.mark.parametrize("name", SCHEDULES)
def test_sparsity_never_falls_and_is_the_same_under_jit(name):
    schedule = SCHEDULES[name]
    steps = range(schedule.end + 3)
    values = [float(schedule.sparsity(t)) for t in steps]
    assert all(a <= b + 1e-6 for a, b in itertools.pairwise(values))
    due = jax.jit(lambda t: schedule.due(t) | False)
    at = jax.jit(lambda t: schedule.sparsity(t) + 0.0)
    for t in steps[:: max(1, len(steps) // 7)]:
        assert bool(due(t)) == bool(schedule.due(t))
        assert float(at(t)) == pytest.approx(values[t], abs=1e-6)


def test_the_grid_starts_at_begin():
    due = [t for t in range(60) if SCHEDULES["cubic"].due(t)]
    assert due == [3, 13, 23, 33, 43, 50]


def test_cubic_is_zhu_and_gupta():
    schedule = s.cubic(sparsity=0.9, begin=10, end=20, initial=0.1)
    assert float(schedule.sparsity(15)) == pytest.approx(0.9 - 0.8 * 0.5**3)
    assert float(schedule.sparsity(12)) == pytest.approx(0.9 - 0.8 * 0.8**3)
    assert float(schedule.sparsity(10)) == pytest.approx(0.1)


def test_levels_remove_a_share_of_what_is_left():
    schedule = s.levels(rate=0.2, every=100, levels=4)
    assert schedule.end == 300
    found = [float(schedule.sparsity(t)) for t in (0, 150, 300, 999)]
    assert found == pytest.approx([0.2, 0.36, 1 - 0.8**4, 1 - 0.8**4])


@pytest.mark.parametrize(
    "make",
    [
        lambda: s.one_shot(sparsity=1.0),
        lambda: s.one_shot(sparsity=-0.1),
        lambda: s.one_shot(sparsity=float("nan")),
        lambda: s.cubic(sparsity=0.9, begin=10, end=5),
        lambda: s.cubic(sparsity=0.9, begin=-1, end=5),
        lambda: s.cubic(sparsity=0.9, begin=0, end=5, every=0),
        lambda: s.cubic(sparsity=0.9, begin=0, end=5, initial=1.2),
        lambda: s.every(100, sparsity=0.9, end=50),
        lambda: s.levels(rate=0.2, every=10, levels=0),
        lambda: s.polynomial(sparsity=0.9, begin=0, end=5, power=0),
    ],
)
def test_impossible_schedules_are_refused_with_their_numbers(make):
    with pytest.raises(ValueError, match=r"sparsity=|begin=|every=|initial=|levels=|power="):
        make()


def test_what_rounds_to_all_weights_is_refused():
    assert float(s.levels(rate=0.2, every=1, levels=75).sparsity(99)) < 1
    with pytest.raises(ValueError, match="ask for 75 at most"):
        s.levels(rate=0.2, every=1, levels=80)
    with pytest.raises(ValueError, match=r"removes all, as fractions are read to seven decimals"):
        s.one_shot(sparsity=0.99999999)
    assert s.one_shot(sparsity=0.9999999).sparsity(0) == 0.9999999


def test_alternate_ends_sparse():
    schedule = jp.schedules.alternate(sparsity=0.9, every=10, begin=20, end=65)
    due = [t for t in range(100) if schedule.due(t)]
    assert due == [20, 30, 40, 50, 60, 65]
    found = [round(float(schedule.sparsity(t)), 6) for t in (20, 30, 40, 50, 60, 65, 80)]
    assert found == [0.9, 0.0, 0.9, 0.0, 0.9, 0.9, 0.9]


@pytest.mark.parametrize("every", [3, 5, 7])
def test_cyclical_reaches_its_target_in_every_cycle(every):
    schedule = jp.schedules.cyclical(sparsity=0.8, begin=10, end=130, every=every, cycles=3)
    found = [round(float(schedule.sparsity(t)), 5) for t in range(10, 131) if schedule.due(t)]
    assert found[-1] == 0.8
    assert found.count(0.0) == 3
    assert found.count(0.8) >= 3
    with pytest.raises(ValueError, match="fewer cycles"):
        jp.schedules.cyclical(sparsity=0.8, begin=0, end=10, every=5, cycles=2)


def test_before_their_begin_alternate_is_dense_and_cyclical_at_its_initial_sparsity():
    alternate = s.alternate(sparsity=0.9, every=10, begin=20, end=60)
    cyclical = s.cyclical(sparsity=0.8, begin=20, end=60, every=5, cycles=2, initial=0.25)
    for step in (0, 5, 10, 19):
        assert float(alternate.sparsity(step)) == 0
        assert float(cyclical.sparsity(step)) == pytest.approx(0.25)


def test_a_constant_schedule_has_a_target_from_its_begin_and_no_last_change():
    schedule = s.constant(sparsity=0.5, begin=3, every=4)
    assert [t for t in range(20) if schedule.due(t)] == [3, 7, 11, 15, 19]
    assert schedule.due(3 + 4 * 10**8)
    assert jax.jit(lambda t: schedule.due(t))(7)
    assert schedule.end == 3
    assert schedule.sparsity(0) == schedule.sparsity(10**9) == 0.5
    with pytest.raises(ValueError, match="begin=-1"):
        s.constant(sparsity=0.5, begin=-1)


def test_training_on_a_constant_schedule_goes_on_choosing():
    method = jp.Method(
        jp.criteria.magnitude,
        schedule=s.constant(sparsity=0.5, begin=2, every=3),
        update=jp.updates.reselect(),
    )
    params = {"w": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    _, first = jp.prune(params, method)
    assert first["w"].tolist() == [[False, False, True, True]]
    tx = jp.straight_through(optax.sgd(1.0), method)
    state, seen = tx.init(params), []
    for _ in range(6):
        updates, state = tx.update({"w": jnp.array([[-0.5, 0, 0, 0]])}, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(int(jp.masks_of(state)["w"][0, 0]))
    assert seen == [1, 0, 0, 0, 1, 1]
