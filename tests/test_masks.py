import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.trees import roles

PARAMS = {
    "conv": {"kernel": jnp.ones((3, 3, 2, 5)), "bias": jnp.zeros(5)},
    "norm": {"scale": jnp.ones(5), "bias": jnp.zeros(5)},
    "table": jnp.ones((4, 3), jnp.bfloat16),
    "steps": jnp.ones((2, 2), jnp.int32),
    "empty": jnp.ones((0, 8)),
    "scalar": jnp.ones(()),
    "nothing": None,
}


def random_masks(key, params=PARAMS):
    leaves, treedef = jax.tree.flatten(jp.masks.make(params))
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.bernoulli(k, 0.4, m.shape) for k, m in zip(keys, leaves, strict=True)]
    return treedef.unflatten(drawn)


def test_only_floating_matrices_are_prunable_by_default():
    masks = jp.masks.make(PARAMS)
    assert jp.masks.paths(masks) == ["conv/kernel", "table"]
    assert all(bool(m.all()) and m.dtype == bool for m in jax.tree.leaves(masks))
    assert masks["nothing"] is None
    assert masks["empty"] is None


@pytest.mark.parametrize(
    ("prunable", "chosen"),
    [
        ("kernel", ["conv/kernel"]),
        (["norm/scale", "^table$"], ["norm/scale", "table"]),
        (lambda path, leaf: leaf.ndim == 1, ["conv/bias", "norm/bias", "norm/scale"]),
        (
            lambda path, leaf: True,
            ["conv/bias", "conv/kernel", "norm/bias", "norm/scale", "scalar", "table"],
        ),
    ],
)
def test_filters_choose_leaves(prunable, chosen):
    assert jp.masks.paths(jp.masks.make(PARAMS, prunable)) == chosen


@pytest.mark.parametrize("prunable", ["dense", ["kernel", "attention"], lambda path, leaf: False])
def test_a_filter_that_matches_nothing_is_refused(prunable):
    with pytest.raises(ValueError, match=r"dense|attention|nothing to prune"):
        jp.masks.make(PARAMS, prunable)


def test_apply_gives_exact_zeros_even_off_nans():
    params = {"w": jnp.array([jnp.nan, jnp.inf, -1.0, 2.0]), "n": jnp.arange(3)}
    masks = {"w": jnp.array([False, False, False, True]), "n": None}
    applied = jp.masks.apply(params, masks)
    assert applied["w"].tolist() == [0.0, 0.0, 0.0, 2.0]
    assert applied["n"] is params["n"]


