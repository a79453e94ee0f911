"""Training steps of convolutional networks on CPU: inside `lax.scan` and one call at a time.

Bar: with the reference models' own convolution, a step inside the scan costs at most 1.1 times that
of a Python loop; with plain autodiff it costs many times more.
Run: python -m benchmarks.scan_conv
"""

import statistics
import time
from contextlib import ExitStack
from functools import partial
from unittest import mock

import flax.linen as nn
import jax
import optax
from jax import lax

import jaxprune.nn as models

STEPS, BATCH, ROUNDS = 4, 60, 3
MODELS = {"lenet5_caffe": (28, 28, 1), "conv_2": (32, 32, 3), "resnet20": (32, 32, 3)}
MAX_POOL = partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))


def main() -> None:
    for name in MODELS:
        times = measure(name)
        base = times["loop, canonical"]
        print(f"{name}, batch {BATCH}, Adam: one step in a loop {1e3 * base:.1f} ms")
        for variant, seconds in times.items():
            print(f"  {variant:34} {seconds / base:6.2f}")


def measure(name: str) -> dict[str, float]:
    """Returns the median seconds per step of each variant, measured in turns."""
    variants = {
        "loop, canonical": loop(*training(name)),
        "scan, canonical": scan(*training(name)),
        "loop, autodiff": loop(*training(name, conv=lax.conv_general_dilated)),
        "scan, autodiff": scan(*training(name, conv=lax.conv_general_dilated)),
    }
    if name != "resnet20":
        variants["loop, canonical, nn.max_pool"] = loop(*training(name, pool=MAX_POOL))
        variants["scan, canonical, nn.max_pool"] = scan(*training(name, pool=MAX_POOL))
    times = {variant: [] for variant in variants}
    for run in variants.values():
        run()  # compile
    for _ in range(ROUNDS):
        for variant, run in variants.items():
            start = time.perf_counter()
            run()
            times[variant].append((time.perf_counter() - start) / STEPS)
    return {variant: statistics.median(seconds) for variant, seconds in times.items()}


def training(name: str, conv=None, pool=None):
    """Returns a training step, its first state, and its batches."""
    model, shape = getattr(models, name)(), MODELS[name]
    images = jax.random.normal(jax.random.key(0), (STEPS, BATCH, *shape))
    labels = jax.random.randint(jax.random.key(1), (STEPS, BATCH), 0, 10)
    variables = jax.jit(model.init)(jax.random.key(2), images[0])
    params, tx = variables.pop("params"), optax.adam(1e-3)

    def loss(params, x, y):
        with replaced(conv, pool):
            logits, _ = model.apply(
                {"params": params, **variables}, x, train=True, mutable=["batch_stats"]
            )
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(state, batch):
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, *batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return step, (params, tx.init(params)), (images, labels)


def replaced(conv, pool):
    """While tracing, puts other functions in place of those that the models use."""
    wanted = {"conv_for_backend": conv, "max_pool_2x2": pool}
    stack = ExitStack()
    for module in (models.lenet, models.conv, models.resnet):
        for attribute, function in wanted.items():
            if function is not None and hasattr(module, attribute):
                stack.enter_context(mock.patch.object(module, attribute, function))
    return stack


def loop(step, state, batches):
    step = jax.jit(step)
    batches = [jax.tree.map(lambda leaf, i=i: leaf[i], batches) for i in range(STEPS)]

    def run():
        current = state
        for batch in batches:
            current, _ = step(current, batch)
        jax.block_until_ready(current)

    return run


def scan(step, state, batches):
    steps = jax.jit(lambda state, batches: lax.scan(step, state, batches))
    return lambda: jax.block_until_ready(steps(state, batches))


if __name__ == "__main__":
    main()
