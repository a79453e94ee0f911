"""A compiled update needs little memory beside the dense one: the new masks, and 5 % of the parameters."""

import itertools
import re

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprune as jp

methods = jp.methods
ADAM = optax.adam(1e-3)
GRADUAL = {"begin": 0, "end": 1_000, "every": 100}
TICKET = jp.lottery.Plan(round_steps=100, rounds=3, rewind_to=10)
KEY = jax.random.key(0)
MANY = {f"layer_{i:02}": jax.ShapeDtypeStruct((256, 256), jnp.float32) for i in range(20)}
LARGE = {f"layer_{i}": jax.ShapeDtypeStruct((1024, 1024), jnp.float32) for i in range(3)}
TRANSFORMS = {
    "GMP": jp.sparsify(ADAM, methods.gmp(sparsity=0.9, **GRADUAL)),
    "GMP, global budget": jp.sparsify(ADAM, methods.global_magnitude(sparsity=0.9, **GRADUAL)),
    "RigL": jp.sparsify(ADAM, methods.rigl(sparsity=0.9, every=100, end=1_000), key=KEY),
    "SET": jp.sparsify(ADAM, methods.set_(sparsity=0.9, every=100, end=1_000), key=KEY),
    "SNFS": jp.sparsify(ADAM, methods.snfs(sparsity=0.9, every=100, end=1_000), key=KEY),
    "2:4": jp.sparsify(ADAM, methods.magnitude(sparsity=0.5, pattern=jp.patterns.groups(4))),
    "STE": jp.straight_through(ADAM, methods.ste(sparsity=0.9, end=1_000)),
    "SR-STE": jp.straight_through(ADAM, methods.sr_ste(sparsity=0.5, end=1_000)),
    "lottery ticket": jp.lottery_ticket(ADAM, methods.magnitude(sparsity=0.2), TICKET),
}
BAR = 0.30  # of the parameters: a byte for each float32, and 5 %


def size(tree):
    return sum(4 * leaf.size for leaf in jax.tree.leaves(tree))


def temporaries(tx, params, donated):
    """Bytes that a compiled step needs beside arguments and results, with gradients that cost nothing."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, params)
    compiled = jax.jit(step, donate_argnums=(0, 1) if donated else ())
    return compiled.lower(params, state, params).compile().memory_analysis().temp_size_in_bytes


def account_of(name, leaves, donated):
    """A case; hundreds of leaves whose places move compile for long, and are looked at once by default."""
    long = leaves == "many" and not donated and name in ("SNFS", "SET")
    label = f"{name}-{leaves}-{'donated' if donated else 'kept'}"
    params = {"many": MANY, "large": LARGE}[leaves]
    return pytest.param(name, params, donated, id=label, marks=[pytest.mark.slow] * long)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the account is XLA:CPU's")
@pytest.mark.parametrize(
    ("name", "params", "donated"),
    [account_of(*case) for case in itertools.product(TRANSFORMS, ("many", "large"), (False, True))],
)
def test_an_update_needs_the_masks_and_little_more(name, params, donated):
    more = temporaries(TRANSFORMS[name], params, donated) - temporaries(ADAM, params, donated)
    assert more <= BAR * size(params), f"{more / size(params):.3f} of the parameters"


def called_operations(text):
    """Operations of a lowered program, those of a function once for each call of it."""
    own: dict[str, int] = {}
    calls: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if start := re.match(r"\s*func\.func (?:public |private )?@([\w.\-]+)", line):
            name = start[1]
            own[name] = 0
            calls[name] = []
        elif call := re.search(r"\bcall @([\w.\-]+)", line):
            calls[name].append(call[1])
        elif "stablehlo." in line and "stablehlo.return" not in line:
            own[name] += 1

    def total(name):
        return own[name] + sum(map(total, calls[name]))

    return total("main")


@pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="elsewhere no leaves are visited in loops"
)
@pytest.mark.parametrize(
    ("name", "bar"), [("GMP", 130), ("GMP, global budget", 140), ("RigL", 230)]
)
def test_one_more_of_many_leaves_adds_few_operations(name, bar):
    """Time to compile grows with operations; visited one by one, a leaf of GMP had 295, of RigL 714."""
    tx = TRANSFORMS[name]

    def operations(leaf_count):
        params = {f"{i:02}": jax.ShapeDtypeStruct((8, 8), jnp.float32) for i in range(leaf_count)}
        state = jax.eval_shape(tx.init, params)
        return called_operations(jax.jit(tx.update).lower(params, state, params).as_text())

    assert operations(40) - operations(30) <= 10 * bar
