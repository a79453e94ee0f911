"""The loop over segments: same masks as at once, few programs, bounded memory, resumed with the same bits."""

import cProfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxprune as jp
from jaxprune.models import llama
from jaxprune.posttrain import solvers
from jaxprune.posttrain.pieces import Piece

WANDA = solvers.by_criterion(jp.criteria.wanda)
QUARTERS = jp.patterns.groups(4)


def blocks(depth, width=8, hidden=16, stacked=False):
    """Residual blocks of a plain function, one after the other or under a scan."""
    draw = lambda i, *shape: np.asarray(jax.random.normal(jax.random.key(i), shape)) / 3

    def block(p, x):
        h = x * p["scale"]
        return x + jnp.tanh(h @ p["up"] + p["bias"]) @ p["down"].T

    layers = [
        {
            "scale": np.ones((1, width), np.float32),
            "bias": np.zeros((1, hidden), np.float32),
            "up": draw(3 * i, width, hidden),
            "down": draw(3 * i + 1, width, hidden),
        }
        for i in range(depth)
    ]
    if stacked:
        params = jax.tree.map(lambda *leaves: np.stack(leaves), *layers)
        return lambda p, x: jax.lax.scan(lambda x, q: (block(q, x), None), x, p)[0], params

    def apply(params, x):
        for p in params:
            x = block(p, x)
        return x

    return apply, layers


def data(count=3, rows=12, width=8):
    mixing = np.random.default_rng(0).normal(size=(width, width))
    draw = lambda i: np.random.default_rng(i).normal(size=(rows, width)) @ mixing
    return [draw(i).astype(np.float32) for i in range(count)]


def test_same_masks_as_at_once():
    apply, params = blocks(3)
    batches = data()
    for pattern in (jp.patterns.unstructured(), QUARTERS):
        method = jp.Method(
            jp.criteria.wanda, schedule=jp.schedules.one_shot(sparsity=0.5), pattern=pattern
        )
        signals = jp.signals.gatherers(batches, apply=apply)
        axes = jp.axes(apply, params, batches[0])
        _, theirs = jp.prune_on(params, method, signals, axes=axes)
        _, ours = jp.posttrain.wanda(
            apply, params, batches, sparsity=0.5, pattern=pattern, calibrate="dense"
        )
        assert jp.masks.hamming(theirs, ours) == 0


def test_layers_see_what_is_left_of_those_before():
    """Against the same done by hand, one matrix after the other."""
    apply, [params] = blocks(1)
    batches = data(2)
    (new,), (masks,) = jp.posttrain.wanda(
        lambda p, x: apply(p, x), [params], batches, pattern=QUARTERS
    )
    x = np.concatenate(batches)
    by_hand = dict(params)
    for name, inputs in (("up", lambda: x), ("down", lambda: np.tanh(x @ by_hand["up"]))):
        kernel = by_hand[name] if name == "up" else by_hand[name].T
        worth = np.abs(kernel) * np.sqrt(np.mean(inputs() ** 2, 0))[:, None]
        order = np.argsort(worth.reshape(-1, 4, kernel.shape[1]), 1)
        kept = np.zeros(order.shape, bool)
        np.put_along_axis(kept, order[:, 2:], True, 1)
        kept = kept.reshape(kernel.shape) if name == "up" else kept.reshape(kernel.shape).T
        assert (masks[name] == kept).all()
        by_hand[name] = np.where(kept, by_hand[name], 0)
        assert (new[name] == by_hand[name]).all()
    assert masks["bias"] is None


def test_equal_blocks_are_compiled_once(monkeypatch):
    counts = {}
    for depth in (6, 30):
        for stacked in (False, True):
            apply, params = blocks(depth, stacked=stacked)
            plan = jp.posttrain.plan(apply, params, data()[0])
            assert len(plan.kernels) == 2 * depth
            counts[depth, stacked] = len({each.piece.key() for each in plan.segments})
    assert len(set(counts.values())) == 1
    assert max(counts.values()) <= 6
    apply, params = blocks(6, stacked=True)
    plan = jp.posttrain.plan(apply, params, data()[0])
    traced, values = [], Piece.values
    monkeypatch.setattr(
        Piece, "values", lambda piece, *a: traced.append(piece) or values(piece, *a)
    )
    jp.posttrain.prune(plan, params, data(), solver=WANDA, pattern=QUARTERS)
    mine = {id(each.piece) for each in plan.segments}
    assert sum(id(piece) in mine for piece in traced) <= 6


