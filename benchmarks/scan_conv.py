"""Training steps of convolutional networks on CPU: inside `lax.scan` and one call at a time.

Bar: with the reference models' own convolution, a step inside the scan costs at most 1.1 times that
of a Python loop; with plain autodiff it costs many times more. Variants run in turns in one process;
shown is the least seconds per step over the rounds, of wall clock and of CPU.

Run: python -m benchmarks.scan_conv lenet5_caffe conv_2 resnet20
"""

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from unittest import mock

import flax.linen as nn
import jax
import optax
from jax import lax

import jaxprune.nn as models

STEPS = 4
BATCH = 60
ROUNDS = 4
SHAPES = {"lenet5_caffe": (28, 28, 1), "conv_2": (32, 32, 3), "resnet20": (32, 32, 3)}
BASE = "loop, autodiff, nn.max_pool"  # what one writes without knowing of the trap
AUTODIFF = {"conv_for_backend": lax.conv_general_dilated}
MAX_POOL = {"max_pool_2x2": partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", choices=[*SHAPES, []], default=list(SHAPES)[:2])
    for name in parser.parse_args().models:
        seconds = measure(name)
        wall, cpu = seconds[BASE]
        print(f"{name}, batch {BATCH}, Adam; ratios to {BASE} ({wall:.3f} s, {cpu:.3f} CPU s)")
        for variant, (wall_here, cpu_here) in seconds.items():
            print(
                f"  {variant:30}{wall_here / wall:7.2f} wall{cpu_here / cpu:7.2f} CPU", flush=True
            )


def measure(name: str) -> dict[str, tuple[float, float]]:
    """Returns the least wall and CPU seconds per step of each variant."""
    variants = {
        BASE: loop(*training(name, AUTODIFF | MAX_POOL)),
        "loop, autodiff": loop(*training(name, AUTODIFF)),
        "loop, canonical": loop(*training(name, {})),
        "scan, canonical": scan(*training(name, {})),
        "scan, canonical, nn.max_pool": scan(*training(name, MAX_POOL)),
    }
    seconds = {variant: [] for variant in variants}
    for _ in range(1 + ROUNDS):
        for variant, run in variants.items():
            seconds[variant].append(timed(run))
    seconds["scan, autodiff"] = [timed(scan(*training(name, AUTODIFF)))]  # once: it takes minutes
    return {variant: tuple(map(min, zip(*each, strict=True))) for variant, each in seconds.items()}


def timed(run: Callable[[], None]) -> tuple[float, float]:
    wall = time.perf_counter()
    cpu = time.process_time()
    run()
    return (time.perf_counter() - wall) / STEPS, (time.process_time() - cpu) / STEPS


def training(name: str, replacements: dict[str, Callable]):
    """Returns a training step with some functions of the models replaced, its state, its batches."""
    model = getattr(models, name)()
    shape = SHAPES[name]
    images = jax.random.normal(jax.random.key(0), (STEPS, BATCH, *shape))
    labels = jax.random.randint(jax.random.key(1), (STEPS, BATCH), 0, 10)
    variables = jax.jit(model.init)(jax.random.key(2), images[0])
    params = variables.pop("params")
    transform = optax.adam(1e-3)

    def loss(params, x, y):
        with replaced(replacements):
            logits, _ = model.apply(
                {"params": params, **variables}, x, train=True, mutable=["batch_stats"]
            )
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    def step(state, batch):
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, *batch)
        updates, opt_state = transform.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    return step, (params, transform.init(params)), (images, labels)


def replaced(replacements: dict[str, Callable]) -> ExitStack:
    """While a model is traced, puts other functions in place of those that its module imports."""
    stack = ExitStack()
    for module in (models.lenet, models.conv, models.resnet):
        for name, function in replacements.items():
            if hasattr(module, name):
                stack.enter_context(mock.patch.object(module, name, function))
    return stack


def loop(step, state, batches) -> Callable[[], None]:
    batches = [jax.tree.map(lambda leaf, i=i: leaf[i], batches) for i in range(STEPS)]
    compiled = jax.jit(step).lower(state, batches[0]).compile()

    def run():
        current = state
        for batch in batches:
            current, _ = compiled(current, batch)
        jax.block_until_ready(current)

    return run


def scan(step, state, batches) -> Callable[[], None]:
    compiled = jax.jit(partial(lax.scan, step)).lower(state, batches).compile()
    return lambda: jax.block_until_ready(compiled(state, batches))


if __name__ == "__main__":
    main()
