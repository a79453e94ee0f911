"""Pruned weights are those of the parameters, whatever type the network computes in and what scales them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.posttrain import solvers

BATCH = np.asarray(jax.random.normal(jax.random.key(1), (6, 16)))
W = np.asarray(jax.random.normal(jax.random.key(0), (16, 8)))
MAGNITUDE = solvers.by_criterion(jp.criteria.magnitude)


def pruned(apply, params, sparsity=0.5, solver=MAGNITUDE):
    plan = jp.posttrain.plan(apply, params, BATCH)
    found = jp.posttrain.prune(plan, params, [BATCH], solver=solver, rates=sparsity)
    return found.params, found.masks


NETWORKS = {
    "computed in bfloat16": lambda p, x: x.astype(jnp.bfloat16) @ p["w"].astype(jnp.bfloat16),
    "scaled": lambda p, x: x @ (p["w"] * 0.3),
    "both": lambda p, x: x.astype(jnp.bfloat16) @ (0.3 * p["w"].astype(jnp.bfloat16)),
    "turned": lambda p, x: x.astype(jnp.bfloat16) @ p["w"].T.astype(jnp.bfloat16).reshape(8, 16).T,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_kept_weights_keep_their_bits(name):
    for sparsity in (0.0, 0.5):
        new, masks = pruned(NETWORKS[name], {"w": W}, sparsity)
        kept = np.asarray(masks["w"])
        assert kept.sum() == round(W.size * (1 - sparsity))
        np.testing.assert_array_equal(new["w"], np.where(kept, W, 0))
    by_size = np.abs(W) > np.median(np.abs(W))  # not by size in bfloat16, of which some are equal
    np.testing.assert_array_equal(kept, by_size)


def test_parameters_of_two_types_side_by_side():
    params = {"a": W, "b": jnp.asarray(W[:, :4] + 1, jnp.bfloat16)}

    def apply(p, x):
        return x.astype(jnp.bfloat16) @ jnp.concatenate([p["a"].astype(jnp.bfloat16), p["b"]], 1)

    new, masks = pruned(apply, params)
    for name, old in params.items():
        assert new[name].dtype == old.dtype
        np.testing.assert_array_equal(new[name], np.where(masks[name], old, 0))


def test_new_weights_are_not_rounded():
    new, masks = pruned(NETWORKS["computed in bfloat16"], {"w": W}, solver=solvers.sparsegpt())
    moved = np.asarray(new["w"])[np.asarray(masks["w"])]
    rounded = np.asarray(jnp.asarray(moved, jnp.bfloat16), np.float32)
    assert (moved != rounded).mean() > 0.9


def test_what_is_written_is_finite():
    def solver(kernels, contests, **_):
        ones = [jnp.ones_like(kernel) for kernel in kernels]
        return [solvers.Solved(each, each > 0, jnp.zeros(len(each))) for each in ones]

    with pytest.raises(ValueError, match=r"'w' are NaN or infinity in float16.*exclude="):
        pruned(
            lambda p, x: x @ (p["w"].astype(jnp.float32) * 1e-6),
            {"w": W.astype(np.float16)},
            solver=solver,
        )
    apply = lambda p, x: x @ (p["w"] * 1e-42)
    for solver in (MAGNITUDE, solvers.sparsegpt()):
        with pytest.raises(ValueError, match="'w' are NaN or infinity in float32"):
            pruned(apply, {"w": W}, solver=solver)