@pytest.mark.parametrize("last", [1, 7, 8, 9, 16])
def test_packed_masks_are_the_masks(last):
    params = {"w": jnp.ones((3, last)), "b": jnp.ones(last)}
    masks = random_masks(jax.random.key(last), params)
    packed = jp.masks.pack(masks)
    assert packed["w"].bits.size == 3 * -(-last // 8)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, jp.masks.unpack(packed), masks))
    assert float(jp.masks.sparsity(packed)) == float(jp.masks.sparsity(masks))
    same = jax.tree.map(
        jnp.array_equal, jp.masks.apply(params, packed), jp.masks.apply(params, masks)
    )
    assert jax.tree.all(same)


def test_sparsity_counts_prunable_weights_only():
    masks = {"w": jnp.arange(1000).reshape(10, 100) < 25, "b": None}
    assert float(jp.masks.sparsity(masks)) == np.float32(0.975)
    assert float(jax.jit(jp.masks.sparsity)(masks)) == np.float32(0.975)


def test_more_weights_than_int32_counts_have_a_sparsity():
    masks = {name: jax.ShapeDtypeStruct((2**15, 2**15), jnp.bool_) for name in "abc"}
    assert jax.eval_shape(jp.masks.sparsity, masks).shape == ()
    assert jax.eval_shape(jp.masks.hamming, masks, masks).shape == ()


def test_overlap_measures():
    a = {"w": jnp.array([True, True, False, False]), "b": None}
    b = {"w": jnp.array([True, False, True, False]), "b": None}
    assert float(jp.masks.jaccard(a, b)) == pytest.approx(1 / 3)
    assert float(jp.masks.hamming(a, b)) == 0.5
    assert float(jp.masks.hamming(a, a)) == 0.0


def test_shuffling_keeps_the_counts_of_each_leaf_and_moves_the_places():
    masks = random_masks(jax.random.key(0))
    shuffled = jp.masks.shuffle(masks, jax.random.key(1))
    counts = lambda m: [int(x.sum()) for x in jax.tree.leaves(m)]
    assert counts(shuffled) == counts(masks)
    assert float(jp.masks.hamming(masks, shuffled)) > 0.2


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"a": {"kernel": jnp.ones((3, 2), bool)}}, r"'a/kernel' has the shape \(3, 2\)"),
        ({"a": {"kernel": jnp.ones((2, 3))}}, "'a/kernel' has the dtype float32"),
        ({"a": {"weight": jnp.ones((2, 3), bool)}}, "missing 'a/kernel'; unexpected 'a/weight'"),
        ({"a": jnp.ones((2, 3), bool)}, "missing 'a/kernel'"),
        ({}, "missing 'a/kernel'"),
    ],
)
def test_masks_that_do_not_fit_are_refused_by_name(masks, message):
    with pytest.raises(ValueError, match=message):
        jp.masks.validate({"a": {"kernel": jnp.ones((2, 3))}}, masks)


def test_check_finds_a_weight_that_came_back():
    masks = {"w": jnp.array([True, False])}
    jp.masks.check({"w": jnp.array([1.0, 0.0])}, masks)
    with pytest.raises(ValueError, match="'w': 1"):
        jp.masks.check({"w": jnp.array([1.0, 1e-30])}, masks)


def test_the_table_names_leaves_and_totals():
    table = jp.masks.table({"w": jnp.array([[True, False]]), "b": None})
    assert table.splitlines()[-1].split() == ["all", "2", "1", "50.00%"]
    nothing = jp.masks.table({"w": jnp.ones((0, 2), bool), "b": None})
    assert nothing.splitlines()[-1].split() == ["all", "0", "0", "0.00%"]
    assert jp.masks.shuffle({"b": None}, jax.random.key(0), within="tree") == {"b": None}


def test_operations_are_those_of_the_leaf_whatever_the_order():
    masks = collections.OrderedDict(b=jnp.ones((1, 2), bool), a=jnp.ones((3, 4), bool))
    rows = [line.split() for line in jp.masks.table(masks, {"a": 700, "b": 30}).splitlines()]
    assert [(row[0], row[-1]) for row in rows[1:]] == [("b", "30"), ("a", "700"), ("all", "730")]


