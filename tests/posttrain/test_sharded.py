"""The same masks on one, two and eight devices, on meshes of both kinds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import jaxprune as jp
from jaxprune.posttrain import solvers

draw = lambda i, *shape: np.asarray(jax.random.normal(jax.random.key(i), shape), np.float32) / 3
params = {"up": draw(0, 2, 8, 16), "down": draw(1, 2, 16, 8)}
layer = lambda x, p: (x + jax.numpy.tanh(x @ p["up"]) @ p["down"], None)
apply = lambda params, x: jax.lax.scan(layer, x, params)[0]
batches = [draw(i, 64, 8) for i in (2, 3)]
runs = [
    {"solver": solvers.by_criterion(jp.criteria.wanda), "pattern": jp.patterns.unstructured()},
    {"solver": solvers.sparsegpt(), "pattern": jp.patterns.groups(4)},
    {"solver": solvers.sparsegpt(), "pattern": jp.patterns.groups(4), "propagate": 0.5},
]

def masks(params, batches):
    plan = jp.posttrain.plan(apply, params, batches[0])
    found = [jp.posttrain.prune(plan, params, batches, **options) for options in runs]
    for each in found:
        for name, leaf in params.items():
            if isinstance(leaf, jax.Array):
                assert each.params[name].sharding.is_equivalent_to(leaf.sharding, 3)
    return [np.asarray(leaf) for each in found for leaf in jax.tree.leaves(each.masks)]

alone = masks(params, batches)
for count in (2, 8):
    for kind in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((count,), ("data",), axis_types=(kind,), devices=jax.devices()[:count])
        place = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))
        along = "data" if kind is AxisType.Auto else None
        kernels = {name: place(leaf, None, None, along) for name, leaf in params.items()}
        found = masks(kernels, [place(x, "data") for x in batches])
        for one, other in zip(alone, found):
            assert (one == other).all(), (count, kind)
"""


@pytest.mark.slow
def test_the_same_masks_on_any_mesh():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, env=environment, cwd=root)