def test_thirty_layers_compile_as_many_programs_as_six():
    """Segments, and what reads and writes kernels; a decoder's segments are at most ten, however deep."""
    compiled = []
    for depth in (6, 30):
        apply, params = blocks(depth)
        plan = jp.posttrain.plan(apply, params, data()[0])
        jp.posttrain.prune(plan, params, data(1), solver=WANDA)
        compiled.append(len(plan.programs))
    assert compiled[0] == compiled[1] <= 10
    segments = []
    for depth in (6, 12):
        config = llama.Config(
            vocabulary=8, width=4, hidden=8, layers=depth, heads=2, kv_heads=1, head_dim=2
        )
        tokens = np.arange(8, dtype=np.int32).reshape(1, 8)
        plan = jp.posttrain.plan(llama.decoder(config), llama.shapes(config), tokens)
        assert len(plan.kernels) == 7 * depth
        segments.append({each.piece.key() for each in plan.segments})
    assert segments[0] == segments[1]
    assert len(segments[0]) <= 10


def test_stacked_or_not_is_the_same_network():
    batches = data()
    found = []
    for stacked in (False, True):
        apply, params = blocks(3, stacked=stacked)
        new, masks = jp.posttrain.wanda(apply, params, batches, sparsity=0.3)
        if not stacked:
            stack = lambda *leaves: np.stack(leaves)
            new, masks = jax.tree.map(stack, *new), jax.tree.map(stack, *masks)
        found.append((new, masks))
    jax.tree.map(np.testing.assert_array_equal, found[0], found[1])


def calls_to_plan(layers):
    """Number of calls within the package that a plan of a decoder takes."""
    config = llama.Config(
        vocabulary=8, width=8, hidden=8, layers=layers, heads=2, kv_heads=1, head_dim=4
    )
    tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    profile = cProfile.Profile()
    profile.runcall(
        jp.posttrain.plan, llama.decoder(config), llama.shapes(config), tokens, exclude="embedding"
    )
    functions = profile.getstats()
    return sum(f.callcount for f in functions if "jaxprune" in getattr(f.code, "co_filename", ""))


def test_a_plan_grows_with_layers_not_with_their_square():
    assert calls_to_plan(24) < 2.5 * calls_to_plan(12)


def test_a_plan_prints_and_bounds():
    apply, params = blocks(2)
    plan = jp.posttrain.plan(apply, jax.eval_shape(lambda: params), data()[0])
    text = str(plan)
    assert "[0/up" not in text
    assert "0/up" in text
    assert "1/down" in text
    assert "4 kernels with 512 weights, 4 inputs, 2 blocks" in text
    assert "second-order solvers want 4 rows for each input: 6 batches" in text  # of 12 rows for 16
    assert plan.blocks == [0, 0, 1, 1]
    assert (
        plan.stream_bytes == 2 * 12 * 8 * 4 + 12 * 16 * 4 - 12 * 8 * 4
    )  # x, and what `down` reads


class Peak:
    """The most bytes that arrays of the device take, looked at after each segment and each batch."""

    def __init__(self, monkeypatch):
        self.most = 0
        advance = jp.posttrain.driver.PruningState.advance

        def watched(state, *args, **kwargs):
            found = advance(state, *args, **kwargs)
            self.look()
            return found

        monkeypatch.setattr(jp.posttrain.driver.PruningState, "advance", watched)
        self.before = self.live()

    def live(self):
        return sum(array.nbytes for array in jax.live_arrays())

    def look(self):
        self.most = max(self.most, self.live() - self.before)


