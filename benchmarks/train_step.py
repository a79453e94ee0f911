"""One training step with masks beside the dense step, in one process, in turns.

Dense, `fixed`, GMP and RigL with no update due, GMP with packed masks, the update itself, and training
straight through masks that are chosen anew in each step (exact top-k, 2:4 where layers allow it), for an MLP
(1.9M weights, batch 128, Adam), a CNN (LeNet-5, batch 64, momentum) and a transformer (3.3M weights, Adam).
And the optimizer's update alone, at 16.8M weights, where one read of the masks is all that masks can cost.

RigL holds all gradients until the masks may have changed, and so needs more temporary memory. With glibc's
defaults a program may get fresh pages for its temporaries in each call, depending on their size and on what
was freed before, which can cost more than the masks do. The second command keeps all freed memory and shows
what the programs themselves cost.

Run: python -m benchmarks.train_step   (writes results/benchmarks/train_step.json)
     MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=68719476736 python -m benchmarks.train_step \\
         --out results/benchmarks/train_step_heap.json
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxprune as jp
from benchmarks._timing import Timing, interleave, write

NEVER = 10**6


def mlp() -> tuple[Any, Callable[[Any], jax.Array], optax.GradientTransformation]:
    """Returns parameters, loss and optimizer of an MLP with three layers."""
    key = jax.random.key(0)
    sizes = (784, 1024, 1024, 10)
    keys = jax.random.split(key, 3)
    params = [
        {
            "kernel": jax.random.normal(layer_key, (input_count, output_count)) / input_count**0.5,
            "bias": jnp.zeros(output_count),
        }
        for layer_key, input_count, output_count in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    inputs = jax.random.normal(key, (128, 784))

    def loss(params):
        hidden = inputs
        for layer in params[:-1]:
            hidden = jax.nn.relu(hidden @ layer["kernel"] + layer["bias"])
        return jnp.mean((hidden @ params[-1]["kernel"] + params[-1]["bias"]) ** 2)

    return params, loss, optax.adam(1e-4)


def tasks() -> dict[str, tuple[Any, Callable[[Any], jax.Array], optax.GradientTransformation]]:
    """Returns name -> (parameters, loss, optimizer)."""
    key = jax.random.key(0)

    def cnn():
        model = jp.nn.lenet5_caffe()
        inputs = jax.random.uniform(key, (64, 28, 28, 1))
        params = model.init(key, inputs)["params"]

        def loss(variables):
            return jnp.mean(model.apply({"params": variables}, inputs) ** 2)

        return params, loss, optax.sgd(1e-3, momentum=0.9)

    def gpt():
        model = jp.nn.gpt(vocab_size=256, context=64)
        tokens = jax.random.randint(key, (4, 64), 0, 256)
        params = model.init(key, tokens)["params"]

        def loss(variables):
            return jnp.mean(model.apply({"params": variables}, tokens) ** 2)

        return params, loss, optax.adam(1e-4)

    return {"MLP": mlp(), "CNN": cnn(), "transformer": gpt()}


def variants(inner: optax.GradientTransformation, params: Any) -> dict[str, Any]:
    """Returns name -> transform."""
    _, masks = jp.prune(params, jp.methods.magnitude(sparsity=0.9))
    idle_gmp = jp.methods.gmp(sparsity=0.9, begin=NEVER, end=2 * NEVER, every=100)
    idle_rigl = jp.methods.rigl(sparsity=0.9, every=NEVER, end=2 * NEVER)
    ticket = jp.lottery.Plan(round_steps=NEVER, rounds=3)
    by_fours = all(leaf.shape[-2] % 4 == 0 for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
    n_of_m = {"sr-ste 2:4": jp.methods.sr_ste(sparsity=0.5, end=NEVER)} if by_fours else {}
    straight_through_methods = {"ste": jp.methods.ste(sparsity=0.9, end=NEVER), **n_of_m}
    return {
        "dense": inner,
        "fixed": jp.fixed(inner, masks),
        "gmp, idle": jp.sparsify(inner, idle_gmp),
        "gmp packed, idle": jp.sparsify(inner, idle_gmp, packed=True),
        "rigl, idle": jp.sparsify(inner, idle_rigl, key=jax.random.key(1)),
        "lottery ticket": jp.lottery_ticket(inner, jp.methods.magnitude(sparsity=0.2), ticket),
        "gmp, updating": jp.sparsify(
            inner, jp.methods.gmp(sparsity=0.9, begin=0, end=NEVER, every=1)
        ),
        "rigl, updating": jp.sparsify(
            inner, jp.methods.rigl(sparsity=0.9, every=1, end=NEVER), key=jax.random.key(1)
        ),
        **{
            name: jp.straight_through(inner, method)
            for name, method in straight_through_methods.items()
        },
    }


def stepper(
    transform: Any, params: Any, gradient: Callable[..., Any], *data: Any
) -> Callable[[], Any]:
    """Returns a function that makes one donated step each time it is called."""

    def step(params, state, *data):
        grads = gradient(jp.forward_params(params, state), *data)
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(step, donate_argnums=(0, 1))
    carry = [jax.tree.map(jnp.copy, (params, transform.init(params)))]

    def make_step():
        carry[0] = jitted(*carry[0], *data)
        return carry[0]

    return make_step


def compare(
    params: Any,
    inner: Any,
    gradient: Callable[..., Any],
    *data: Any,
    rounds: int,
    names: tuple[str, ...] = (),
) -> dict[str, Timing]:
    """Times the variants of one task in turns; those named, or all."""
    transforms = {
        name: transform
        for name, transform in variants(inner, params).items()
        if not names or name in names
    }
    steps = {
        name: stepper(transform, params, gradient, *data) for name, transform in transforms.items()
    }
    return interleave(steps, rounds=rounds)


BARS = {
    "fixed": 1.03,
    "gmp, idle": 1.03,
    "gmp packed, idle": 1.05,
    "rigl, idle": 1.03,
    "lottery ticket": 1.03,
    "rigl, updating": 2.2,  # an update costs at most 1.2 dense steps
    "ste": 1.3,
    "sr-ste 2:4": 1.3,
}


def main() -> None:
    """Prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/train_step.json"))
    parser.add_argument("--only", default="", help="part of a task's name")
    arguments = parser.parse_args()
    idle_names = ("dense", "fixed", "gmp, idle", "gmp packed, idle", "rigl, idle")
    timings_by_task = {}
    for name, (params, loss, inner) in tasks().items():
        if arguments.only not in name:
            continue
        names = () if name == "MLP" else idle_names
        timings_by_task[name] = compare(
            params, inner, jax.grad(loss), rounds=arguments.rounds, names=names
        )
    weights = {"w": jax.random.normal(jax.random.key(0), (4096, 4096))}
    grads = jax.tree.map(lambda weight: 1e-3 * weight, weights)

    def given_gradient(params, grads):
        return grads

    options = {"rounds": arguments.rounds, "names": ("dense", "fixed", "gmp packed, idle")}
    for name, inner in {"SGD": optax.sgd(1e-4), "Adam": optax.adam(1e-4)}.items():
        if arguments.only in f"{name} update alone":
            timings_by_task[f"{name} update alone"] = compare(
                weights, inner, given_gradient, grads, **options
            )
    for task, timings in timings_by_task.items():
        print(f"\n{task}: dense {1e3 * timings['dense'].seconds:.2f} ms")
        for name, timing in timings.items():
            bar = BARS.get(name) if "alone" not in task or "packed" in name else None
            verdict = (
                "" if bar is None else f"  bar {bar}: {'met' if timing.ratio <= bar else 'missed'}"
            )
            print(f"  {name:<20}{timing.ratio:6.3f} x dense{verdict}")
    plain_timings = {
        task: {
            name: {"seconds": timing.seconds, "ratio": timing.ratio}
            for name, timing in timings.items()
        }
        for task, timings in timings_by_task.items()
    }
    malloc = {
        variable: value for variable, value in os.environ.items() if variable.startswith("MALLOC_")
    }
    setting = {"rounds": arguments.rounds, "malloc": malloc, "bars": BARS}
    write(arguments.out, {**setting, "tasks": plain_timings}, "optax", "flax")


if __name__ == "__main__":
    main()