NAMED = {
    "linear/b": ((4, 8), "bias"),
    "linear/w": ((4, 8, 8), "kernel"),
    "norm/weight": ((6, 16), "scale"),
    "blocks/0/RMSNorm_0/kernel": ((6, 16), "scale"),
    "layer/weight": ((4, 3), "kernel"),
    "g": ((4, 1), "scale"),
    "dense/bias/array": ((6, 16), "bias"),
    "dense/weight/array": ((6, 16, 16), "kernel"),
    "LayerNorm_0/gamma": ((6, 16), "scale"),
    "wte/embedding": ((100, 16), "table"),
    "token_embedding/weight": ((100, 16), "table"),
    "pos_embedding": ((1, 9, 16), "table"),
    "cls": ((1, 1, 16), "table"),
    "register_tokens": ((4, 16), "table"),
    "something": ((1, 1, 16), "table"),
    "q_proj/lora_a": ((16, 2), "adapter"),
    "q_proj/kernel_lora_b": ((2, 16), "adapter"),
    "patch_embed/conv/kernel": ((4, 4, 3, 16), "kernel"),
    "embedding/kernel": ((4, 4, 3, 16), "kernel"),
    "mlp/w": ((6, 16, 16), "kernel"),
    "attention/query/kernel": ((16, 4, 4), "kernel"),
    "out": ((30, 1), "kernel"),
    "gnn/kernel": ((16, 16), "kernel"),
    "norm_mlp/kernel": ((16, 16), "kernel"),
    "ln_q/kernel": ((16, 16), "kernel"),
    "renorm/kernel": ((16, 16), "kernel"),
    "word_embed_proj/weight": ((16, 16), "kernel"),
    "lora_proj/kernel": ((16, 16), "kernel"),
    "bias_kernel": ((16, 16), "kernel"),
    "position_kernel": ((16, 16), "kernel"),
    "input_layernorm/weight": ((6, 16), "scale"),
    "ln_1/weight": ((6, 16), "scale"),
    "BatchNorm_0/scale": ((6, 16), "scale"),
    "embedder/input_embedding": ((100, 16), "table"),
    "embed_tokens/weight": ((100, 16), "table"),
    "tok_embeddings/weight": ((100, 16), "table"),
    "tok_emb/weight": ((100, 16), "table"),
    "token_type_embeddings/weight": ((2, 16), "table"),
    "embed_positions/weight": ((100, 16), "table"),
    "position_embedding_table/weight": ((100, 16), "table"),
    "attn/relative_position_bias_table": ((49, 4), "table"),
    "relative_attention_bias/weight": ((32, 4), "table"),
    "transformer.wte.weight": ((100, 16), "table"),
    "model.embed_tokens.weight": ((100, 16), "table"),
    "model.layers.0.input_layernorm.weight": ((6, 16), "scale"),
    "model.layers.0.mlp.up_proj.bias": ((6, 16), "bias"),
    "model.layers.0.mlp.up_proj.weight": ((6, 16, 16), "kernel"),
    "embed_dim_projection/kernel": ((16, 16), "kernel"),
    "embed_dim_projection/weight": ((16, 16), "kernel"),
    "patch_embedding/weight": ((16, 3, 4, 4), "kernel"),
    "input_embedding/weight": ((16, 16), "kernel"),
    "time_embed/0/weight": ((16, 16), "kernel"),
    "embed_out/weight": ((16, 100), "kernel"),
}


def test_the_default_filter_goes_by_the_names_of_many_frameworks():
    beside = dict(zip(NAMED, roles.siblings(list(NAMED)), strict=True))
    found = {name: roles.by_name(name, shape, beside[name]) for name, (shape, _) in NAMED.items()}
    assert found == {name: role for name, (_, role) in NAMED.items()}
    masks = jp.masks.make({name: jnp.ones(shape) for name, (shape, _) in NAMED.items()})
    assert {n for n, m in masks.items() if m is not None} == {
        n for n, (_, role) in NAMED.items() if role == "kernel"
    }


def test_where_axes_are_given_the_default_filter_goes_by_use():
    params = {
        "scale": jnp.ones((4, 4)),  # a kernel, whatever its name
        "kernel": jnp.ones((4, 4)),  # a table that is added
        "stack": {"weight": jnp.ones((3, 4, 4)), "shift": jnp.ones((3, 4))},
        "embed": jnp.ones((9, 4)),
    }

    def apply(params, tokens):
        x = params["embed"][tokens] + params["kernel"]

        def layer(x, own):
            return jnp.tanh(x @ own["weight"] + own["shift"][None]), None

        return jax.lax.scan(layer, x @ params["scale"], params["stack"])[0] @ params["embed"].T

    axes = jp.axes(apply, params, jnp.arange(4))
    masks = jp.masks.make(params, axes=axes)
    kept = {
        name
        for name, mask in zip(jp.masks.paths(params), jp.masks.beside(params, masks), strict=True)
        if mask is not None
    }
    assert kept == {"scale", "stack/weight"}
    asked = jp.masks.make(params, "embed", axes=axes)
    assert asked["embed"] is not None, "who is asked for may be pruned, whatever its use"