@pytest.mark.parametrize(
    ("streams", "propagate"), [("device", 0.0), ("host", 0.0), ("device", 0.5)]
)
def test_memory_is_what_the_plan_says(monkeypatch, streams, propagate):
    apply, params = blocks(6, width=16, hidden=64)
    batches = data(8, rows=256, width=16)
    plan = jp.posttrain.plan(apply, params, batches[0])
    peak = Peak(monkeypatch)
    more = {"streams": streams, "propagate": propagate}
    jp.posttrain.prune(plan, params, batches, solver=WANDA, pattern=QUARTERS, **more)
    bound = plan.bytes_needed(
        len(batches), streams_on_device=streams == "device", propagate=propagate > 0
    )
    assert 0.1 * bound < peak.most < 1.1 * bound
    every_gram = sum(4 * each.size[1] ** 2 for each in plan.inputs)
    largest_gram = max(4 * each.size[0] * each.size[1] ** 2 for each in plan.inputs)
    assert every_gram > 3 * largest_gram  # of which one alone is in the bound


def test_killed_anywhere_it_goes_on_with_the_same_bits(tmp_path):
    apply, params = blocks(2)
    batches = data()
    plan = jp.posttrain.plan(apply, params, batches[0])
    recover = jp.posttrain.reconstruct(optax.adam(1e-2), steps=3)
    more = {"solver": WANDA, "pattern": QUARTERS, "recover": recover}
    whole = jp.posttrain.prune(plan, params, batches, **more)

    class Killed(Exception):
        pass

    for stop in range(1, 7):
        folder = tmp_path / str(stop)

        def die(progress, stop=stop):
            if progress.done == stop:
                raise Killed

        with pytest.raises(Killed):
            jp.posttrain.prune(plan, params, batches, folder=folder, progress=die, **more)
        again = jp.posttrain.prune(plan, params, batches, folder=folder, **more)
        jax.tree.map(np.testing.assert_array_equal, whole[:2], again[:2])
        assert [row[:-1] for row in again.report.rows] == [row[:-1] for row in whole.report.rows]
    first = next(path for path in sorted(folder.iterdir()) if path.suffix == ".npz")
    damaged = bytearray(first.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    first.write_bytes(damaged)
    again = jp.posttrain.prune(plan, params, batches, folder=folder, **more)
    jax.tree.map(np.testing.assert_array_equal, whole[:2], again[:2])
    with pytest.raises(ValueError, match="other parameters, data or settings"):
        jp.posttrain.prune(plan, params, data(4), folder=folder, **more)
    more["recover"] = jp.posttrain.reconstruct(optax.adam(1e-3), steps=3)
    with pytest.raises(ValueError, match="other parameters, data or settings"):
        jp.posttrain.prune(plan, params, batches, folder=folder, **more)


def test_recovery_lowers_the_error_and_keeps_the_masks():
    apply, params = blocks(2, stacked=True)
    batches = data(4, rows=64)
    plan = jp.posttrain.plan(apply, params, batches[0])
    plain = jp.posttrain.prune(plan, params, batches, solver=WANDA, pattern=QUARTERS)
    recover = jp.posttrain.reconstruct(optax.adamw(1e-2, weight_decay=0.1), steps=40)
    found = jp.posttrain.prune(
        plan, params, batches, solver=WANDA, pattern=QUARTERS, recover=recover
    )
    assert len(found.report.blocks) == 2
    assert all(block.after < 0.7 * block.before for block in found.report.blocks)
    held_out = np.concatenate(data(20, rows=64)[10:])
    error = lambda p: float(jnp.mean((apply(p, held_out) - apply(params, held_out)) ** 2))
    assert error(found.params) < error(plain.params)
    for name in ("up", "down"):
        assert ((np.asarray(found.params[name]) != 0) == found.masks[name]).all()
        assert np.asarray(found.masks[name]).mean() == 0.5
    assert (np.asarray(found.masks["up"][0]) == plain.masks["up"][0]).all()
    assert not np.allclose(found.params["bias"], params["bias"])


@pytest.mark.parametrize("shared", [False, True], ids=["own kernels", "a kernel used twice"])
def test_recovery_that_changes_nothing_finds_the_same_error_before_and_after(shared):
    apply, params = blocks(2, stacked=True)
    if shared:
        block = lambda x, kernel: x + jnp.tanh(jnp.tanh(x @ kernel) @ kernel)
        apply = lambda p, x: block(block(x, p["a"]), p["b"])
        params = {name: jax.random.normal(jax.random.key(i), (8, 8)) for i, name in enumerate("ab")}
    batches = data(4, rows=64)
    plan = jp.posttrain.plan(apply, params, batches[0])
    recover = jp.posttrain.reconstruct(optax.sgd(0.0), steps=1)
    options = {"solver": WANDA, "pattern": QUARTERS, "recover": recover}
    found = jp.posttrain.prune(plan, params, batches, **options)
    errors = np.array([(block.before, block.after) for block in found.report.blocks])
    assert errors.min() > 1e-3
    np.testing.assert_allclose(errors[:, 0], errors[:, 1], rtol=1e-5)


def test_shared_kernels_are_one():
    w = np.asarray(jax.random.normal(jax.random.key(0), (8, 8))) / 3
    apply = lambda p, x: jnp.tanh(jnp.tanh(x @ p["w"]) @ p["w"]) @ p["v"]
    params = {"w": w, "v": w + 1}
    plan = jp.posttrain.plan(apply, params, data()[0])
    assert [(k.name, len(k.inputs)) for k in plan.kernels] == [("w", 2), ("v", 1)]
    found = jp.posttrain.prune(plan, params, data(), solver=WANDA, pattern=QUARTERS)
    signal = jp.signals.input_moments(apply, params, data())
    worth = np.abs(w) * np.sqrt(np.asarray(signal["w"]))
    order = np.argsort(worth.reshape(2, 4, 8), 1)
    assert np.take_along_axis(np.asarray(found.masks["w"]).reshape(2, 4, 8), order[:, 2:], 1).all()


def test_uses_of_a_kernel_count_by_their_rows():
    """The few large rows of the second use are lost in a mean of both uses' means."""
    draw = lambda i, *shape: np.asarray(jax.random.normal(jax.random.key(i), shape))
    apply = lambda p, b: (b[0] @ p["w"], b[1] @ p["w"])
    params, batch = {"w": draw(0, 8, 4)}, (draw(1, 64, 8), 10 * draw(2, 1, 8))
    plan = jp.posttrain.plan(apply, params, batch)
    found = jp.posttrain.prune(plan, params, [batch], solver=solvers.sparsegpt())
    rows = np.concatenate(batch)
    change = rows @ (params["w"] - np.asarray(found.params["w"]))
    expected = np.sum(change**2) / np.sum((rows @ params["w"]) ** 2)
    assert found.report.rows[0].error == pytest.approx(expected, rel=1e-4)
    gathered = jp.posttrain.gather(plan, params, [batch], ("grams", "input_moments"))
    errors = jp.posttrain.output_errors(plan, params, found.params, gathered)
    assert errors["w"] == pytest.approx(expected, rel=1e-4)
    moments = np.square(rows).mean(0)
    np.testing.assert_allclose(gathered["w"]["input_moments"][0, :, 0], moments, rtol=1e-5)


def test_uses_of_an_expert_count_by_the_rows_that_it_had():
    """Of its first use an expert has twelve rows, of the second, whose rows are large, one."""
    draw = lambda i, *shape: np.asarray(jax.random.normal(jax.random.key(i), shape))
    runs = [(12, 4, 0), (1, 15, 0)]

    def apply(params, batch):
        pairs = zip(batch, runs, strict=True)
        return [jax.lax.ragged_dot(x, params["w"], jnp.array(run)) for x, run in pairs]

    params, batch = {"w": draw(0, 3, 6, 4)}, (draw(1, 16, 6), 5 * draw(2, 16, 6))
    plan = jp.posttrain.plan(apply, params, batch)
    gathered = jp.posttrain.gather(plan, params, [batch], ("grams", "input_moments"))["w"]
    assert set(gathered) == {"grams", "input_moments"}
    rows = [np.split(x, np.cumsum(run)) for x, run in zip(batch, runs, strict=True)]
    grams = []
    for expert in range(3):
        own = np.concatenate([x[expert] for x in rows])
        grams.append(own.T @ own / max(len(own), 1))
    np.testing.assert_allclose(gathered["grams"], grams, rtol=1e-4, atol=1e-5)
    diagonals = np.diagonal(grams, axis1=1, axis2=2)
    np.testing.assert_allclose(gathered["input_moments"][..., 0], diagonals, rtol=1e-4)
    found = jp.posttrain.prune(plan, params, [batch], solver=solvers.sparsegpt())
    change = params["w"] - np.asarray(found.params["w"])
    energies = [np.sum(w * (grams @ w)) for w in (change, params["w"])]
    assert found.report.rows[0].error == pytest.approx(energies[0] / energies[1], rel=1e-3)


@pytest.mark.parametrize("uses", [2, 3, 7])
def test_uses_with_as_many_rows_count_the_same_to_the_bit(uses):
    apply = lambda p, b: [x @ p["w"] for x in b]
    batch = [np.ones((7, 3), np.float32)] * uses
    plan = jp.posttrain.plan(apply, {"w": np.ones((3, 2), np.float32)}, batch)
    (kernel,) = plan.kernels
    assert plan.use_shares(kernel.inputs) == (1 / uses,) * uses


def test_masks_and_scales_on_the_way_to_a_product():
    w = np.asarray(jax.random.normal(jax.random.key(0), (8, 8)))
    before = np.arange(64).reshape(8, 8) % 3 > 0
    apply = lambda p, x: x @ (jnp.where(before, p["w"], 0) * 2)
    new, masks = jp.posttrain.magnitude(apply, {"w": w}, data(), sparsity=0.5)
    kept = np.asarray(masks["w"])
    assert kept.sum() == 32
    assert not kept[~before].any()
    np.testing.assert_allclose(new["w"], np.where(kept, w, 0), rtol=1e-6)


def test_rates():
    apply, params = blocks(2)
    batches = data()
    plan = jp.posttrain.plan(apply, params, batches[0])
    found = jp.posttrain.prune(
        plan, params, batches, solver=WANDA, rates={"0/up": 0.25, "down": 0.75, ".*": 0.5}
    )
    kept = {row.name: row.kept / row.weights for row in found.report.rows}
    assert kept == {"0/up": 0.75, "0/down": 0.25, "1/up": 0.5, "1/down": 0.25}
    with pytest.raises(ValueError, match="matches none"):
        jp.posttrain.prune(plan, params, batches, solver=WANDA, rates={"nothing": 0.5})
    with pytest.raises(ValueError, match="3 rates were given"):
        jp.posttrain.prune(plan, params, batches, solver=WANDA, rates=[0.5] * 3)


def test_rates_by_depth_and_by_outliers():
    apply, params = blocks(4)
    params[2]["up"] = params[2]["up"] * np.where(np.arange(16) == 3, 40, 1).astype(np.float32)
    batches = data()
    plan = jp.posttrain.plan(apply, params, batches[0])
    assert plan.blocks == [0, 0, 1, 1, 2, 2, 3, 3]

    def lost(rates):
        found = jp.posttrain.prune(plan, params, batches, solver=WANDA, rates=rates)
        assert found.report.sparsity == pytest.approx(0.5, abs=0.005)
        return [1 - row.kept / row.weights for row in found.report.rows[::2]]

    by_depth = lost(jp.posttrain.rates.monotone(0.5, step=0.1))
    assert by_depth == pytest.approx([0.35, 0.45, 0.55, 0.65], abs=0.005)
    by_outliers = lost(jp.posttrain.rates.owl(0.5, outlier=4.0, spread=0.1))
    moments = jp.posttrain.gather(plan, params, batches)
    shares = []
    for i, layer in enumerate(params):
        size = lambda name, i=i: np.sqrt(np.asarray(moments[f"{i}/{name}"]["input_moments"][0]))
        worth = [np.abs(layer["up"]) * size("up"), np.abs(layer["down"].T) * size("down")]
        whole = np.concatenate([each.reshape(-1) for each in worth])
        shares.append(np.mean(whole > 4 * whole.mean()))
    slope = 0.2 / (max(shares) - min(shares))
    expected = 0.5 - slope * (np.array(shares) - np.mean(shares))
    assert by_outliers == pytest.approx(expected.tolist(), abs=0.005)
    with pytest.raises(ValueError, match="let rates differ less"):
        lost(jp.posttrain.rates.monotone(0.5, step=0.4))


def test_statistics_are_those_of_signals():
    apply, params = blocks(2)
    plan = jp.posttrain.plan(apply, params, data()[0])
    found = jp.posttrain.gather(plan, params, data(), ("grams", "input_moments"))
    grams = jp.signals.grams(apply, params, data())
    for layer in (0, 1):
        for name in ("up", "down"):
            own = found[f"{layer}/{name}"]
            np.testing.assert_allclose(own["grams"][0], grams[layer][name], rtol=1e-5, atol=1e-6)
            diagonal = np.diagonal(grams[layer][name])
            np.testing.assert_allclose(
                own["input_moments"][0, :, 0], diagonal, rtol=1e-5, atol=1e-6
            )


def test_errors_on_batches_that_were_held_out():
    apply, params = blocks(1)
    batches = data(4)
    plan = jp.posttrain.plan(apply, params, batches[0])
    more = {"solver": solvers.sparsegpt(), "pattern": QUARTERS}
    found = jp.posttrain.prune(plan, params, batches, hold_out=2, **more)
    alone = jp.posttrain.prune(plan, params, batches[::2], **more)
    assert jp.masks.hamming(found.masks, alone.masks) == 0  # the others were not calibrated on
    row = found.report.rows[0]
    x = np.concatenate(batches[1::2])
    change = x @ (np.asarray(found.params[0]["up"]) - params[0]["up"])
    expected = np.sum(change**2) / np.sum((x @ params[0]["up"]) ** 2)
    assert row.held_error == pytest.approx(expected, rel=1e-4)
    assert row.held_error > row.error == pytest.approx(alone.report.rows[0].error, rel=1e-4)
    [note] = found.report.notes
    assert note.startswith(
        "'0/down' has 16 inputs and only 24 rows of calibration data, and 2 inputs"
    )
    assert note.endswith("may then do worse than Wanda: give 6 batches or more to calibrate on.")
    assert note in str(found.report)
    enough = jp.posttrain.prune(plan, params, data(6), **more)
    assert enough.report.notes == ()
    with pytest.raises(ValueError, match="gathers none"):
        jp.posttrain.prune(plan, params, batches, solver=WANDA, hold_out=2)


def test_damping_that_had_to_grow_is_in_the_report():
    apply, params = blocks(1, width=64)
    [few] = data(1, rows=8, width=64)
    plan = jp.posttrain.plan(apply, params, few)
    found = jp.posttrain.prune(plan, params, [few], solver=solvers.sparsegpt(damp=0.0))
    row = found.report.rows[0]
    assert row.damp > 0
    assert f"{row.damp:g}" in str(found.report).splitlines()[1].split()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.params))


