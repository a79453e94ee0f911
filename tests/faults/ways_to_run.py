"""Trains in every way there is and prints a digest of the masks: method, weights, way, digest, by tabs.

A script of its own, since the number of devices is chosen before JAX starts.
"""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxprune as jp

KEY = jax.random.key(0)
STEPS = 7
EVERY = {"begin": 1, "end": 5, "every": 2}
METHODS = {
    "GMP": jp.methods.gmp(sparsity=0.9, **EVERY),
    "global": jp.methods.global_magnitude(sparsity=0.9, **EVERY),
    "2:4": jp.methods.gmp(sparsity=0.5, pattern=jp.patterns.groups(4), **EVERY),
    "RigL": jp.methods.rigl(sparsity=0.9, every=2, end=5),
}
SPECS = {"a": P("data"), "b": P(None, "data"), "bias": P()}


def weights(kind):
    rng = np.random.default_rng(0)
    shapes = {"a": (64, 32), "b": (32, 16), "bias": (16,)}
    if kind == "tied":
        return {n: rng.choice([-1.0, 0.5, 1.0], s).astype(np.float32) for n, s in shapes.items()}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def step_of(tx):
    def step(params, state):
        # Powers of two: the same bits however the compiler fuses.
        grads = jax.tree.map(lambda p: jnp.sign(p) * 0.5 + 0.25, params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


def digest(masks):
    found = hashlib.blake2b(digest_size=16)
    for mask in jax.tree.leaves(masks):
        found.update(np.asarray(mask).tobytes())
    return found.hexdigest()


def looped(tx, params, wrap):
    step, state = wrap(step_of(tx)), tx.init(params)
    for _ in range(STEPS):
        params, state = step(params, state)
    return jp.masks_of(state)


def scanned(tx, params):
    step = step_of(tx)
    state = tx.init(params)
    run = jax.jit(
        lambda carry: jax.lax.scan(lambda c, _: (step(*c), None), carry, None, length=STEPS)[0]
    )
    return jp.masks_of(run((params, state))[1])


def mapped(tx, params):
    """The second of two lanes; the first has other weights."""
    lanes = jax.tree.map(lambda p: jnp.stack([jnp.flip(p), p]), params)
    step = jax.jit(jax.vmap(step_of(tx)))
    state = jax.vmap(tx.init)(lanes)
    for _ in range(STEPS):
        lanes, state = step(lanes, state)
    return jax.tree.map(lambda mask: mask[1], jp.masks_of(state))


def sharded(tx, host, devices, kind):
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(kind,), devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        placed = {n: jax.device_put(w, NamedSharding(mesh, SPECS[n])) for n, w in host.items()}
        return looped(tx, placed, jax.jit)


def main():
    for name, method in METHODS.items():
        for kind in ("random", "tied"):
            host = weights(kind)
            params = jax.tree.map(jnp.asarray, host)
            tx = jp.sparsify(optax.sgd(0.125), method, key=KEY)
            ways = {
                "eager": lambda tx=tx, params=params: looped(tx, params, lambda step: step),
                "jit": lambda tx=tx, params=params: looped(tx, params, jax.jit),
                "scan": lambda tx=tx, params=params: scanned(tx, params),
                "vmap": lambda tx=tx, params=params: mapped(tx, params),
            }
            for devices in (1, 2, 8):
                for axis_type in (AxisType.Auto, AxisType.Explicit):
                    label = f"{devices} {axis_type.name}"
                    ways[label] = lambda tx=tx, host=host, devices=devices, axis_type=axis_type: (
                        sharded(tx, host, devices, axis_type)
                    )
            for way, masks in ways.items():
                print(name, kind, way, digest(masks()), sep="\t", flush=True)


if __name__ == "__main__":
    main()
