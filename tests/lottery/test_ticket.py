import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp

X = jax.random.normal(jax.random.key(0), (64, 10))
Y = jnp.sin(X @ jax.random.normal(jax.random.key(1), (10, 3)))
ROUND, ROUNDS, REWIND_TO = 12, 3, 4


def initial():
    keys = jax.random.split(jax.random.key(2), 2)
    return {
        "a": {"kernel": jax.random.normal(keys[0], (10, 20)) / 3, "bias": jnp.zeros(20)},
        "b": {"kernel": jax.random.normal(keys[1], (20, 3)) / 4, "bias": jnp.zeros(3)},
    }


def loss(params):
    h = jnp.tanh(X @ params["a"]["kernel"] + params["a"]["bias"][None])
    return jnp.mean((h @ params["b"]["kernel"] + params["b"]["bias"][None] - Y) ** 2)


def history(tx, updates):
    """Parameters, masks and optimizer state after each update, from one compiled scan."""

    def body(carry, _):
        params, state = carry
        changes, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, changes)
        return (params, state), (params, jp.masks_of(state), state.inner)

    start = (initial(), tx.init(initial()))
    return jax.jit(lambda s: jax.lax.scan(body, s, None, length=updates))(start)[1]


def ticket(rewind, inner=None, rewind_to=REWIND_TO):
    plan = jp.lottery.Plan(ROUND, ROUNDS, rewind_to, rewind)
    inner = optax.adam(optax.linear_schedule(1e-2, 1e-3, ROUND)) if inner is None else inner
    return plan, jp.lottery_ticket(inner, jp.methods.magnitude(sparsity=0.2), plan)


def at(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def equal(a, b):
    return jax.tree.all(jax.tree.map(jnp.array_equal, a, b))


@pytest.mark.parametrize("rewind_to", [0, REWIND_TO])
def test_rewinding_returns_the_stored_bits_of_everything(rewind_to):
    plan, tx = ticket("weights", rewind_to=rewind_to)
    params, masks, inner = history(tx, plan.total_updates)
    if rewind_to:
        stored, stored_inner = at(params, rewind_to - 1), at(inner, rewind_to - 1)
    else:
        stored, stored_inner = initial(), optax.adam(lambda count: 1e-3).init(initial())
    for level in range(1, ROUNDS + 1):
        start = plan.level_start(level) - 1  # the index of the last update before
        mask = at(masks, start)
        assert equal(at(params, start), jp.masks.apply(stored, mask)), "weights and biases"
        moments, expected = at(inner, start)[0], stored_inner[0]
        assert int(moments.count) == int(expected.count) == rewind_to
        assert equal(moments.mu, jp.masks.apply(expected.mu, mask))
        assert equal(moments.nu, jp.masks.apply(expected.nu, mask))


def test_levels_remove_a_fifth_of_what_is_left():
    plan, tx = ticket("weights")
    params, masks, _ = history(tx, plan.total_updates)
    kept = [200, 160, 128, 102]  # of kernel a: 200 - round(200 / 5), ...
    for level in range(ROUNDS + 1):
        end = plan.level_end(level) - 1
        assert int(at(masks, end)["a"]["kernel"].sum()) == kept[level]
        jp.masks.check(at(params, end), at(masks, end))


def test_the_trained_level_decides_what_is_pruned():
    plan, tx = ticket("weights")
    params, masks, _ = history(tx, plan.total_updates)
    trained = at(params, plan.level_end(0) - 1)
    _, expected = jp.prune(trained, jp.methods.magnitude(sparsity=0.2))
    assert equal(at(masks, plan.level_end(0)), expected)


def test_a_level_is_the_training_that_fixed_masks_give():
    plan, tx = ticket("weights", rewind_to=0)
    params, masks, _ = history(tx, plan.total_updates)
    mask = at(masks, plan.level_end(1) - 1)
    fixed = jp.fixed(optax.adam(optax.linear_schedule(1e-2, 1e-3, ROUND)), mask)
    weights = jp.masks.apply(initial(), mask)
    state = fixed.init(weights)
    for _ in range(ROUND):
        updates, state = jax.jit(fixed.update)(jax.grad(loss)(weights), state, weights)
        weights = optax.apply_updates(weights, updates)
    close = jax.tree.map(
        lambda a, b: np.allclose(a, b, atol=1e-5), weights, at(params, plan.level_end(1) - 1)
    )
    assert jax.tree.all(close)


def test_learning_rate_rewinding_keeps_weights_and_moments():
    plan, tx = ticket("learning_rate")
    params, masks, inner = history(tx, plan.total_updates)
    end, start = plan.level_end(0) - 1, plan.level_start(1) - 1
    mask = at(masks, start)
    assert equal(at(params, start), jp.masks.apply(at(params, end), mask))
    assert int(at(inner, start)[0].count) == REWIND_TO
    assert int(at(inner, start)[1].count) == REWIND_TO
    assert equal(at(inner, start)[0].mu, jp.masks.apply(at(inner, end)[0].mu, mask))


def test_learning_rate_rewinding_keeps_moments_of_other_shapes():
    inner = optax.chain(optax.scale_by_factored_rms(min_dim_size_to_factor=5), optax.scale(-0.01))
    plan, tx = ticket("learning_rate", inner)
    _, _, states = history(tx, plan.total_updates)
    end, start = plan.level_end(0) - 1, plan.level_start(1) - 1
    before, after = at(states, end)[0], at(states, start)[0]
    assert before.v_row["a"]["kernel"].ndim == 1
    assert equal(after.v_row, before.v_row)
    assert equal(after.v_col, before.v_col)
    assert int(after.count) == REWIND_TO


def test_fine_tuning_keeps_everything():
    plan, tx = ticket("finetune")
    params, masks, inner = history(tx, plan.total_updates)
    end, start = plan.level_end(0) - 1, plan.level_start(1) - 1
    assert equal(at(params, start), jp.masks.apply(at(params, end), at(masks, start)))
    assert int(at(inner, start)[0].count) == ROUND
    assert int(at(inner, plan.total_updates - 1)[0].count) == ROUND + ROUNDS * (ROUND - REWIND_TO)


@pytest.mark.parametrize("rewind", ["weights", "learning_rate", "finetune"])
def test_nothing_more_happens_after_the_last_level(rewind):
    plan, tx = ticket(rewind)
    _, masks, _ = history(tx, plan.total_updates + 2 * plan.cycle)
    last = plan.total_updates - 1
    assert equal(at(masks, last), at(masks, last + 2 * plan.cycle))


@pytest.mark.parametrize(
    "inner",
    [optax.sgd(0.05, momentum=0.9), optax.MultiSteps(optax.lion(1e-3), 2)],
    ids=["sgd", "multi"],
)
def test_other_optimizers_rewind_as_well(inner):
    plan, tx = ticket("weights", inner)
    params, masks, _ = history(tx, plan.total_updates)
    start = plan.level_start(2) - 1
    expected = jp.masks.apply(at(params, REWIND_TO - 1), at(masks, start))
    assert equal(at(params, start), expected)


def test_a_ticket_cut_in_two_gives_the_same_bits():
    plan, tx = ticket("weights")

    @jax.jit
    def step(params, state):
        changes, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, changes), state

    ends = []
    for cut in (None, plan.level_end(0), plan.level_end(0) + 1, plan.level_start(2) + 3):
        params, state = initial(), tx.init(initial())
        for i in range(plan.total_updates):
            if i == cut:  # through the host, as a checkpoint does
                leaves, treedef = jax.tree.flatten((params, state))
                params, state = treedef.unflatten([jnp.asarray(np.asarray(x)) for x in leaves])
            params, state = step(params, state)
        ends.append((params, jp.masks_of(state)))
    assert all(equal(ends[0], end) for end in ends[1:])
    assert step._cache_size() == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"round_steps": 10, "rounds": 2, "rewind_to": 10},
        {"round_steps": 10, "rounds": 2, "rewind_to": -1},
        {"round_steps": 10, "rounds": -1},
        {"round_steps": 10, "rounds": 1, "rewind": "weight"},
    ],
)
def test_plans_without_meaning_are_refused(arguments):
    with pytest.raises(ValueError, match=r"Plan\("):
        jp.lottery.Plan(**arguments)


