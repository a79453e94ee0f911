"""A change of masks needs numbers: what is held, when it is made, and who is told."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.transforms.changes import all_finite

PARAMS = {
    "a": {"kernel": jax.random.normal(jax.random.key(0), (8, 8))},
    "b": {"kernel": jax.random.normal(jax.random.key(1), (8, 4)), "bias": jnp.zeros(4)},
}
EVERY, END = 3, 6
GRADUAL = {"sparsity": 0.5, "begin": 0, "end": END, "every": EVERY}
KEY = jax.random.key(3)


@jp.signals.needs(energy=jp.signals.moving_average(lambda w, g: (w * g) ** 2))
def fisher(params, *, energy, **_):
    return energy


def sparse(method):
    return lambda inner: jp.sparsify(inner, method, key=KEY)


DYNAMIC = {"sparsity": 0.5, "every": EVERY, "end": END}
TRANSFORMS = {
    "gmp": sparse(jp.methods.gmp(**GRADUAL)),
    "movement": sparse(jp.methods.movement(**GRADUAL)),
    "saliency": sparse(jp.methods.saliency(**GRADUAL)),
    "own memory": sparse(jp.Method(fisher, schedule=jp.schedules.cubic(**GRADUAL))),
    "rigl": sparse(jp.methods.rigl(**DYNAMIC)),
    "set": sparse(jp.methods.set_(**DYNAMIC)),
    "snfs": sparse(jp.methods.snfs(**DYNAMIC)),
    "dsr": sparse(jp.methods.dsr(**DYNAMIC)),
    "granet": sparse(jp.methods.granet(initial=0.2, **GRADUAL)),
    "2:4": sparse(jp.methods.gmp(**GRADUAL, pattern=jp.patterns.groups(4))),
    "global": sparse(jp.methods.gmp(**GRADUAL, allocation=jp.allocation.global_budget("lamp"))),
    "by path": sparse(
        jp.methods.gmp(**GRADUAL, allocation=jp.allocation.by_path({"a": 0.9, "b": 0.5}))
    ),
    "by cost": sparse(
        jp.methods.gmp(
            **GRADUAL, allocation=jp.allocation.cost_budget({"a/kernel": 3.0, "b/kernel": 1.0})
        )
    ),
    "packed": lambda inner: jp.sparsify(inner, jp.methods.gmp(**GRADUAL), packed=True),
    "parts": sparse(
        jp.partition({"a": jp.methods.gmp(**GRADUAL), "b": jp.methods.movement(**GRADUAL)})
    ),
    "ste": lambda inner: jp.straight_through(inner, jp.methods.ste(sparsity=0.5, end=END)),
    "top-kast": lambda inner: jp.straight_through(
        inner, jp.methods.top_kast(sparsity=0.5, backward_sparsity=0.2, end=END)
    ),
}


def grads_at(step: int) -> dict:
    keys = iter(jax.random.split(jax.random.key(100 + step), 3))
    return jax.tree.map(lambda p: jax.random.normal(next(keys), p.shape), PARAMS)


def spoilt(grads: dict, value: float) -> dict:
    """One number of one leaf without a mask is not finite."""
    return {**grads, "b": {**grads["b"], "bias": grads["b"]["bias"].at[0].set(value)}}


@functools.cache
def compiled(name: str):
    """A transform that records its masks, its first state and its update."""
    tx = jp.recorded(TRANSFORMS[name](optax.apply_if_finite(optax.sgd(0.1), 99)))
    return tx.init(PARAMS), jax.jit(tx.update)


def run(name: str, spoil: dict[int, float], steps: int = END + 4):
    """States after each update."""
    state, update = compiled(name)
    params = PARAMS
    history = [state]
    for step in range(steps):
        grads = grads_at(step)
        if step in spoil:
            grads = spoilt(grads, spoil[step])
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        history.append(state)
    return history


def same(a, b) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


QUICK = {"gmp", "rigl", "packed", "parts", "ste", "snfs"}


def slow_but(*quick):
    """All transforms, of which those not named are slow tests."""
    return [pytest.param(n, marks=() if n in quick else pytest.mark.slow) for n in TRANSFORMS]


@pytest.mark.parametrize("name", slow_but(*QUICK))
@pytest.mark.parametrize("value", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow)])
def test_a_change_without_finite_gradients_is_held_and_made_later(name, value):
    last = END - (name in ("ste", "top-kast"))  # they choose the masks of the next forward pass
    history = run(name, {last: value})
    before, held, after = (state.inner for state in history[last : last + 3])
    assert same(jp.masks_of(held), jp.masks_of(before))
    assert same(held.memory, before.memory)
    assert any(map(bool, held.overdue.pending))
    assert int(held.overdue.held) >= 1
    assert not any(map(bool, after.overdue.pending)), "it is made after the schedule's end too"
    kept = [int(m.sum()) for m in jax.tree.leaves(jp.masks_of(after))]
    clean = run(name, {})[last + 1].inner
    wanted = [int(m.sum()) for m in jax.tree.leaves(jp.masks_of(clean))]
    assert sum(kept) == sum(wanted), "it lands on the target"


@pytest.mark.parametrize("name", ["movement", "snfs", "parts"])
def test_an_update_that_is_not_finite_leaves_memories_as_they_were(name):
    before, after = (state.inner for state in run(name, {1: np.nan})[1:3])
    assert jax.tree.leaves(before.memory)
    assert same(after.memory, before.memory)
    assert same(jp.masks_of(after), jp.masks_of(before))
    assert not any(map(bool, after.overdue.pending)), "no change was due"


def test_the_record_tells_what_waits_and_counts_what_was_held():
    history = run("rigl", {EVERY: np.nan, EVERY + 1: np.nan})
    told = [(bool(jp.record_of(s).pending), int(jp.record_of(s).held)) for s in history]
    assert told[EVERY : EVERY + 4] == [(False, 0), (True, 1), (True, 2), (False, 2)]


def test_scores_without_a_number_hold_a_change_though_gradients_are_finite():
    score = lambda params, *, gauge, **_: jax.tree.map(lambda p: jnp.abs(p) * gauge, params)
    tx = jp.sparsify(optax.sgd(0.1), jp.Method(score, schedule=jp.schedules.one_shot(sparsity=0.5)))
    state = tx.init(PARAMS)
    for update in (jax.jit(tx.update), tx.update):
        _, held = update(grads_at(0), state, PARAMS, gauge=jnp.float32(np.nan))
        assert same(jp.masks_of(held), jp.masks_of(state))
        assert bool(held.overdue.pending[0])
        _, after = update(grads_at(1), held, PARAMS, gauge=jnp.float32(1))
        assert float(jp.masks.sparsity(jp.masks_of(after))) == 0.5


def test_of_a_partition_only_the_part_without_numbers_waits():
    score = lambda params, *, gauge, **_: jax.tree.map(lambda p: jnp.abs(p) * gauge, params)
    once = jp.schedules.one_shot(sparsity=0.5)
    parts = jp.partition(
        {"a": jp.Method(score, schedule=once), "b": jp.methods.magnitude(sparsity=0.5)}
    )
    tx = jp.sparsify(optax.sgd(0.1), parts)
    update = jax.jit(tx.update)
    _, state = update(grads_at(0), tx.init(PARAMS), PARAMS, gauge=jnp.float32(np.nan))
    kept = {row["leaf"]: row["kept"] for row in jp.masks.summary(jp.masks_of(state))}
    assert kept == {"a/kernel": 64, "b/kernel": 16}
    assert [bool(flag) for flag in state.overdue.pending] == [True, False]


@pytest.mark.parametrize("rewind", ["weights", "learning_rate", "finetune"])
def test_a_round_of_a_ticket_waits(rewind):
    plan = jp.lottery.Plan(round_steps=2, rounds=2, rewind=rewind)
    tx = jp.lottery_ticket(optax.adam(0.1), jp.methods.magnitude(sparsity=0.5), plan)
    ends = []
    for spoil in ((), (2,), (2, 3)):
        params, state = PARAMS, tx.init(PARAMS)
        for call in range(plan.total_updates + len(spoil)):
            good = grads_at(0) if rewind == "finetune" else grads_at(int(state.step))
            grads = spoilt(good, np.nan) if call in spoil else good
            before = state
            updates, state = jax.jit(tx.update)(grads, state, params)
            params = optax.apply_updates(params, updates)
            if call in spoil:
                assert same(before.masks, state.masks)
                assert int(state.step) == int(before.step)
                assert bool(state.overdue.pending[0])
        assert int(state.overdue.held) == len(spoil)
        ends.append((params, state.masks))
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])


@pytest.mark.parametrize("name", slow_but("gmp", "rigl"))
def test_whoever_debugs_nans_is_not_stopped(name):
    with jax.debug_nans(True):
        tx = TRANSFORMS[name](optax.sgd(0.1))
        for update in (tx.update, jax.jit(tx.update)):
            params, state = PARAMS, tx.init(PARAMS)
            for step in range(END + 1):
                updates, state = update(grads_at(step), state, params)
                params = optax.apply_updates(params, updates)
        masks = jp.masks_of(state)
        sparser = jp.methods.magnitude(sparsity=0.75)
        jp.prune(jp.masks.apply(params, masks), sparser, masks=masks)


@pytest.mark.parametrize("name", ["gmp", "rigl", "snfs", "by path", "ste"])
def test_eager_updates_compile_nothing_twice(name):
    events = []
    listen = lambda event, *_, **__: events.append(event)
    tx = TRANSFORMS[name](optax.adam(0.1))

    def train(params, state):
        for step in range(END + 2):
            updates, state = tx.update(grads_at(step), state, params)
            params = optax.apply_updates(params, updates)

    train(PARAMS, tx.init(PARAMS))
    state = tx.init(PARAMS)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        train(PARAMS, state)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert not [event for event in events if event.endswith("backend_compile_duration")]


@pytest.mark.parametrize("name", slow_but("gmp", "parts", "ste"))
def test_eager_updates_are_those_of_jit(name):
    tx = TRANSFORMS[name](optax.sgd(0.1))
    found = []
    for update in (tx.update, jax.jit(tx.update)):
        params, state = PARAMS, tx.init(PARAMS)
        for step in range(END + 2):
            updates, state = update(grads_at(step), state, params)
            params = optax.apply_updates(params, updates)
        found.append(jp.masks_of(state))
    assert same(*found)


def test_gradients_that_multisteps_skips_are_not_gathered():
    outlier = optax.MultiSteps(
        optax.sgd(0.1),
        2,
        should_skip_update_fn=lambda grads, step, params: (
            optax.tree.norm(grads) > 50.0,
            (),
        ),
    )
    params = {"w": jax.random.normal(KEY, (8, 8))}
    rigl = jp.methods.rigl(sparsity=0.5, every=1, end=99)
    tx = jp.sparsify(outlier, rigl, key=KEY)
    state = tx.init(params)
    ones = jax.tree.map(jnp.ones_like, params)
    huge = jax.tree.map(lambda g: g * 1e6, ones)
    for grads in (ones, huge):
        _, state = tx.update(grads, state, params)
    assert int(state.gathering.count) == 1
    assert float(state.gathering.mean["w"].max()) == 1.0
    assert int(state.inner.mini_step) == 1


def test_a_change_waits_where_multisteps_skips_what_it_sees_of_the_gradients():
    """What is skipped is decided on the masked gradients, which the optimizer is given."""
    small = lambda grads, step, params: (optax.tree.norm(grads) > 6.0, ())
    inner = optax.MultiSteps(optax.sgd(0.0), 1, should_skip_update_fn=small)
    params = {"w": jnp.arange(1.0, 65.0).reshape(8, 8)}
    masks = {"w": jnp.arange(64).reshape(8, 8) >= 32}
    tx = jp.sparsify(inner, jp.methods.magnitude(sparsity=0.75), masks=masks)
    _, state = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    assert int(jp.masks_of(state)["w"].sum()) == 16


def test_rigl_around_sam_changes_masks_where_the_weights_belong():
    sam = optax.contrib.sam(optax.sgd(0.01), optax.sgd(0.05), sync_period=2)
    tx = jp.sparsify(sam, jp.methods.rigl(sparsity=0.5, every=3, end=99), key=KEY)
    params = {"w": jax.random.normal(KEY, (8, 8))}
    loss = lambda p: jnp.sum((p["w"] - 0.3) ** 2)
    state = tx.init(params)
    params = jp.masks.apply(params, jp.masks_of(state))
    update, at_home = jax.jit(tx.update), []
    for _ in range(24):
        if int(state.inner.steps_since_sync) == 0:
            at_home.append(float(loss(jp.masks.apply(params, jp.masks_of(state)))))
        before = state
        updates, state = update(jax.grad(loss)(params), state, params)
        if not same(jp.masks_of(before), jp.masks_of(state)):
            assert int(before.inner.steps_since_sync) == 0
            assert int(state.inner.steps_since_sync) == 0
        params = optax.apply_updates(params, updates)
    assert at_home[-1] < at_home[0]


def test_equal_parts_of_a_partition_wait_for_themselves():
    top_kast = jp.methods.top_kast(sparsity=0.75, backward_sparsity=0.25, every=2, end=2)
    tx = jp.straight_through(optax.sgd(0.1), jp.partition({"a": top_kast, "b": top_kast}))
    params = {"a": jax.random.normal(KEY, (4, 8)), "b": jnp.full((4, 8), jnp.nan)}
    state = tx.init(params)
    whole = {"a": params["a"], "b": jax.random.normal(KEY, (4, 8))}
    for _ in range(3):
        _, state = tx.update(jax.tree.map(jnp.zeros_like, whole), state, whole)
    assert {name: int(mask.sum()) for name, mask in state.masks.items()} == {"a": 8, "b": 8}
    assert {name: int(mask.sum()) for name, mask in state.reach.items()} == {"a": 24, "b": 24}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.complex64])
def test_all_finite_sees_one_number_that_is_not(dtype):
    largest = jnp.full((5, 7), jnp.finfo(dtype).max / 2, dtype)
    assert bool(all_finite({"a": largest, "b": jnp.arange(3), "c": jnp.zeros((0, 3))}))
    for bad in (jnp.nan, jnp.inf, -jnp.inf):
        assert not bool(all_finite([largest, largest.at[2, 3].set(bad)])), bad


def test_looking_for_nan_does_not_stop_who_debugs_nan():
    with jax.debug_nans(True):
        assert not bool(all_finite([jnp.full(3, jnp.inf)]))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_schedule_without_an_end_lets_fractions_decay(compiled):
    method = jp.Method(
        jp.criteria.magnitude,
        schedule=jp.schedules.constant(sparsity=0.5),
        initial=jp.criteria.random,
        update=jp.updates.regrow(jp.criteria.gradient, fraction=jp.updates.cosine(0.5, 6)),
    )
    tx = jp.sparsify(optax.sgd(0.0), method, key=jax.random.key(0))
    update = jax.jit(tx.update) if compiled else tx.update
    params = {"w": jax.random.normal(jax.random.key(1), (8, 8))}
    state = tx.init(params)
    grown = []
    for step in range(8):
        grads = {"w": jax.random.normal(jax.random.key(2 + step), (8, 8))}
        before = jp.masks_of(state)["w"]
        _, state = update(grads, state, params)
        grown.append(int((jp.masks_of(state)["w"] & ~before).sum()))
    assert grown[0] > grown[3] > 0
    assert grown[6:] == [0, 0]
