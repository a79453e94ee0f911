"""Whether a group is exact is known at `trace`: the small function is the masked one, or a reason is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from benchmarks._small_networks import NETWORKS, draw
from jaxprune import structured
from jaxprune.structured.shrinking.comparison import relative_error

# Networks of which some groups are not exact: what the reason names.
FLAGGED = {"scanned mixer": "loop"}


@pytest.fixture(autouse=True)
def as_users_write():
    with jax.numpy_rank_promotion("allow"):
        yield


def errors(fn, params, *inputs):
    """Of exact groups: each alone, all at once, and all that share no axis."""
    graph = structured.trace(fn, params, *inputs)
    exact = {group.name: 0.5 for group in graph.groups if group.exact}
    found = structured.verify(graph, params, *inputs)
    for name in exact:
        assert found.get(name, 0.0) < 2e-5, (name, found[name])
    for sparsity in (0.5, exact):
        masks = structured.prune(graph, params, sparsity=sparsity)
        small = structured.shrink(graph, params, masks)
        ours = jax.jit(small.apply)(small.params, *inputs)
        theirs = fn(jp.masks.apply(params, masks), *inputs)
        assert relative_error(ours, theirs) < 2e-5
    return graph


QUICK = {"vision transformer, haiku", "scanned mixer"}
SOME = [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS]


@pytest.mark.parametrize("name", SOME)
def test_networks(name):
    graph = errors(*NETWORKS[name]())
    assert graph.groups
    reasons = [group.reason for group in graph.groups if not group.exact]
    assert bool(reasons) == (name in FLAGGED), graph.summary()
    assert all(FLAGGED[name] in reason for reason in reasons)


def over_units(operation):
    fn = lambda p, x: operation(x @ p["in"]) @ p["out"]
    return fn, {"in": draw(4, 8), "out": draw(8, 3)}, draw(5, 4)


total = lambda h: h.sum(-1, keepdims=True)

# What runs over the units themselves, and is made good for.
EXACT = {
    "two-pass variance": lambda h: h / (jnp.var(h, -1, keepdims=True) + 1),
    "fourth moment": lambda h: h * ((h - h.mean(-1, keepdims=True)) ** 4).mean(-1, keepdims=True),
    "cosines": lambda h: h * total(jnp.cos(h)),
    "mean of exponentials": lambda h: h * jnp.exp(h).mean(-1, keepdims=True),
    "count of what is not negative": lambda h: h / (1 + total(h >= 0)),
    "mean of what is positive": lambda h: total(jax.nn.relu(h)) / (1 + total(h > 0)) * h,
    "largest of what is positive": lambda h: h / (1 + jax.nn.relu(h).max(-1, keepdims=True)),
    "largest absolute value": lambda h: h / jnp.abs(h).max(-1, keepdims=True),
    "covariance": lambda h: h @ jnp.exp(h.T @ h),
    "linear attention": lambda h: (jax.nn.elu(h) + 1) @ ((jax.nn.elu(h) + 1).T @ h),
    "numbers along the units": lambda h: h * total(jnp.arange(8.0) + h),
    "variance with constants beside": lambda h: (
        h / (1 + jnp.var(jnp.concatenate([h, jnp.ones((5, 4))], -1), -1, keepdims=True))
    ),
    "pairs": lambda h: h * jnp.cos(h[:, :, None] - h[:, None]).sum((1, 2))[:, None],
    "noise": lambda h: h * total(h + jax.random.normal(jax.random.key(0), h.shape)),
    "loop": lambda h: jax.lax.fori_loop(
        0, 3, lambda _, c: c / (1 + jnp.var(c, -1, keepdims=True)), h
    ),
    "a condition": lambda h: jax.lax.cond(
        h.sum() > 0, lambda h: h / (1 + jnp.var(h, -1, keepdims=True)), lambda h: 2 * h, h
    ),
}


@pytest.mark.parametrize("name", EXACT)
def test_what_sums_owe_to_removed_units(name):
    graph = errors(*over_units(EXACT[name]))
    assert graph.groups[0].exact


# What sees the zeros of removed units, and the word that the reason has for it.
INEXACT = {
    "softmax": (jax.nn.softmax, "reduce_max"),
    "largest": (lambda h: h * h.max(-1, keepdims=True), "reduce_max"),
    "least": (lambda h: h * h.min(-1, keepdims=True), "reduce_min"),
    "product": (lambda h: h * h.prod(-1, keepdims=True), "reduce_prod"),
    "any zero": (lambda h: h * (h == 0).any(-1, keepdims=True), "reduce_or"),
    "inverse": (lambda h: h * total(1 / h), "infinite"),
    "logarithm": (lambda h: h * total(jnp.log(jnp.abs(h))), "infinite"),
    "no epsilon": (lambda h: (h - h.mean(0)) / h.std(0), "infinite"),
    "channel attention": (lambda h: h @ jax.nn.softmax(h.T @ h), "reduce_max"),
    "changed in a loop": (
        lambda h: h * total(jax.lax.fori_loop(0, 3, lambda _, c: jnp.cos(c), h)),
        "loop",
    ),
}


@pytest.mark.parametrize("name", INEXACT)
def test_what_sees_zeros_is_flagged(name):
    operation, word = INEXACT[name]
    fn, params, x = over_units(operation)
    graph = structured.trace(fn, params, x)
    [group] = graph.groups
    assert not group.exact
    assert word in group.reason
    assert group.reason in graph.summary()
    with pytest.raises(ValueError, match=r"in\[1\].*inexact='allow'"):
        structured.prune(graph, params, sparsity=0.5)
    with pytest.raises(ValueError, match=r"inexact='allow'"):
        structured.prune(graph, params, sparsity={"in": 0.5})
    with pytest.raises(ValueError, match="inexact"):
        structured.coupled(graph)
    masks = structured.prune(graph, params, sparsity=0.5, inexact="allow")
    with pytest.warns(UserWarning, match=r"in\[1\].*not exact"):
        structured.shrink(graph, params, masks)
    assert f"not exact: in[1]: {group.reason}" in str(structured.report(graph, params, masks))


def test_others_are_pruned_without_what_is_not_exact():
    fn = lambda p, x: jax.nn.softmax(jax.nn.relu(x @ p["a"]) @ p["b"]) @ p["c"]
    params = {"a": draw(4, 16), "b": draw(16, 8), "c": draw(8, 3)}
    graph = structured.trace(fn, params, draw(5, 4))
    masks = structured.prune(graph, params, sparsity=0.5)
    assert masks["c"] is None
    assert float(masks["a"].mean()) == 0.5
    pattern = structured.coupled(graph)
    assert [group.name for group in pattern.groups] == ["a[1]"]
    assert len(structured.coupled(graph, inexact="allow").groups) == 2


def test_gradients_of_what_is_made_good_for():
    fn, params, x = over_units(EXACT["two-pass variance"])
    graph = structured.trace(fn, params, x)
    masks = structured.prune(graph, params, sparsity=0.5)
    small = structured.shrink(graph, params, masks)
    loss = lambda f: lambda p: jnp.sum(jnp.sin(f(p, x)))
    own = jax.grad(loss(small.apply))(small.params)
    whole = small.plan.apply(jax.grad(loss(fn))(jp.masks.apply(params, masks)))
    assert relative_error(own, whole) < 1e-5


def test_verify_looks_at_each_output_and_at_nan():
    params, x = {"a": abs(draw(4, 8)) + 0.1, "b": draw(8, 3)}, abs(draw(5, 4)) + 0.1
    least = lambda p, x: jnp.exp(x @ p["a"]).min(-1)  # 1 where a unit is zero, and more elsewhere
    beside = lambda p, x: (least(p, x), x @ p["a"] @ p["b"], 1e9 * x)
    alone = structured.verify(structured.trace(least, params, x), params, x)
    assert structured.verify(structured.trace(beside, params, x), params, x) == alone
    assert alone["a[1]"] > 0.01
    nan = lambda p, x: (0 * x, jnp.log(-jnp.exp(x @ p["a"]) @ jnp.exp(p["b"])))
    assert structured.verify(structured.trace(nan, params, x), params, x) == {"a[1]": np.inf}


def test_fillings_of_masks_are_no_size():
    a = np.array([1.0, 2.0, -1e9, -np.inf])
    assert relative_error(a, a + np.array([0.2, 0, 0, 0])) == pytest.approx(0.1)
    assert relative_error(a, np.array([1.0, 2.0, -1e9, 0])) == np.inf
    assert relative_error(a, a) == 0.0