def test_what_a_criterion_remembers_starts_anew_with_each_level():
    method = jp.partition(
        {
            "a/": jp.Method(
                jp.criteria.weight_change, schedule=jp.schedules.one_shot(sparsity=0.2)
            ),
            "b/": jp.methods.magnitude(sparsity=0.5),
        }
    )
    plan = jp.lottery.Plan(ROUND, 2, 0, "finetune")
    tx = jp.lottery_ticket(optax.adam(1e-2), method, plan)
    step = jax.jit(lambda p, s: tx.update(jax.grad(loss)(p), s, p))
    params, state = initial(), tx.init(initial())
    began, before = params["a"]["kernel"], jp.masks_of(state)["a"]["kernel"]
    for update in range(plan.total_updates):
        changes, state = step(params, state)
        after = jp.masks_of(state)["a"]["kernel"]
        if (before & ~after).any():
            change = jnp.abs(params["a"]["kernel"] - began)
            assert change[before & ~after].max() <= change[after].min(), "the least changed go"
        params, before = optax.apply_updates(params, changes), after
        if update in (plan.level_end(0), plan.level_end(1)):  # the update that prunes
            began = params["a"]["kernel"]
            assert jnp.array_equal(state.memory["initial_params"]["a"]["kernel"], began)
    kept = [int(m.sum()) for m in jax.tree.leaves(jp.masks_of(state))]
    assert kept == [128, 15], "a fifth of 200 and of 160 gone; a half of 60 and of 30"


def test_a_plan_adds_up():
    plan = jp.lottery.Plan(50, 4, 5)
    assert [plan.level_start(i) for i in range(3)] == [0, 52, 99]
    assert [plan.level_end(i) for i in range(3)] == [50, 97, 144]
    assert plan.total_updates == 50 + 4 * 47


@pytest.mark.parametrize(
    "method",
    [
        jp.methods.gmp(sparsity=0.9, begin=100, end=200, every=10),
        jp.methods.static(sparsity=0.9),
        jp.methods.movement(sparsity=0.2, begin=0, end=0, every=1),
    ],
    ids=["idle", "sparse from the start", "brings weights back"],
)
def test_methods_without_meaning_for_a_ticket_are_refused(method):
    with pytest.raises(ValueError, match="lottery_ticket:"):
        jp.lottery_ticket(optax.sgd(0.1), method, jp.lottery.Plan(5, 2))
