"""Odd leaves, every dtype, every way to run, every optimizer, rewinding, randomness, and long runs."""

import gc
import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from faults.properties import DTYPES, best, chosen, survivors

import jaxprune as jp
from benchmarks.optimizers import CASES, METHODS, initial, loss_of, try_out

KEY = jax.random.key(0)
KERNEL = jax.random.normal(KEY, (8, 4))
MAGNITUDE = jp.methods.magnitude(sparsity=0.5)
ODD = {
    "None": None,
    "a scalar": jnp.float32(2.0),
    "a Python number": 3.0,
    "nothing": jnp.zeros((0, 3)),
    "no columns": jnp.zeros((3, 0)),
    "one number": jnp.ones((1, 1)),
    "integers": jnp.arange(6).reshape(2, 3),
    "integers of four bits": jnp.ones((2, 3), jnp.int4),
    "bools": jnp.ones((2, 3), bool),
    "complex numbers": jnp.ones((2, 3), jnp.complex64),
    "a key": jax.random.key(1),
    "an old key": jax.random.PRNGKey(1),
    "NumPy": np.ones((2, 3), np.int32),
}


def test_odd_leaves_are_passed_over(attack, amount):
    kinds = dict(list(ODD.items())[:: amount(3, 1)])
    tally = attack("R14", "leaves of odd kinds", least=len(kinds) + 1)
    for name, leaf in kinds.items():
        params = {"kernel": KERNEL, "odd": leaf}
        tally.happened("odd" in params, name)
        pruned, masks = jp.prune(params, MAGNITUDE)
        assert int(masks["kernel"].sum()) == 16, name
        if name == "one number":
            assert int(masks["odd"].sum()) == 1, "no layer is emptied"
        else:
            assert masks["odd"] is None, name
        assert pruned["odd"] is leaf or np.array_equal(pruned["odd"], leaf), name
        packed = jp.masks.unpack(jp.masks.pack(masks))
        assert jp.masks.hamming(packed, masks) == 0
        jp.masks.check(pruned, masks)
        tally.survive()
    tally.happened(True, "an empty tree")
    with pytest.raises(ValueError, match="leaves nothing to prune"):
        jp.prune({}, MAGNITUDE)
    tally.survive()


def test_no_sparsity_leaves_the_bits_and_high_ones_leave_a_weight(attack, amount):
    sizes = amount([3], [1, 2, 3, 7, 40, 1001])
    tally = attack("R15", "sparsities of 0 and near 1", least=2 * len(sizes))
    for size in sizes:
        params = {"kernel": jnp.linspace(-1, 1, size).reshape(1, size)}
        for sparsity in (0.0, 0.999):
            tally.happened(True, f"{size}, {sparsity}")
            pruned, masks = jp.prune(params, jp.methods.magnitude(sparsity=sparsity))
            assert int(masks["kernel"].sum()) == max(survivors(size, sparsity), 1)
            if not sparsity:
                same = np.asarray(pruned["kernel"]).tobytes()
                assert same == np.asarray(params["kernel"]).tobytes()
            tally.survive()


def test_every_dtype_has_exact_counts_and_keeps_its_type(attack, amount):
    dtypes = {
        **DTYPES,
        "float8_e4m3fnuz": jnp.float8_e4m3fnuz,
        "float8_e5m2fnuz": jnp.float8_e5m2fnuz,
    }
    names = list(dtypes)[amount(3, 0) : amount(4, None)]
    tally = attack("R17", "weights of every float, next to each other", least=len(names))
    for name in names:
        rng = np.random.default_rng(len(name))
        numbers = rng.choice([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0], (12, 5))
        leaf = jnp.asarray(numbers, jnp.float32).astype(dtypes[name])
        tally.happened(leaf.dtype == dtypes[name], name)
        params = {"a": leaf, "b": jnp.ones((4, 4), jnp.bfloat16)}
        method = jp.methods.global_magnitude(sparsity=0.7, begin=0, end=0, every=1)
        pruned, masks = jp.prune(params, method)
        wanted = best([np.abs(numbers), np.ones((4, 4))], survivors(76, 0.7))
        assert np.array_equal(masks["a"], wanted[0])
        assert np.array_equal(masks["b"], wanted[1])
        assert pruned["a"].dtype == leaf.dtype
        tally.survive()


