"""Sharded scores give the same bits as unsharded ones, and no parameter travels to select."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxprune.selection import top, top_along, top_each

SPECS = {
    (512, 96): P("data", "model"),
    (3, 3, 8, 64): P(None, None, None, "model"),
    (4096,): P(("data", "model")),
    (50, 7): P(),
}
MESHES = [(2, 1), (4, 2)]  # against one device without a mesh
COLLECTIVE = r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
SECTIONS = [((512, 96), 0), ((512, 96), 1), ((3, 3, 8, 64), 2), ((3, 3, 8, 64), (0, 3))]


def test_on_eight_devices():
    """Starts this file again, with eight devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def check():
    rng = np.random.default_rng(0)
    scores = [rng.standard_normal(shape, np.float32) for shape in SPECS]
    tied = [np.round(4 * x) for x in scores]
    numbers = np.float32([np.inf, np.inf, -np.inf, np.nan, 1e-41, -1e-41, 0.0, -0.0, 1.0])
    special = [rng.choice(numbers, shape) for shape in SPECS]
    for kind in (AxisType.Auto, AxisType.Explicit):
        for size in MESHES:
            mesh = jax.make_mesh(size, ("data", "model"), (kind, kind))
            agree(lambda leaves: top(leaves, 6000), [scores, tied, special], mesh, most=8192)
            each = lambda leaves: top_each(leaves, [99, 500, 4096, 0])  # of two, all and none
            agree(each, [scores, tied, special], mesh, most=8192)
        for shape, axis in SECTIONS:
            cases = [case[list(SPECS).index(shape)] for case in (tied, special)]
            contest_size = int(np.prod([shape[i] for i in np.atleast_1d(axis)]))
            most = 4 * cases[0].size // contest_size
            agree(lambda x, axis=axis: [top_along(x, 3, axis)], cases, mesh, most)

    rows = jax.device_put(scores[0], NamedSharding(mesh, P("data", "model")))
    one_each = jax.jit(jax.vmap(lambda x: top([x], 5)[0]))(rows)
    assert (one_each == top_along(rows, 5, 1)).all()
    local = jax.shard_map(
        lambda x: top([x], 9)[0] & top_along(x, 48, 1),
        mesh=mesh,
        in_specs=P("data", "model"),
        out_specs=P("data", "model"),
    )
    assert local(rows).sum() == 8 * 9


def agree(select, cases, mesh, most):
    """Same bits and sharding on a mesh, and no collective of more than `most` elements."""
    put = lambda x: jax.device_put(x, NamedSharding(mesh, SPECS[x.shape]))
    compiled = jax.jit(select).lower(jax.tree.map(put, cases[0])).compile()
    for result, name in re.findall(COLLECTIVE, compiled.as_text()):
        elements = [np.prod([int(n) for n in d.split(",") if n]) for d in shapes_in(result)]
        assert name != "all-gather", result
        assert max(elements) <= most, (name, result)
    for case in cases:
        masks = compiled(jax.tree.map(put, case))
        for mask, expected in zip(masks, select(case), strict=True):
            np.testing.assert_array_equal(np.asarray(mask), np.asarray(expected))
            sharding = NamedSharding(mesh, SPECS[mask.shape])
            assert mask.sharding.is_equivalent_to(sharding, mask.ndim), (mask.shape, mask.sharding)


def shapes_in(result):
    return re.findall(r"\[([\d,]*)\]", result)


if __name__ == "__main__":
    check()
