"""A sparse training run on 8 devices: the same masks as on one, sharded as the parameters are."""

import os
import subprocess
import sys

import pytest

QUICK = ("global", "rigl, 2:4", "sr-ste", "units")
SLOW = ("gmp", "2:4", "per output", "channels", "rigl", "snfs", "parts")


def main(names):
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    import jaxprune as jp

    rng = np.random.default_rng(0)
    host = {
        "a": rng.standard_normal((64, 32), np.float32),
        "b": rng.standard_normal((32, 16), np.float32),
        "bias": np.zeros(16, np.float32),
    }
    specs = {"a": P("data", "model"), "b": P(None, "model"), "bias": P()}
    every = {"begin": 1, "end": 5, "every": 2}
    forward = lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"] + p["bias"][None]
    graph = jp.structured.trace(forward, host, np.ones((1, 64), np.float32))
    units = jp.structured.coupled(graph)
    methods = {
        "units": jp.methods.gmp(sparsity=0.5, pattern=units, **every),
        "gmp": jp.methods.gmp(sparsity=0.9, **every),
        "global": jp.methods.gmp(sparsity=0.9, allocation=jp.allocation.global_budget(), **every),
        "2:4": jp.methods.gmp(sparsity=0.5, pattern=jp.patterns.groups(4), **every),
        "per output": jp.methods.gmp(sparsity=0.5, pattern=jp.patterns.groups(), **every),
        "channels": jp.methods.gmp(sparsity=0.5, pattern=jp.patterns.channel(), **every),
        "rigl": jp.methods.rigl(sparsity=0.9, every=2, end=5),
        "rigl, 2:4": jp.methods.rigl(
            sparsity=0.5,
            every=2,
            end=5,
            pattern=jp.patterns.groups(4),
            allocation=jp.allocation.uniform(),
        ),
        "snfs": jp.methods.snfs(sparsity=0.9, every=2, end=5),
        "sr-ste": jp.methods.sr_ste(sparsity=0.5, end=6),
        "parts": jp.partition(
            {
                "a": jp.methods.movement(sparsity=0.9, **every),
                "b": jp.methods.dsr(sparsity=0.5, every=2, end=5),
            }
        ),
    }

    def train(method, params):
        enforce = jp.straight_through if method.straight_through else jp.sparsify
        tx = enforce(optax.adam(1e-2), method, key=jax.random.key(0))
        state = tx.init(params)

        @jax.jit
        def step(params, state):
            grads = jax.tree.map(lambda p: jnp.sin(3 * p) + 0.1, params)
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        for _ in range(7):
            params, state = step(params, state)
        return jp.forward_params(params, state), jp.masks_of(state)

    for name in names:
        method = methods[name]
        expected = train(method, jax.tree.map(jnp.asarray, host))
        for kind in (AxisType.Auto, AxisType.Explicit):
            mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))
            with jax.set_mesh(mesh):
                placed = {
                    k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in host.items()
                }
                params, masks = train(method, placed)
            for leaf in ("a", "b"):
                same = np.array_equal(np.asarray(masks[leaf]), np.asarray(expected[1][leaf]))
                assert same, (name, kind, leaf)
                assert len(masks[leaf].sharding.device_set) == 8, (name, kind, leaf)
                assert masks[leaf].sharding.is_equivalent_to(placed[leaf].sharding, 2), (
                    name,
                    kind,
                    leaf,
                )
            jp.masks.check(params, masks)
        print(name, "ok", flush=True)


@pytest.mark.parametrize("names", [QUICK, pytest.param(SLOW, marks=pytest.mark.slow)])
def test_on_eight_devices(names):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, *names]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert done.stdout.count("ok") == len(names)


if __name__ == "__main__":
    main(sys.argv[1:])
