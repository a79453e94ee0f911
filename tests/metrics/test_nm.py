import jax
import jax.numpy as jnp
import pytest

import jaxprune as jp

PARAMS = {
    "a": {"kernel": jax.random.normal(jax.random.key(0), (8, 6)), "bias": jnp.ones(6)},
    "conv": jax.random.normal(jax.random.key(1), (3, 3, 8, 4)),
}


def pruned(m=4, sparsity=0.5):
    return jp.prune(PARAMS, jp.methods.magnitude(sparsity=sparsity, pattern=jp.patterns.groups(m)))


def test_what_is_pruned_in_groups_is_nm_sparse():
    for tree in (*pruned(), jp.masks.pack(pruned()[1])):
        jp.metrics.check_nm(tree, 2, 4)
        assert jp.metrics.nm_faults(tree, 2, 4) == {"a/kernel": 0, "conv": 0}
        assert jp.metrics.nm_faults(tree, 1, 4) == {"a/kernel": 12, "conv": 72}


def test_groups_that_are_not_are_counted_and_named():
    params, masks = pruned()
    params["a"]["kernel"] = params["a"]["kernel"].at[:4, 2].set(1.0).at[4:, :2].set(1.0)
    assert jp.metrics.nm_faults(params, 2, 4) == {"a/kernel": 3, "conv": 0}
    with pytest.raises(ValueError, match=r"'a/kernel' has 3 of 12 groups of 4 .* not 2:4 sparse"):
        jp.metrics.check_nm(params, 2, 4)
    jp.metrics.check_nm(params, 2, 4, prunable="conv")
    masks["conv"] = jnp.ones_like(masks["conv"])
    with pytest.raises(ValueError, match=r"'conv' has 72 of 72 groups"):
        jp.metrics.check_nm(masks, 2, 4)
    jp.metrics.check_nm(masks, 2, 4, prunable="kernel")


def test_groups_lie_along_the_inputs_of_the_program():
    query = {"query": jnp.zeros((8, 2, 3)).at[:2].set(1.0).at[4:6].set(1.0)}
    axes = {"query": jp.Axes(in_axis=0, out_axis=(1, 2))}
    jp.metrics.check_nm(query, 2, 4, axes=axes)
    turned = {"query": query["query"].T}
    assert jp.metrics.nm_faults(turned, 2, 4, axes={"query": jp.Axes(2, (0, 1))}) == {"query": 0}
    with pytest.raises(ValueError, match="which are inputs"):
        jp.metrics.check_nm(query, 2, 4, prunable="query")


def test_leaves_without_such_groups_and_numbers_without_sense_are_refused():
    with pytest.raises(ValueError, match="not a multiple of 3"):
        jp.metrics.check_nm(PARAMS, 1, 3)
    with pytest.raises(ValueError, match="1 <= n <= m"):
        jp.metrics.check_nm(PARAMS, 5, 4)


def test_numbers_among_the_parameters_are_no_kernels():
    assert jp.metrics.nm_faults({"kernel": jnp.ones((4, 2)), "scale": 0.5}, 2, 4) == {"kernel": 2}
