"""Which scale multiplies which kernel's units."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        norm = lambda: nn.BatchNorm(use_running_average=True)
        short = nn.Conv(8, (1, 1), name="short")(x)
        x = nn.relu(norm()(nn.Conv(6, (3, 3), name="first", use_bias=False)(x)))
        x = norm()(nn.Conv(8, (3, 3), name="second")(x))
        x = nn.relu(x + short).mean((1, 2))
        return nn.LayerNorm()(nn.Dense(8, name="head")(x))


X = jnp.ones((2, 5, 5, 3))
VARIABLES = Block().init(jax.random.key(0), X)


def drawn(tree):
    keys = iter(jax.random.split(jax.random.key(1), 50))
    return jax.tree.map(lambda w: jax.random.normal(next(keys), w.shape), tree)


PARAMS = drawn(VARIABLES["params"])
apply = lambda params, x: Block().apply({**VARIABLES, "params": params}, x)


def test_batch_norms_of_a_residual_block():
    found = jp.signals.batchnorm_scales(apply, PARAMS, X)
    for name, norm in (("first", "BatchNorm_0"), ("second", "BatchNorm_1")):
        size = np.abs(PARAMS[norm]["scale"]).reshape(1, 1, 1, -1)
        np.testing.assert_array_equal(found[name]["kernel"], size)
    assert found["short"]["kernel"] is None
    assert found["head"]["kernel"] is None, "a LayerNorm scales what all units decide"
    assert [k for k, v in found.items() if jax.tree.leaves(v)] == ["first", "second"]


def test_under_jit_and_by_shapes():
    shapes = jax.ShapeDtypeStruct(X.shape, X.dtype)
    found = jp.signals.batchnorm_scales(jax.jit(apply), PARAMS, shapes)
    assert found["first"]["kernel"].shape == (1, 1, 1, 6)


def test_a_whole_resnet_is_found():
    model = jp.nn.resnet20(num_classes=10)
    x = jnp.ones((1, 32, 32, 3))
    variables = model.init(jax.random.key(0), x, train=False)
    run = lambda p, x: model.apply({**variables, "params": p}, x, train=False)
    found = jp.signals.batchnorm_scales(run, variables["params"], x)
    names = jp.masks.paths(variables["params"])
    pairs = zip(names, jp.masks.beside(variables["params"], found), strict=True)
    kernels = {
        n: v for n, v in pairs if n.endswith("kernel") and "Dense" not in n and "head" not in n
    }
    assert sum(v is not None for v in kernels.values()) >= 19


def test_slimming_prunes_the_channels_with_the_least_scales():
    known = jp.signals.gatherers([X], apply=apply)
    method = jp.Method(
        jp.criteria.bn_scale,
        schedule=jp.schedules.one_shot(sparsity=0.5),
        pattern=jp.patterns.channel(),
    )
    _, masks = jp.prune_on(PARAMS, method, known, prunable="(first|second)/kernel")
    for name, norm in (("first", "BatchNorm_0"), ("second", "BatchNorm_1")):
        scale = np.abs(PARAMS[norm]["scale"])
        kept = np.asarray(masks[name]["kernel"]).any((0, 1, 2))
        assert kept.sum() == len(scale) // 2
        assert scale[kept].min() > scale[~kept].max()


def test_kernels_without_a_scale_cannot_be_pruned_by_it():
    known = jp.signals.gatherers([X], apply=apply)
    method = jp.Method(jp.criteria.bn_scale, schedule=jp.schedules.one_shot(sparsity=0.5))
    with pytest.raises(ValueError, match="no scores for 'head/kernel', 'short/kernel'"):
        jp.prune_on(PARAMS, method, known)
