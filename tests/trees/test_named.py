"""Paths of a tree: taken apart once for each structure, whoever asks for them."""

import collections
import dataclasses
import operator
from typing import Any, NamedTuple

import equinox
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jaxprune as jp
from jaxprune import trees
from jaxprune.trees import named


@pytest.fixture
def flattenings(monkeypatch):
    """Structures of the trees that are flattened by path, in order; no paths are known at the start."""
    monkeypatch.setattr(named, "_KNOWN_PATHS", named.collections.OrderedDict())
    structures = []
    flatten = jax.tree_util.tree_leaves_with_path

    def count(tree, *args, **kwargs):
        structures.append(jax.tree.structure(tree))
        return flatten(tree, *args, **kwargs)

    monkeypatch.setattr(jax.tree_util, "tree_leaves_with_path", count)
    return structures


PARAMS = {
    "dense": {"kernel": jnp.arange(32.0).reshape(8, 4) - 9, "bias": jnp.ones(4)},
    "head": {"kernel": jnp.arange(16.0).reshape(4, 4) - 5},
}
METHODS = {
    "magnitude": jp.methods.magnitude(sparsity=0.5),
    "groups": jp.methods.magnitude(sparsity=0.5, pattern=jp.patterns.groups(4)),
    "erk": jp.methods.magnitude(sparsity=0.5, allocation=jp.allocation.erk()),
    "partition": jp.partition(
        {
            "dense": jp.methods.magnitude(sparsity=0.5),
            "head": jp.methods.magnitude(sparsity=0.25),
        }
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_pruning_takes_the_parameters_apart_once(name, flattenings):
    jp.prune(PARAMS, METHODS[name])
    assert flattenings == [jax.tree.structure(PARAMS)]


@pytest.mark.parametrize("name", METHODS)
def test_pruning_anew_does_not_take_them_apart_again(name, flattenings):
    _, masks = jp.prune(PARAMS, METHODS[name])
    flattenings.clear()
    jp.prune(PARAMS, METHODS[name], masks=masks)
    assert not flattenings


def test_each_structure_has_its_own_paths(flattenings):
    assert trees.paths({"a": 1.0}) == ["a"]
    assert trees.paths({"b": {"c": 1.0}, "a": None}) == ["b/c"]
    assert trees.paths([1.0, (2.0,)]) == ["0", "1/0"]
    assert trees.paths({"a": jnp.ones(3)}) == ["a"]
    assert len(flattenings) == 3


def test_equal_keys_of_other_types_have_their_own_paths(flattenings):
    assert jax.tree.structure({1: 0.0}) == jax.tree.structure({True: 0.0})
    assert trees.paths({1: 0.0}) == ["1"]
    assert trees.paths({True: 0.0}) == ["True"]


def test_the_paths_may_be_changed_by_who_asked():
    trees.paths({"a": 1.0}).append("mine")
    assert trees.paths({"a": 1.0}) == ["a"]


def test_few_structures_are_kept(flattenings):
    for i in range(100):
        assert trees.paths({f"leaf_{i}": 1.0}) == [f"leaf_{i}"]
    assert len(named._KNOWN_PATHS) < 100


@jax.tree_util.register_pytree_with_keys_class
class Annotated:
    """A node whose static data cannot be compared."""

    def __init__(self, leaf, notes):
        self.leaf = leaf
        self.notes = notes

    def tree_flatten_with_keys(self):
        return [(jax.tree_util.GetAttrKey("leaf"), self.leaf)], self.notes

    @classmethod
    def tree_unflatten(cls, notes, leaves):
        return cls(leaves[0], notes)


def test_static_data_need_not_be_comparable():
    first = {"node": Annotated(1.0, np.arange(3))}
    second = {"node": Annotated(1.0, np.arange(3))}
    with pytest.raises(ValueError, match="metadata fields"):
        operator.eq(jax.tree.structure(first), jax.tree.structure(second))
    assert trees.paths(first) == trees.paths(second) == trees.paths(first) == ["node/leaf"]


class Attention(NamedTuple):
    """Parameters of an attention layer, in fields."""

    query: Any
    value: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class AttentionData:
    """The same, as a dataclass."""

    query: Any
    value: Any


class AttentionModule(equinox.Module):
    """The same, as a module of Equinox."""

    query: Any
    value: Any


CONTAINERS = [Attention, AttentionData, AttentionModule]


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_field_called_value_has_its_name(container, tmp_path):
    params = {"attn": container(jnp.arange(8.0).reshape(2, 4), 8 - jnp.arange(8.0).reshape(2, 4))}
    assert trees.paths(params) == ["attn/query", "attn/value"]
    masks = jp.masks.make(params, "attn/value$")
    assert masks["attn"].query is None
    assert masks["attn"].value.all()
    _, masks = jp.prune(params, jp.methods.magnitude(sparsity=0.5))
    jp.masks.save(tmp_path / "masks.safetensors", masks)
    for loaded in (
        jp.masks.load(tmp_path / "masks.safetensors", params),
        jp.masks.load(tmp_path / "masks.safetensors"),
    ):
        assert jp.masks.hamming(loaded, masks) == 0
        assert [int(mask.sum()) for mask in trees.beside(params, loaded)] == [4, 4]


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_masks_of_two_parts_are_joined_where_a_field_is_called_value(container):
    params = {"attn": container(jnp.ones((2, 4)), jnp.ones((2, 4))), "head": jnp.ones((4, 4))}
    method = jp.methods.magnitude(sparsity=0.5)
    parts = {name: jp.sparsify(optax.sgd(0.1), method) for name in "ab"}
    masks = jp.masks_of(optax.partition(parts, {"attn": "a", "head": "b"}).init(params))
    assert [mask.shape for mask in trees.beside(params, masks)] == [(2, 4), (2, 4), (4, 4)]


def test_what_a_variable_holds_has_the_path_of_the_variable():
    weights = jnp.ones((2, 4))
    params = {
        "attn": Attention(nnx.Param(weights), nnx.Param(weights)),
        "split": nnx.Param({"low": weights, "value": weights}),
        "boxed": linen.Partitioned(weights, ("in", "out")),
    }
    names = ["attn/query", "attn/value", "boxed", "split/low", "split/value"]
    assert trees.paths(params) == names
    assert trees.paths(nnx.Linear(2, 3, rngs=nnx.Rngs(0))) == ["bias", "kernel"]
    method = jp.methods.magnitude(sparsity=0.5)
    masks = jp.masks_of(jp.sparsify(optax.sgd(0.1), method).init(params))
    assert all(mask is not None for mask in trees.beside(params, masks))


def test_paths_keep_the_order_of_the_leaves_around_a_flat_map():
    flat_map = haiku.data_structures.to_immutable_dict({"net": {"w": jnp.ones((2, 3))}})
    tree = collections.OrderedDict([("z", flat_map), ("a", jnp.ones((4, 4)))])
    assert trees.paths(tree) == ["z/net/w", "a"]
    assert [leaf.shape for leaf in jax.tree.leaves(tree)] == [(2, 3), (4, 4)]
    masks = jp.masks.make(tree, "z/")
    assert jp.masks.summary(masks) == [
        {"leaf": "z/net/w", "shape": (2, 3), "weights": 6, "kept": 6}
    ]


NAMESAKES = {"a/b": jnp.ones((4, 4)), "a": {"b": jnp.ones((4, 4))}}
BY_PATH = {
    "gates": lambda: jp.gates.hard_concrete().init(NAMESAKES, jax.random.key(0)),
    "proximal": lambda: jp.proximal(optax.sgd(0.1), jp.penalties.l1(0.1), 0.1).init(NAMESAKES),
    "add_penalty": lambda: jp.add_penalty(jp.penalties.l1(0.1)).init(NAMESAKES),
    "masks": lambda: jp.masks.table(jp.masks.make(NAMESAKES)),
    "prune": lambda: jp.prune(NAMESAKES, jp.methods.magnitude(sparsity=0.5)),
    "masks.hamming": lambda: jp.masks.hamming(*[jp.masks.make(NAMESAKES)] * 2),
    "sensitivity": lambda: jp.sensitivity.sensitivity(lambda params: 0.0, NAMESAKES, [0.5]),
    "units": lambda: jp.metrics.units(jp.masks.make(NAMESAKES)),
    "nm_faults": lambda: jp.metrics.nm_faults(NAMESAKES, 2, 4),
    "axes": lambda: jp.prune(
        NAMESAKES,
        jp.methods.magnitude(sparsity=0.5),
        axes={"a/b": jp.Axes(0, 1), "a": {"b": jp.Axes(1, 0)}},
    ),
    "structured.trace": lambda: jp.structured.trace(
        lambda params, x: x @ params["a/b"] @ params["a"]["b"], NAMESAKES, jnp.ones((1, 4))
    ),
}


@pytest.mark.parametrize("who", BY_PATH)
def test_where_leaves_are_kept_by_path_none_stands_for_another(who):
    with pytest.raises(ValueError, match=f"^{who}: two leaves have the same path, 'a/b'; rename"):
        BY_PATH[who]()
