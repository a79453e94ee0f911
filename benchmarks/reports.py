"""What users of pruning software and public trainers ran into, tried here: what happened before, and after.

Each probe is a few lines that a user would write, and answers in a few words; what raises answers with the
error. The answers of two checkouts stand beside each other in `results/benchmarks/reports.md`.

Run: python -m benchmarks.reports --answers after.json                         (in each checkout)
     python -m benchmarks.reports --table before.json after.json --names 064e160 HEAD
"""

import argparse
import contextlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
PROBES: dict[str, Callable[[], str]] = {}
EVERY = {"begin": 0, "end": 4, "every": 2}


def probe(report: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Enters a function among the probes, under the words of the report."""

    def enter(function: Callable[[], str]) -> Callable[[], str]:
        PROBES[report] = function
        return function

    return enter


def weights(*shape: int, seed: int = 0):
    """Returns a normal array."""
    import jax

    return jax.random.normal(jax.random.key(seed), shape)


def trained(transform, params, grads_of, steps: int, jit: bool = True):
    """Parameters and state after some updates."""
    import jax
    import optax

    update = jax.jit(transform.update) if jit else transform.update
    state = transform.init(params)
    for step in range(steps):
        updates, state = update(grads_of(params, step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def halves(method, at: int) -> str:
    """Kept shares of the first and second half of a leaf, after a step whose gradient is NaN."""
    import jax
    import jax.numpy as jnp
    import optax

    import jaxprune as jp

    inputs = weights(64, 32, seed=1)

    def loss(params):
        return jnp.mean((inputs @ params["w"] - jnp.roll(inputs, 1, 1)) ** 2)

    gradient = jax.jit(jax.grad(loss))

    def spoilt(params, step):
        return jax.tree.map(lambda leaf: leaf * (jnp.nan if step == at else 1), gradient(params))

    transform = jp.sparsify(
        optax.apply_if_finite(optax.adam(1e-2), 5), method, key=jax.random.key(0)
    )
    _, state = trained(transform, {"w": weights(32, 32) / 6}, spoilt, 14)
    mask = jp.masks_of(state)["w"].ravel()
    return f"{float(mask[:512].mean()):.2f} / {float(mask[512:].mean()):.2f} kept"


GRADUAL = {"sparsity": 0.5, "begin": 4, "end": 12, "every": 4}


@probe("one NaN gradient long before a change: movement keeps (first / second half)")
def _():
    import jaxprune as jp

    return halves(jp.methods.movement(**GRADUAL), 2)


@probe("NaN gradient at the step at which RigL changes masks (2 x 0.20 is fair)")
def _():
    import jaxprune as jp

    return halves(jp.methods.rigl(sparsity=0.8, every=12, end=100), 12)


@probe("NaN weights in one-shot magnitude pruning")
def _():
    import jax.numpy as jnp

    import jaxprune as jp

    params = {"w": weights(4, 4).at[0].set(jnp.nan)}
    return str(jp.prune(params, jp.methods.magnitude(sparsity=0.5))[1]["w"][0].tolist())


@probe("one NaN among Wanda's calibration inputs")
def _():
    import jax.numpy as jnp

    import jaxprune as jp

    batches = [weights(32, 16, seed=i) for i in range(3)]
    batches[1] = batches[1].at[0, 0].set(jnp.nan)
    params = {"a": weights(16, 8)}
    moments = jp.signals.input_moments(lambda p, x: x @ p["a"], params, batches)
    once = jp.schedules.one_shot(sparsity=0.5)
    wanda = jp.Method(jp.criteria.wanda, schedule=once, pattern=jp.patterns.groups())
    return f"first input keeps {int(jp.prune(params, wanda, input_moments=moments)[1]['a'][0].sum())} of 8"


@probe("debug_nans while pruning a pruned network again")
def _():
    import jax

    import jaxprune as jp

    params = {"w": weights(8, 8)}
    pruned, masks = jp.prune(params, jp.methods.magnitude(sparsity=0.5))
    with jax.debug_nans(True):
        jp.prune(pruned, jp.methods.magnitude(sparsity=0.75), masks=masks)
    return "works"


@probe("0.99 of a 40x1 head, 0.95 of 8 channels, 0.97 of 8 blocks: units left")
def _():
    import jaxprune as jp

    head = {"a": weights(40, 64), "head": weights(40, 1, seed=1)}
    cases = [
        (head, jp.methods.magnitude(sparsity=0.99)),
        (
            {"head": weights(16, 8)},
            jp.methods.magnitude(sparsity=0.95, pattern=jp.patterns.channel()),
        ),
        (
            {"head": weights(16, 8)},
            jp.methods.magnitude(sparsity=0.97, pattern=jp.patterns.block((8, 2))),
        ),
    ]
    kept = [int(jp.prune(tree, method)[1]["head"].sum()) for tree, method in cases]
    return f"{kept[0]}, {kept[1] // 16}, {kept[2] // 16}"


@probe("gradual pruning of a sparse checkpoint: weights revived before its first change")
def _():
    import jax
    import jax.numpy as jnp
    import optax

    import jaxprune as jp

    params, masks = jp.prune({"w": weights(16, 16)}, jp.methods.magnitude(sparsity=0.5))
    later = jp.methods.gmp(sparsity=0.8, begin=5, end=9, every=2)

    def ones(p, _):
        return jax.tree.map(jnp.ones_like, p)

    params, _ = trained(jp.sparsify(optax.sgd(0.1), later, masks=masks), params, ones, 2)
    return f"{int((~masks['w'] & (params['w'] != 0)).sum())} of {int((~masks['w']).sum())}"


@probe("masks of a checkpoint's zeros; masks in a file, one bit per weight")
def _():
    import jaxprune as jp

    params, masks = jp.prune({"w": weights(16, 16)}, jp.methods.magnitude(sparsity=0.5))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "masks.safetensors")
        jp.masks.save(file, jp.masks.of_zeros(params))
        same = bool((jp.masks.load(file, params)["w"] == masks["w"]).all())
    return f"same masks: {same}"


@probe("donate_argnums with fixed masks: the caller's masks afterwards")
def _():
    import jax
    import jax.numpy as jnp
    import optax

    import jaxprune as jp

    masks = {"w": jnp.arange(64).reshape(8, 8) % 2 == 0}
    transform = jp.fixed(optax.adam(1e-2), masks)
    step = jax.jit(lambda p, s: transform.update(p, s, p), donate_argnums=(1,))
    step({"w": weights(8, 8)}, transform.init({"w": weights(8, 8)}))
    return f"{int(masks['w'].sum())} kept, usable"


def nnx_run(transform, steps: int = 3):
    """A trained `nnx.Linear` and its optimizer."""
    import jax.numpy as jnp
    from flax import nnx

    model = nnx.Linear(8, 16, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)
    for _ in range(steps):
        optimizer.update(
            model, nnx.grad(lambda module: jnp.mean(module(jnp.ones((4, 8))) ** 2))(model)
        )
    return model, optimizer


@probe("nnx.Optimizer: masks.check of its masks")
def _():
    import optax
    from flax import nnx

    import jaxprune as jp

    model, optimizer = nnx_run(jp.sparsify(optax.adam(1e-2), jp.methods.gmp(sparsity=0.5, **EVERY)))
    jp.masks.check(nnx.state(model, nnx.Param), jp.masks_of(optimizer.opt_state))
    return "works"


@probe("nnx.Optimizer: forward_params under straight_through")
def _():
    import optax
    from flax import nnx

    import jaxprune as jp

    method = jp.methods.ste(sparsity=0.5, end=9)
    model, optimizer = nnx_run(jp.straight_through(optax.adam(1e-2), method))
    sparse = jp.forward_params(nnx.state(model, nnx.Param), optimizer.opt_state)
    return f"{int((sparse['kernel'][...] != 0).sum())} of 128 run"


@probe("nnx.Optimizer: packed masks")
def _():
    import optax

    import jaxprune as jp

    gmp = jp.methods.gmp(sparsity=0.5, **EVERY)
    nnx_run(jp.sparsify(optax.adam(1e-2), gmp, packed=True))
    return "works"


@probe("nnx.Optimizer: a trainer reads every variable's dtype (tunix)")
def _():
    import optax
    from flax import nnx

    import jaxprune as jp

    _, optimizer = nnx_run(jp.sparsify(optax.adam(1e-2), jp.methods.gmp(sparsity=0.5, **EVERY)))
    state = nnx.state(optimizer, nnx.optimizer.OptState)
    return f"{len({leaf.get_value().dtype for _, leaf in nnx.to_flat_state(state)})} dtypes"


@probe("packed masks in a Flax checkpoint (msgpack)")
def _():
    import optax
    from flax import serialization

    import jaxprune as jp

    gmp = jp.methods.gmp(sparsity=0.5, **EVERY)
    state = jp.sparsify(optax.adam(1e-3), gmp, packed=True).init({"w": weights(8, 8)})
    serialization.from_bytes(state, serialization.to_bytes(state))
    return "works"


@probe("optax.tree_map_params of a sparse transform")
def _():
    import optax

    import jaxprune as jp

    transform = jp.sparsify(optax.adam(1e-3), jp.methods.gmp(sparsity=0.5, **EVERY))
    optax.tree_map_params(transform, lambda x: x, transform.init({"w": weights(8, 8)}))
    return "works"


@probe("a leaf that the optimizer freezes: entries changed by one step")
def _():
    import optax

    import jaxprune as jp

    params = {"base": {"kernel": weights(4, 4)}, "head": {"kernel": weights(4, 4)}}
    parts = {"train": optax.adam(0.1), "still": optax.set_to_zero()}
    inner = optax.partition(parts, {"base": "still", "head": "train"})
    transform = jp.sparsify(inner, jp.methods.magnitude(sparsity=0.5))
    after, _ = trained(transform, params, lambda p, _: p, 1)
    return f"{int((after['base']['kernel'] != params['base']['kernel']).sum())} of 16"


@probe("Haiku's FlatMap as parameters")
def _():
    import haiku as hk
    import optax

    import jaxprune as jp

    params = hk.data_structures.to_immutable_dict({"linear": {"w": weights(8, 8), "b": weights(8)}})
    transform = jp.sparsify(optax.adam(1e-2), jp.methods.gmp(sparsity=0.5, **EVERY))
    after, state = trained(transform, params, lambda p, _: p, 3)
    jp.masks.check(after, jp.masks_of(state))
    return "works"


@probe("optax.partition around two sparse parts: one tree of masks")
def _():
    import optax

    import jaxprune as jp

    params = {"a": {"kernel": weights(4, 4)}, "b": {"kernel": weights(4, 4)}}

    def sparse(s):
        return jp.sparsify(optax.sgd(0.1), jp.methods.magnitude(sparsity=s))

    transform = optax.partition({"x": sparse(0.5), "y": sparse(0.75)}, {"a": "x", "b": "y"})
    after, state = trained(transform, params, lambda p, _: p, 1)
    masks = jp.masks_of(state)
    jp.masks.check(after, masks)
    return f"kept {[int(masks[name]['kernel'].sum()) for name in 'ab']} of 16"


@probe("eager updates: time of an idle step beside Adam's, programs compiled in it")
def _():
    import jax
    import optax

    import jaxprune as jp

    params = {f"layer{i}": {"kernel": weights(16, 16)} for i in range(3)}
    gmp = jp.methods.gmp(sparsity=0.8, begin=2, end=100, every=50)
    compiled = []
    spent = {}

    def listen(event, *_, **__):
        return compiled.append(event) if "backend_compile" in event else None

    jax.monitoring.register_event_duration_secs_listener(listen)
    for name, transform in {
        "adam": optax.adam(1e-2),
        "gmp": jp.sparsify(optax.adam(1e-2), gmp),
    }.items():
        state = transform.init(params)
        for _ in range(4):
            _, state = transform.update(params, state, params)
        compiled.clear()
        begin = time.process_time()
        for _ in range(10):
            updates, state = transform.update(params, state, params)
        jax.block_until_ready(updates)
        spent[name] = time.process_time() - begin
    return f"{spent['gmp'] / spent['adam']:.0f}x, {len(compiled) / 10:.0f} compiled"


@probe("sparsify(MultiSteps(sgd, 4), rigl(every=8)): RigL's step without a gradient")
def _():
    import jax
    import jax.numpy as jnp
    import optax

    import jaxprune as jp

    x = weights(64, 16, seed=1)
    rigl = jp.methods.rigl(sparsity=0.5, every=8, end=10**6)
    transform = jp.sparsify(optax.MultiSteps(optax.sgd(0.1), 4), rigl, key=jax.random.key(0))
    params = {"w": weights(16, 16)}
    state = transform.init(params)
    params = jp.masks.apply(params, jp.masks_of(state))
    update = jax.jit(transform.update)
    moved = []
    for call in range(16):
        grads = jax.grad(lambda p: jnp.mean((x @ p["w"] - x) ** 2))(params)
        updates, after = update(grads, state, params)
        both = jp.masks_of(state)["w"] & jp.masks_of(after)["w"]
        if bool((jnp.where(both, updates["w"], 0) != 0).any()):
            moved.append(call)
        params = optax.apply_updates(params, updates)
        state = after
    return "at call 11, where the optimizer would have moved" if 11 not in moved else "never"


@probe("momentum of the weights that RigL has just grown, and biases at that step")
def _():
    import jax
    import jax.numpy as jnp
    import optax

    import jaxprune as jp

    params = {"dense": {"kernel": weights(16, 16), "bias": jnp.zeros(16)}}
    rigl = jp.methods.rigl(sparsity=0.5, every=2, end=10)
    transform = jp.sparsify(optax.sgd(0.1, momentum=0.9), rigl, key=jax.random.key(0))
    states = [
        trained(transform, params, lambda p, _: jax.tree.map(jnp.ones_like, p), n) for n in (2, 3)
    ]
    (before, old), (after, new) = states
    grown = jp.masks_of(new)["dense"]["kernel"] & ~jp.masks_of(old)["dense"]["kernel"]
    momentum = jnp.abs(new.inner[0].trace["dense"]["kernel"][grown]).max()
    still = bool((before["dense"]["bias"] == after["dense"]["bias"]).all())
    return f"momentum {float(momentum):g}, biases {'stand still' if still else 'move'}"


@probe("trainers that read opt_state.gradient_step with sparsify outermost (nanodo)")
def _():
    import optax

    import jaxprune as jp

    gmp = jp.methods.gmp(sparsity=0.5, **EVERY)
    transform = jp.sparsify(optax.MultiSteps(optax.sgd(0.1), 2), gmp)
    _, state = trained(transform, {"w": weights(8, 8)}, lambda p, _: p, 4)
    return f"gradient_step {int(state.gradient_step)}"


@probe("averaged(sparsify(...)): removed weights that the average still has")
def _():
    import optax

    import jaxprune as jp

    gmp = jp.methods.gmp(sparsity=0.5, **EVERY)
    transform = jp.averaged(jp.sparsify(optax.sgd(0.1), gmp), 0.9)
    params, state = trained(transform, {"w": weights(16, 16)}, lambda p, _: p, 8)
    average = jp.average_of(params, state)["w"]
    mask = jp.masks_of(state)["w"]
    return f"{int((~mask & (average != 0)).sum())} of {int((~mask).sum())}"


@probe("hand-written shard_map, parameters split over four devices")
def _():
    import jax
    import jax.numpy as jnp
    import optax
    from jax.sharding import PartitionSpec

    import jaxprune as jp

    split = PartitionSpec("d")
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    params = {"w": weights(16, 16) * jnp.arange(1.0, 17)[:, None]}
    transform = jp.sparsify(optax.sgd(0.0), jp.methods.magnitude(sparsity=0.5))
    specs = jax.tree.map(
        lambda x: split if x.ndim == 2 else PartitionSpec(), transform.init(params)
    )

    def update(p, s):
        return transform.update(p, s, p)

    run = jax.shard_map(update, mesh=mesh, in_specs=(split, specs), out_specs=(split, specs))
    mask = jp.masks_of(jax.jit(run)(params, transform.init(params))[1])["w"]
    return f"kept by quarters {mask.reshape(4, -1).sum(1).tolist()}"


@probe("remove 20 weights, not a fraction; then a fifth of what remains")
def _():
    import jaxprune as jp

    by_number = jp.methods.magnitude(sparsity=0.0, allocation=jp.allocation.removing(20))
    params, masks = jp.prune({"w": weights(10, 10)}, by_number)
    fifth = jp.methods.magnitude(sparsity=0.2)
    _, fewer = jp.prune(params, fifth, masks=masks, of_remaining=True)
    return f"{int(masks['w'].sum())}, then {int(fewer['w'].sum())} of 100"


@probe("a schedule without an end; dense training through the same transform; ER without kernel")
def _():
    import jaxprune as jp

    schedule = jp.schedules.constant(sparsity=0.5, begin=3, every=2)
    jp.methods.none(), jp.allocation.erk(kernel=False)
    return f"due at 10**9 + 1: {bool(schedule.due(10**9 + 1))}"


@probe("is it 2:4? blocks by their maximum")
def _():
    import jaxprune as jp

    pattern = jp.patterns.groups(4)
    params, _ = jp.prune({"w": weights(8, 8)}, jp.methods.magnitude(sparsity=0.5, pattern=pattern))
    jp.metrics.check_nm(params, 2, 4)
    jp.patterns.block((2, 2), reduce="max")
    return "checked"


def answers() -> dict[str, str]:
    """What each probe says."""
    answer_by_report = {}
    for report, function in PROBES.items():
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                answer_by_report[report] = function()
        except Exception as error:  # that is the answer
            message = " ".join(str(error).split())
            answer_by_report[report] = (
                f"{type(error).__name__}: {message[:150]}{'...' if len(message) > 150 else ''}"
            )
        print(f"{report}: {answer_by_report[report]}", flush=True)
    return answer_by_report


def table(files: list[Path], names: list[str]) -> str:
    """The answers of two checkouts side by side."""
    before, after = (json.loads(file.read_text()) for file in files)

    def cell(text):
        return text.replace("|", "\\|")

    rows = [
        f"| {cell(report)} | {cell(before.get(report, '-'))} | {cell(after[report])} |"
        for report in after
    ]
    return "\n".join(
        [
            "# Reports, before and after",
            "",
            "Generated by `python -m benchmarks.reports`: what users of pruning software and public trainers "
            "ran into, tried at two commits.",
            "",
            f"| report | before ({names[0]}) | after ({names[1]}) |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Answers the probes, or makes the table of two files of answers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--answers", type=Path, help="where to write what this checkout says")
    parser.add_argument("--table", type=Path, nargs=2, help="answers before and after")
    parser.add_argument("--names", nargs=2, default=("before", "after"), help="of the two commits")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/reports.md"))
    arguments = parser.parse_args()
    if arguments.answers:
        arguments.answers.write_text(json.dumps(answers(), indent=1) + "\n")
    if arguments.table:
        arguments.out.write_text(table(arguments.table, arguments.names))


if __name__ == "__main__":
    main()