STACKED = {"layers/kernel": jp.Axes(in_axis=1, out_axis=2, batch_axis=0), "head": jp.Axes(0, 1)}


def stack_of_masks():
    """Of six weights, layer by layer, one and four are kept."""
    stack = jnp.zeros((2, 2, 3), bool).at[0, 0, 0].set(True).at[1, :, :2].set(True)
    return {"layers": {"kernel": stack, "bias": None}, "head": jnp.ones((3, 1), bool)}


@pytest.mark.parametrize("packed", [False, True])
def test_layers_of_a_stack_have_rows_of_their_own(packed):
    masks = stack_of_masks()
    rows = jp.masks.summary(jp.masks.pack(masks) if packed else masks, STACKED)
    assert rows == [
        {"leaf": "head", "shape": (3, 1), "weights": 3, "kept": 3},
        {"leaf": "layers/kernel[0]", "shape": (2, 3), "weights": 6, "kept": 1},
        {"leaf": "layers/kernel[1]", "shape": (2, 3), "weights": 6, "kept": 4},
    ]
    assert len(jp.masks.summary(masks)) == 2
    flops = {"layers": {"kernel": 240, "bias": 0}, "head": 6}
    table = jp.masks.table(jp.masks.pack(masks) if packed else masks, flops, axes=STACKED)
    assert [line.split()[-2:] for line in table.splitlines()[1:]] == [
        ["6", "6"],
        ["120", "20"],
        ["120", "80"],
        ["246", "106"],
    ]


def test_layers_by_several_axes_are_in_the_order_of_their_names():
    experts = jp.Axes(in_axis=1, out_axis=2, batch_axis=(3, 0))
    mask = jnp.arange(2 * 1 * 5 * 2).reshape(2, 1, 5, 2) < 12
    rows = jp.masks.summary({"w": mask}, {"w": experts})
    assert [(row["leaf"], row["kept"]) for row in rows] == [
        ("w[0, 0]", 5),
        ("w[0, 1]", 5),
        ("w[1, 0]", 1),
        ("w[1, 1]", 1),
    ]


def test_shuffling_stays_within_a_layer():
    masks = {"layers": {"kernel": jnp.arange(3 * 20 * 10).reshape(3, 20, 10) % 200 < 60}}
    masks["layers"]["kernel"] &= jnp.array([True, False, True])[:, None, None]
    shuffled = jp.masks.shuffle(masks, jax.random.key(1), STACKED)["layers"]["kernel"]
    assert shuffled.sum((1, 2)).tolist() == [60, 0, 60]
    assert not jnp.array_equal(shuffled[0], shuffled[2]), "each layer by itself"
    last = {"w": jnp.moveaxis(masks["layers"]["kernel"], 0, 2)}
    moved = jp.masks.shuffle(last, jax.random.key(1), {"w": jp.Axes(0, 1, batch_axis=2)})["w"]
    assert (moved == jnp.moveaxis(shuffled, 0, 2)).all(), "wherever layers are stacked"


@pytest.mark.parametrize("shape", [(0,), (0, 1), (1, 0), (3, 0, 2), (0, 9), (), (1,), (2, 9)])
def test_packed_masks_of_any_shape_come_back(shape):
    mask = jnp.arange(int(np.prod(shape))).reshape(shape) % 3 == 0
    (back,) = jax.tree.leaves(jp.masks.unpack(jp.masks.pack({"w": mask})))
    assert back.shape == shape
    assert jnp.array_equal(back, mask)


def test_a_filter_that_can_be_read_only_once_is_refused():
    with pytest.raises(TypeError, match=r"a filter is needed, not a generator.*make it a list"):
        jp.masks.make(PARAMS, (name for name in ["kernel"]))


def test_shapes_are_enough_for_the_masks_that_keep_everything():
    shapes = {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32)}
    assert jp.masks.make(shapes)["kernel"].shape == (2, 3)