def test_the_states_of_all_optimizers_are_known_for_what_they_are(attack, amount):
    """No optimizer's own state is taken for that of another, before or after an update."""
    names = [name for name in CASES if not CASES[name].why_not][:: amount(9, 1)]
    tally = attack("R19", "own states of optimizers are taken", least=amount(5, 30))
    params = initial()
    with jax.numpy_rank_promotion("allow"):
        loss, grads = jax.value_and_grad(loss_of)(params)
        for name in names:
            case = CASES[name]
            tx = jp.sparsify(case.make(), METHODS["gmp"])
            step = lambda state, tx=tx, case=case: tx.update(
                grads, state, params, **case.extra(loss, grads, params)
            )
            tally.happened(True, name)
            first = jax.eval_shape(tx.init, params)
            _, second = jax.eval_shape(step, first)
            jax.eval_shape(step, second)
            tally.survive()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_zeros_stay_zeros_under_all_optimizers(method, attack):
    regrows = METHODS[method].update.grow_criterion is not None
    names = [
        name
        for name, case in CASES.items()
        if not (case.why_not or (regrows and case.why_no_regrowth))
    ]
    tally = attack("R19", f"{method}, optimizers and wrappers, 30 updates", least=25)
    for name in names:
        tally.happened(True, name)
        with jax.numpy_rank_promotion("allow"):
            outcome = try_out(CASES[name], METHODS[method])
        tally.silent.extend([f"{name}: {outcome.verdict}"] if outcome.verdict != "yes" else [])
        tally.survived += outcome.verdict == "yes"


def around(inner):
    """What is put around and inside: decay, clipping, an average, gathering."""
    decayed = optax.chain(optax.clip_by_global_norm(1.0), optax.add_decayed_weights(1e-2), inner)
    yield "decay and clipping", jp.sparsify(decayed, METHODS["gmp"], key=KEY)
    gathering = optax.MultiSteps(decayed, 2)
    yield "MultiSteps inside", jp.sparsify(gathering, METHODS["gmp"], key=KEY)
    yield "MultiSteps around", optax.MultiSteps(jp.sparsify(decayed, METHODS["gmp"], key=KEY), 2)
    yield "an average", jp.averaged(jp.sparsify(decayed, METHODS["gmp"], key=KEY), 0.9)


def test_zeros_stay_zeros_under_what_is_put_around(attack, amount):
    makers = [optax.adam, optax.lion, optax.rmsprop, optax.adagrad, optax.sgd]
    cases = [(make, what) for make in makers for what in range(4)][:: amount(20, 1)]
    tally = attack("R19", "decay, clipping, averages, MultiSteps", least=len(cases))
    with jax.numpy_rank_promotion("allow"):
        for make, index in cases:
            name, tx = list(around(make(1e-2)))[index]
            params = initial()
            state = tx.init(params)

            @jax.jit
            def step(params, state, tx=tx):
                grads = jax.grad(loss_of)(params)
                updates, state = tx.update(grads, state, params)
                return optax.apply_updates(params, updates), state

            for _ in range(24):
                params, state = step(params, state)
            masks = jp.masks_of(state)
            tally.happened(float(jp.masks.sparsity(masks)) > 0.3, name)
            jp.masks.check(params, masks)
            jp.masks.check(jp.average_of(params, state), masks)
            tally.survive()


def test_rewinding_returns_the_bits(attack, amount):
    rewinds = amount([0], [0, 2])
    tally = attack("R21", "rewinding points", least=len(rewinds))
    for rewind_to in rewinds:
        plan = jp.lottery.Plan(4, 2, rewind_to=rewind_to)
        tx = jp.lottery_ticket(optax.adam(0.1), jp.methods.magnitude(sparsity=0.2), plan)
        params = {"kernel": KERNEL, "bias": jnp.ones(4)}
        state, seen = tx.init(params), {}
        update = jax.jit(tx.update)
        for done in range(plan.total_updates):
            if done == rewind_to:
                seen["point"] = params
            if done == plan.level_start(2):
                seen["back"], seen["masks"] = params, jp.masks_of(state)
            updates, state = update(jax.tree.map(jnp.sin, params), state, params)
            params = optax.apply_updates(params, updates)
        masks = seen["masks"]
        tally.happened(0.3 < float(jp.masks.sparsity(masks)) < 0.4, f"rewind to {rewind_to}")
        wanted = jp.masks.apply(seen["point"], masks)
        for own, its in zip(jax.tree.leaves(seen["back"]), jax.tree.leaves(wanted), strict=True):
            assert np.asarray(own).tobytes() == np.asarray(its).tobytes()
        tally.survive()


