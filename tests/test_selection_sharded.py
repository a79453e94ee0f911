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

from jaxprune.selection import top, top_along

SPECS = {
    (512, 96): P("data", "model"),
    (96, 256): P(None, "model"),
    (300, 8): P("data", None),
    (3, 3, 8, 64): P(None, None, None, "model"),
    (4096,): P(("data", "model")),
    (50, 7): P(),
}
MESHES = [(1, 1), (2, 1), (4, 2)]  # 1, 2 and 8 devices
SECTIONS = [((512, 96), 0), ((512, 96), 1), ((300, 8), 1), ((3, 3, 8, 64), 2), ((4096,), 0)]


def test_on_eight_devices():
    """Starts this file again, with eight devices."""
    flags = "--xla_force_host_platform_device_count=8"
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
    ks = [1, sum(x.size for x in scores) // 7]
    over_all = [[top(leaves, k) for k in ks] for leaves in (scores, tied)]
    sections = [top_along(tied[list(SPECS).index(s)], 3, axis) for s, axis in SECTIONS]

    for kind in (AxisType.Auto, AxisType.Explicit):
        for size in MESHES:
            mesh = jax.make_mesh(size, ("data", "model"), (kind, kind))
            place = lambda x, mesh=mesh: jax.device_put(x, NamedSharding(mesh, SPECS[x.shape]))
            for leaves, expected in zip((scores, tied), over_all, strict=True):
                for k, masks in zip(ks, expected, strict=True):
                    same(top([place(x) for x in leaves], k), masks, mesh)
                    if size == (4, 2):
                        same(jax.jit(top)([place(x) for x in leaves], k), masks, mesh)
            for (shape, axis), mask in zip(SECTIONS, sections, strict=True):
                x = place(tied[list(SPECS).index(shape)])
                same([top_along(x, 3, axis)], [mask], mesh)
        travels_at_most(8192, top, [place(x) for x in scores], 5)
        for shape, axis in SECTIONS:
            x = place(scores[list(SPECS).index(shape)])
            travels_at_most(4 * x.size // shape[axis], top_along, x, 5, axis)


def same(masks, expected, mesh):
    for got, want in zip(masks, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(got), np.asarray(want))
        sharding = NamedSharding(mesh, SPECS[got.shape])
        assert got.sharding.is_equivalent_to(sharding, got.ndim), (mesh, got.shape, got.sharding)


def travels_at_most(size, select, leaves, *rest):
    """No all-gather at all, and no other collective of more than `size` elements."""
    jitted = jax.jit(lambda leaves: select(leaves, *rest))
    hlo = jitted.lower(leaves).compile().as_text()
    collective = r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)"
    for result, name in re.findall(collective, hlo):
        elements = [np.prod([int(n) for n in d.split(",") if n]) for d in shapes_in(result)]
        assert name != "all-gather", result
        assert max(elements) <= size, (name, result)


def shapes_in(result):
    return re.findall(r"\[([\d,]*)\]", result)


if __name__ == "__main__":
    check()
