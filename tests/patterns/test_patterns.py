import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

PATTERNS = {
    "unstructured": jp.patterns.unstructured(),
    "2:4": jp.patterns.groups(4),
    "groups of 3, first axis": jp.patterns.groups(3, axis=0),
    "groups of 2, last axis": jp.patterns.groups(2, axis=-1),
    "per output": jp.patterns.groups(),
    "block": jp.patterns.block((4, 2)),
    "filters": jp.patterns.channel(),
    "inputs": jp.patterns.channel(-2),
}


@pytest.mark.parametrize("shape", [(12, 8), (3, 3, 8, 4)])
@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_loses_nothing(name, shape):
    pattern = PATTERNS[name]
    scores = jax.random.uniform(jax.random.key(0), shape)
    alive = pattern.to_groups(scores) > jnp.median(pattern.to_groups(scores))
    mask = pattern.from_groups(alive, shape)
    assert mask.shape == shape
    assert 0 < int(mask.sum()) < mask.size
    assert ((pattern.to_groups(mask.astype(jnp.float32)) > 0) == alive).all()


@pytest.mark.parametrize("name", PATTERNS)
def test_the_members_of_a_unit_share_their_fate(name):
    shape = (12, 8)
    pattern = PATTERNS[name]
    units = pattern.to_groups(jnp.ones(shape))
    one = jnp.zeros(units.shape, bool).at[(0,) * units.ndim].set(True)
    mask = pattern.from_groups(one, shape)
    assert int(mask.sum()) == mask.size // units.size
    assert float(pattern.to_groups(mask.astype(jnp.float32)).sum()) == float(mask.sum())


def test_groups_run_along_the_reduction_axis():
    kernel = jnp.arange(16.0).reshape(8, 2)  # column 0 holds the even numbers
    pattern = jp.patterns.groups(4)
    axis = pattern.contests((8, 2)).axis
    units = jnp.moveaxis(pattern.to_groups(kernel), axis, -1).reshape(-1, 4)
    assert units.tolist()[0] == [0.0, 2.0, 4.0, 6.0]


def test_axes_count_from_either_side():
    for axis in (0, -2):
        pattern = jp.patterns.groups(4, axis=axis)
        units = pattern.to_groups(jnp.zeros((8, 3)))
        assert units.shape == (2, 4, 3)
        assert units.shape[pattern.contests((8, 3)).axis] == 4
    assert jp.patterns.groups(axis=0).contests((2, 3, 4)).axis == (0,)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            jp.patterns.groups(4),
            r"'a/kernel' has 30 weights along axis -2.*exclude it.*use m=2, 3, 5",
        ),
        (jp.patterns.groups(4, axis=5), "no such axis"),
        (jp.patterns.block((4, 2)), "block"),
        (jp.patterns.channel(3), "no such axis"),
    ],
)
def test_leaves_that_do_not_fit_are_refused_before_tracing(pattern, message):
    params = {"a": {"kernel": jnp.ones((30, 8))}}
    method = jp.methods.magnitude(sparsity=0.5, pattern=pattern)
    with pytest.raises(ValueError, match=message):
        jp.prune(params, method)


def test_two_of_four():
    kernel = jax.random.normal(jax.random.key(0), (16, 6))
    _, masks = jp.prune(
        {"w": kernel}, jp.methods.magnitude(sparsity=0.5, pattern=jp.patterns.groups(4))
    )
    per_group = masks["w"].reshape(4, 4, 6).sum(1)
    assert (per_group == 2).all()
    kept = jnp.where(masks["w"], jnp.abs(kernel), jnp.inf).reshape(4, 4, 6).min(1)
    lost = jnp.where(masks["w"], 0, jnp.abs(kernel)).reshape(4, 4, 6).max(1)
    assert (kept >= lost).all()


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
@pytest.mark.parametrize("shape", [(4, 4), (5, 7), (3, 3, 3, 5), (1, 1)])
def test_blocks_that_are_cut_off_at_the_end_by_hand(shape, reduce):
    weights = jax.random.normal(jax.random.key(0), shape)
    pattern = jp.patterns.block((2, 3), reduce=reduce, pad=True)
    assert pattern.check(shape) is None
    found = np.asarray(pattern.to_groups(weights))
    inputs, outputs = shape[-2:]
    expected = np.stack(
        [
            getattr(np, reduce)(np.asarray(weights)[..., i : i + 2, o : o + 3], axis=(-2, -1))
            for i in range(0, inputs, 2)
            for o in range(0, outputs, 3)
        ],
        -1,
    )
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-5)
    alive = found > np.median(found)
    mask = np.asarray(pattern.from_groups(jnp.asarray(alive), shape))
    assert mask.shape == shape
    for i in range(inputs):
        for o in range(outputs):
            assert (mask[..., i, o] == alive[..., i // 2, o // 3]).all()


def test_blocks_of_merged_axes_are_padded_at_their_end():
    kernel = jp.Axes(in_axis=0, out_axis=(1, 2))
    weights = jnp.arange(2.0 * 3 * 5).reshape(2, 3, 5)
    pattern = jp.patterns.block((1, 4), pad=True)
    found = pattern.to_groups(weights, kernel)
    flat = np.pad(np.asarray(weights).reshape(2, 15), [(0, 0), (0, 1)])
    np.testing.assert_allclose(found, flat.reshape(2, 4, 4).sum(-1))
    mask = pattern.from_groups(found > found.mean(), weights.shape, kernel)
    assert mask.shape == weights.shape


def test_other_reductions_and_ragged_blocks_are_refused():
    with pytest.raises(ValueError, match="'sum', 'mean' or 'max'"):
        jp.patterns.block((2, 2), reduce="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pad=True"):
        jp.prune(
            {"w": jnp.ones((5, 4))},
            jp.methods.magnitude(sparsity=0.5, pattern=jp.patterns.block((2, 2))),
        )