@pytest.mark.parametrize("name", chosen(["random"], ["SET", "random", "DSR"]))
def test_randomness_comes_from_the_key_alone(name, attack):
    method = {
        "SET": jp.methods.set_(sparsity=0.5, every=2, end=8),
        "random": jp.methods.random(sparsity=0.5, at=3),
        "DSR": jp.methods.dsr(sparsity=0.5, every=2, end=8),
    }[name]
    tally = attack("R23", f"{name}: the same key, another, resumed", least=3)

    def trained(seed, cut=None):
        tx = jp.sparsify(optax.sgd(0.1), method, key=jax.random.key(seed))
        params = {"a": KERNEL, "b": KERNEL.T}
        state, update = tx.init(params), jax.jit(tx.update)
        for step in range(9):
            if step == cut:  # as a process would that is started again
                params, state = pickle.loads(pickle.dumps(jax.device_get((params, state))))
                update = jax.jit(
                    jp.sparsify(optax.sgd(0.1), method, key=jax.random.key(seed)).update
                )
            updates, state = update(jax.tree.map(jnp.sin, params), state, params)
            params = optax.apply_updates(params, updates)
        return b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves((params, state)))

    first = trained(0)
    for case, found, same in (
        ("again", trained(0), True),
        ("another key", trained(1), False),
        ("resumed", trained(0, cut=5), True),
    ):
        tally.happened(len(found) == len(first), case)
        assert (found == first) == same, case
        tally.survive()


WAYS = (
    "eager",
    "jit",
    "scan",
    "vmap",
    "1 Auto",
    "2 Auto",
    "8 Auto",
    "1 Explicit",
    "2 Explicit",
    "8 Explicit",
)


@pytest.mark.slow
def test_all_ways_to_run_give_the_same_masks(attack):
    tally = attack("R18", "four methods, random and tied weights, ten ways", least=8 * len(WAYS))
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    root = str(Path(__file__).parents[2])
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": root}
    script = str(Path(__file__).with_name("ways_to_run.py"))
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    by_case = itertools.groupby(rows, key=lambda row: row[:2])
    for case, ways in by_case:
        found = {way: digest for *_, way, digest in ways}
        assert set(found) == set(WAYS), case
        for way, digest in found.items():
            tally.happened(len(digest) == 32, f"{case} {way}")
            assert digest == found["jit"], (case, way)
            tally.survive()


def resident():
    """Bytes of this process in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_stays_flat_over_many_updates_and_prunes(attack, amount):
    """No array and no compiled program is left behind: one compilation, the same bytes."""
    updates, prunes = amount(200, 20_000), amount(5, 300)
    tally = attack("R27", f"{updates} updates and {prunes} prunes", least=3)
    tx = jp.sparsify(optax.adam(1e-3), jp.methods.rigl(sparsity=0.8, every=10, end=10**6), key=KEY)
    params = {"a": jax.random.normal(KEY, (256, 256)), "b": jax.random.normal(KEY, (256, 64))}

    @jax.jit
    def step(params, state):
        changes, state = tx.update(jax.tree.map(jnp.cos, params), state, params)
        return optax.apply_updates(params, changes), state

    def train(count, params, state):
        for _ in range(count):
            params, state = step(params, state)
        return jax.block_until_ready((params, state))

    state = tx.init(params)
    masks = jp.masks_of(state)
    params, state = train(20, params, state)
    before, arrays = resident(), len(jax.live_arrays())
    params, state = train(updates, params, state)
    tally.happened(float(jp.masks.hamming(masks, jp.masks_of(state))) > 0, "updates")
    assert step._cache_size() == 1
    assert len(jax.live_arrays()) <= arrays + 2
    assert resident() < 1.05 * before, "memory grows with updates"
    tally.survive()
    method = jp.methods.magnitude(sparsity=0.5)
    for _ in range(3):
        jp.prune(params, method)
    before, arrays = resident(), len(jax.live_arrays())
    for _ in range(prunes):
        pruned, _ = jp.prune(params, method)
    tally.happened(not np.asarray(pruned["a"]).all(), "prunes")
    del pruned
    assert len(jax.live_arrays()) <= arrays + 4
    assert resident() < 1.05 * before, "memory grows with prunes"
    tally.survive()
    array_bytes = 4 * 1024**2
    hoard = [jnp.ones((1024, 1024)) + i for i in range(before // 10 // array_bytes + 1)]
    jax.block_until_ready(hoard)
    tally.happened(resident() > 1.05 * before, "a leak would be seen")
    tally.survive()