def test_bfloat16_parameters_stay_what_they_are():
    apply, params = blocks(1)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), params)
    batches = [jnp.asarray(x, jnp.bfloat16) for x in data()]
    new, masks = jp.posttrain.wanda(apply, params, batches, pattern=QUARTERS)
    assert new[0]["up"].dtype == jnp.bfloat16
    assert (new[0]["up"] == jnp.where(masks[0]["up"], params[0]["up"], 0)).all()


def test_what_is_refused():
    apply, params = blocks(1)
    batches = data()
    bad = [batches[0], np.where(np.arange(8) == 3, np.nan, batches[1]), batches[2]]
    with pytest.raises(ValueError, match=r"batch 1 \(counted from 0\) gives NaN .*'0/up'"):
        jp.posttrain.wanda(apply, params, bad)
    with pytest.raises(ValueError, match=r"batch 1 .* all batches must have one shape"):
        jp.posttrain.wanda(apply, params, [batches[0], batches[1][:5]])
    with pytest.raises(ValueError, match="there are no batches"):
        jp.posttrain.wanda(apply, params, [])
    with pytest.raises(ValueError, match="matches none"):
        jp.posttrain.wanda(apply, params, batches, exclude="nowhere")

    def looped(p, x):
        step = lambda state: (state[0] + 1, jnp.tanh(state[1] @ p["w"]))
        return (
            jax.lax.while_loop(lambda state: state[0] < jnp.sum(x) % 3, step, (0.0, x))[1] @ p["v"]
        )

    params = {"w": np.eye(8, dtype=np.float32), "v": np.ones((8, 4), np.float32)}
    with pytest.raises(ValueError, match=r"'w': it is multiplied within 'while'.*exclude="):
        jp.posttrain.wanda(looped, params, batches)
    _, masks = jp.posttrain.wanda(looped, params, batches, exclude="w")
    assert masks["w"] is None
    squared = lambda p, x: x @ jnp.square(p["v"])
    with pytest.raises(ValueError, match="'square' stands between it and its product"):
        jp.posttrain.wanda(squared, params, batches, prunable="v")
    with pytest.raises(TypeError, match="give key="):
        jp.posttrain.prune(
            jp.posttrain.plan(apply, blocks(1)[1], batches[0]),
            blocks(1)[1],
            batches,
            solver=solvers.by_criterion(jp.criteria.random),
        )


