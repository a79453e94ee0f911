"""Pruning and shrinking arrays of one device compiles no program for each of their shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import criteria, structured
from jaxprune.units.coupling import Coupled


def residual(widths):
    """A function of residual blocks of 3x3 convolutions, each of another width, its parameters and input."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape).astype(np.float32))
    params = {"stem": {"kernel": draw(3, 3, 3, 8)}, "head": {"kernel": draw(8, 5)}}
    for i, width in enumerate(widths):
        kernels = {"kernel": draw(3, 3, 8, width), "bias": draw(width)}
        params[f"block{i}"] = {"in": kernels, "out": {"kernel": draw(3, 3, width, 8)}}

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def apply(params, x):
        x = conv(x, params["stem"]["kernel"])
        for i in range(len(widths)):
            own = params[f"block{i}"]
            y = jax.nn.relu(conv(x, own["in"]["kernel"]) + own["in"]["bias"][None, None, None])
            x = x + conv(y, own["out"]["kernel"])
        return x.mean((1, 2)) @ params["head"]["kernel"]

    return apply, params, draw(1, 6, 6, 3)


def programs_compiled(widths, criterion):
    apply, params, x = residual(widths)
    graph, events = structured.trace(apply, params, x), []
    listen = lambda event, *_, **__: events.append(event)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        masks = structured.prune(graph, params, sparsity=0.5, criterion=criterion)
        structured.shrink(graph, params, masks)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return sum(event.endswith("backend_compile_duration") for event in events)


@pytest.mark.parametrize("widths", [(4, 6), (5, 7, 9, 11, 13)])
def test_magnitudes_compile_nothing(widths):
    assert programs_compiled(widths, criteria.magnitude) == 0


@pytest.mark.parametrize("widths", [(10, 12), (15, 17, 19, 21, 23)])
def test_other_criteria_compile_one_program(widths):
    assert programs_compiled(widths, criteria.l2) == 1


@pytest.mark.parametrize("reduce", ["sum", "mean", "max", "norm", "absolute"])
def test_scores_are_those_of_a_compiled_program(reduce):
    apply, params, x = residual((4, 6))
    params["stem"]["kernel"] = params["stem"]["kernel"].at[0, 0, 0].set(1e-40)  # kept by both
    graph = structured.trace(apply, params, x)
    ours = structured.scores(graph, params, reduce=reduce)
    compiled = jax.jit(criteria.magnitude)
    # A maximum is none of the operations that NumPy may do, so this one is compiled.
    larger = lambda params, **_: jax.tree.map(lambda s: jnp.maximum(s, s), compiled(params))
    theirs = structured.scores(graph, params, criterion=larger, reduce=reduce)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("shape", [(7,), (300, 40), (40, 300), (3, 3, 33, 65), (9, 513, 8)])
def test_sums_are_those_of_rows_picked_one_by_one(shape):
    rng = np.random.default_rng(1)
    leaf = rng.normal(size=shape).astype(np.float32)
    for axis, size in enumerate(shape):
        for index in (np.arange(size)[:, None], rng.permutation(size // 2 * 2).reshape(-1, 2)):
            member = structured.Member("kernel", shape, axis, index)
            group = structured.Group("kernel", np.arange(len(index)), (member,))
            picked = np.moveaxis(leaf.astype(np.float64), axis, 0)[index]
            [found] = Coupled((group,)).units({"kernel": leaf})
            assert np.array_equal(found, picked.reshape(len(index), -1).sum(1))


def test_masks_are_numbers_inside_a_traced_function():
    apply, params, x = residual((4, 6))
    graph = structured.trace(apply, params, x)

    def small(x):
        masks = structured.prune(graph, params, sparsity=0.5)
        found = structured.shrink(graph, params, masks)
        return found.apply(found.params, x)

    np.testing.assert_allclose(jax.jit(small)(x), small(x), rtol=1e-5, atol=1e-5)
