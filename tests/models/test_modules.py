"""NNX modules are pruned as functions of their parameters, and come back as modules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp
from jaxprune.models import from_nnx


class Attention(nnx.Module):
    """Kernels of three axes, [inputs, heads, head_dim] and back, as bonsai and tunix have them."""

    def __init__(self, rngs):
        self.up = nnx.Einsum("btd,dnh->btnh", (8, 2, 6), rngs=rngs)
        self.down = nnx.Einsum("btnh,nhd->btd", (2, 6, 8), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.down(jnp.tanh(self.up(x)))))


X = jax.random.normal(jax.random.key(0), (2, 4, 8))


def test_a_module_is_pruned_along_its_inputs_and_put_together_again():
    module = Attention(nnx.Rngs(0))
    apply, params, merge = from_nnx(module)
    before = jax.jit(apply)(params, X)
    np.testing.assert_array_equal(
        before, jax.jit(apply)(params, X), "no dropout, no new statistics"
    )

    axes = jp.axes(apply, params, X)
    method = jp.methods.magnitude(sparsity=0.5, pattern=jp.patterns.groups(4))
    pruned, _ = jp.prune(params, method, axes=axes)
    up = np.asarray(pruned["up"]["kernel"][...])
    assert ((up.reshape(2, 4, 2, 6) != 0).sum(1) == 2).all(), "2:4 along the eight inputs"
    down = np.asarray(pruned["down"]["kernel"][...])
    assert ((down.reshape(3, 4, 8) != 0).sum(1) == 2).all(), "2:4 along heads and channels as one"

    put = merge(pruned)
    assert isinstance(put, Attention)
    assert not put.dropout.deterministic, "in the mode that it was in"
    np.testing.assert_array_equal(put.up.kernel[...], up)
    assert (np.asarray(module.up.kernel[...]) != 0).all(), "the module stays as it is"
    put.eval()
    np.testing.assert_allclose(
        nnx.jit(lambda m, x: m(x))(put, X), jax.jit(apply)(pruned, X), atol=1e-6
    )


def test_a_call_of_ones_own():
    apply, params, _ = from_nnx(Attention(nnx.Rngs(0)), call=lambda m, x: m.up(x))
    assert jax.eval_shape(apply, params, X).shape == (2, 4, 2, 6)


def test_what_is_no_module_or_has_nothing_to_prune_is_refused():
    with pytest.raises(TypeError, match=r"no nnx.Module; of a linen module, give lambda"):
        from_nnx({"w": X})
    with pytest.raises(ValueError, match=r"no nnx.Param"):
        from_nnx(nnx.Dropout(0.5, rngs=nnx.Rngs(0)))