def test_numbers_in_any_container_and_budgets_that_are_none():
    apply, params = blocks(1)
    plan = jp.posttrain.plan(apply, params, data()[0])
    prune = lambda **more: jp.posttrain.prune(plan, params, data(1), solver=WANDA, **more)
    for rates in (0.5, np.array(0.5), np.array([0.5, 0.5]), jnp.array([0.5, 0.5])):
        assert prune(rates=rates).report.sparsity == 0.5
    with pytest.raises(TypeError, match=r"stream_budget='1GB'.*a number is needed"):
        prune(stream_budget="1GB")
    for budget in (float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match=r"stream_budget=(nan|inf).*at least 0 bytes are needed"
        ):
            prune(stream_budget=budget)
    for names in ("grams", ()):
        with pytest.raises(ValueError, match="a list of one or both"):
            jp.posttrain.gather(plan, params, data(1), names)


def test_a_parameter_may_be_a_number_of_python(tmp_path):
    apply = lambda p, x: x @ p["w"] * p["scale"]
    params = {"w": np.eye(8, dtype=np.float32), "scale": 2.0}
    plan = jp.posttrain.plan(apply, params, data()[0])
    more = {"recover": jp.posttrain.reconstruct(optax.sgd(1e-3), steps=1), "folder": tmp_path}
    first, again = (
        jp.posttrain.prune(plan, params, data(1), solver=WANDA, **more).params for _ in range(2)
    )
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_complex_inputs_are_refused_by_name():
    apply = lambda p, x: jnp.abs(jnp.fft.fft(x) @ p["w"]) @ p["v"]
    params = {"w": np.eye(8, dtype=np.float32), "v": np.ones((8, 2), np.float32)}
    with pytest.raises(ValueError, match=r"'w': .* is not known; leave such parameters out"):
        jp.posttrain.wanda(apply, params, data(1))
    moments = jp.signals.input_moments(apply, params, data(1))
    assert moments["w"] is None
    assert moments["v"] is not None


