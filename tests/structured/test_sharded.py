"""Pruned and shrunk parameters that lie on several devices: what comes of them on one."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxprune import structured


def test_on_two_devices():
    """Starts this file again, with two devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "12 equal\n"


def main():
    apply = lambda params, x: jax.nn.relu(x @ params["a"]) @ params["b"]
    keys = jax.random.split(jax.random.key(0))
    params = {"a": jax.random.normal(keys[0], (6, 8)), "b": jax.random.normal(keys[1], (8, 4))}
    graph = structured.trace(apply, params, jnp.ones((2, 6)))
    masks = structured.prune(graph, params, sparsity=0.5)
    more = {**masks, "a": masks["a"].at[0].set(False)}  # zeros that stay in the small kernel
    equal = 0
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((2,), ("devices",), axis_types=(kind,))
        for spec in (P(), P(None, "devices"), P("devices", None)):
            spread = jax.device_put(params, NamedSharding(mesh, spec))
            found = structured.prune(graph, spread, sparsity=0.5)
            assert jax.tree.all(jax.tree.map(np.array_equal, found, masks))
            for each in (found, more):
                small = structured.shrink(graph, spread, each).params
                alone = structured.shrink(graph, params, each).params
                equal += jax.tree.all(jax.tree.map(np.array_equal, small, alone))
    print(equal, "equal")


if __name__ == "__main__":
    main()