def test_a_recovery_that_diverges_is_refused():
    weights = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float16)
    apply, params = (lambda p, x: jnp.tanh(x @ p["w"])), {"w": weights}
    batch = np.asarray(data()[0], np.float16)
    recover = jp.posttrain.reconstruct(optax.sgd(1e8), steps=2)
    plan = jp.posttrain.plan(apply, params, batch)
    with pytest.raises(ValueError, match=r"training of 'w' has diverged.*a lower learning rate"):
        jp.posttrain.prune(plan, params, [batch], solver=solvers.sparsegpt(), recover=recover)


def test_a_block_that_is_infinite_before_recovery_is_not_blamed_on_the_training():
    apply, params = (lambda p, x: x @ p["w"]), {"w": np.full((8, 8), 3e4, np.float16)}
    batch = np.ones((4, 8), np.float16)
    recover = jp.posttrain.reconstruct(optax.sgd(1e-3), steps=2)
    plan = jp.posttrain.plan(apply, params, batch)
    with pytest.raises(ValueError, match=r"block with 'w' is \w+ before it is trained"):
        jp.posttrain.prune(plan, params, [batch], solver=solvers.sparsegpt(), recover=recover)


def test_what_would_empty_a_group_of_a_convolution_is_refused():
    def apply(params, x):
        return jax.lax.conv_general_dilated(
            x,
            params["w"],
            (1,),
            "SAME",
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=4,
        )

    params = {"w": jnp.arange(12.0).reshape(3, 1, 4) + 1}
    x = jnp.ones((2, 8, 4))
    plan = jp.posttrain.plan(apply, params, x)
    with pytest.raises(ValueError, match=r"leaves none of the 3 weights that compete .* 'w'"):
        jp.posttrain.prune(plan, params, [x], solver=WANDA, rates=0.9)
    _, masks, _ = jp.posttrain.prune(plan, params, [x], solver=WANDA, rates=0.6)
    assert masks["w"].sum(0).tolist() == [[1, 1, 1, 1]]
