"""Pruning on data: which signals are gathered, in rounds, with weights that make up for others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

import jaxprune as jp

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(64, 8)), jnp.float32)
PARAMS = {
    "fc0": jnp.asarray(RNG.normal(size=(8, 12)), jnp.float32),
    "fc1": jnp.asarray(RNG.normal(size=(12, 4)), jnp.float32),
}
KEY = jax.random.key(0)


def apply(params, x):
    return jax.nn.relu(x @ params["fc0"]) @ params["fc1"]


TARGET = apply(PARAMS, X)


def loss(params, batch):
    x, y = batch
    return jnp.mean((apply(params, x) - y) ** 2)


def on_inputs(params, batch):
    return apply(params, batch[0])


BATCHES = [(X[:32], TARGET[:32]), (X[32:], TARGET[32:])]
KNOWN = jp.signals.gatherers(
    BATCHES,
    loss=loss,
    apply=on_inputs,
    output_loss=lambda outputs, batch: jnp.mean((outputs - batch[1]) ** 2),
    key=KEY,
)
one_shot = lambda criterion, sparsity=0.5, **more: jp.Method(
    criterion, schedule=jp.schedules.one_shot(sparsity=sparsity), **more
)
REMEMBER = [name for name in jp.criteria.__all__ if jp.signals.needed([getattr(jp.criteria, name)])]
OF_UNITS = ["hrank", "bn_scale", "unit_taylor"]
OF_TRAINING = ["adam_second_moment"]
CRITERIA = [
    name for name in jp.criteria.__all__ if name not in (*REMEMBER, *OF_UNITS, *OF_TRAINING)
]


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_finds_its_signals(name):
    method = one_shot(getattr(jp.criteria, name))
    params, masks = jp.prune_on(PARAMS, method, KNOWN, key=KEY)
    jp.masks.check(params, masks)
    assert [row["kept"] for row in jp.masks.summary(masks)] == [48, 24]


def test_only_what_is_read_is_gathered():
    seen = []

    def watched(name):
        return lambda params: seen.append(name) or KNOWN[name](params)

    known = {name: watched(name) for name in KNOWN}
    jp.prune_on(PARAMS, one_shot(jp.criteria.taylor), known, rounds=3)
    assert seen == ["grads"] * 3
    seen.clear()
    method = one_shot(jp.criteria.second_order_taylor)
    jp.prune_on(PARAMS, method, known)
    assert seen == ["grads", "hessian_diagonal"]


def test_a_criterion_and_a_signal_of_ones_own():
    def spread(params, *, spreads, **_):
        return jax.tree.map(lambda w, s: jnp.abs(w) * s, params, spreads)

    known = {"spreads": lambda params: jax.tree.map(lambda w: jnp.ones_like(w) * 2, params)}
    masks = jp.prune_on(PARAMS, one_shot(spread), known)[1]
    expected = jp.prune(PARAMS, jp.methods.magnitude(sparsity=0.5))[1]
    assert float(jp.masks.hamming(masks, expected)) == 0
    with pytest.raises(ValueError, match=r"nobody gathers the signal 'spreads'; known here: grads"):
        jp.prune_on(PARAMS, one_shot(spread), KNOWN)


def test_rounds_leave_what_the_exponential_leaves():
    kept = []

    def count(params):
        kept.append(sum(int((w != 0).sum()) for w in jax.tree.leaves(params)))
        return KNOWN["grads"](params)

    masks = jp.prune_on(
        PARAMS,
        one_shot(jp.criteria.taylor, 0.9, allocation=jp.allocation.global_budget()),
        {"grads": count},
        rounds=4,
    )[1]
    kept.append(sum(int(m.sum()) for m in jax.tree.leaves(masks)))
    np.testing.assert_allclose(kept, [144 * 0.1 ** (k / 4) for k in range(5)], atol=0.6)


def least(matrix, w, kept):
    """The minimum of d M d / 2 with d = -w off `kept`, by elimination in float64."""
    gone, m = ~kept, np.asarray(matrix, np.float64)
    d = np.where(gone, -np.asarray(w, np.float64), 0)
    rhs = -m[np.ix_(kept, gone)] @ d[gone]
    d[kept] = np.linalg.solve(m[np.ix_(kept, kept)], rhs)
    return np.where(gone, 0, w + d)


def test_blocks_move_to_the_minimum():
    w = jnp.asarray(
        RNG.normal(size=(3, 5)), jnp.float32
    )  # three blocks of 6, the last one filled up
    a = RNG.normal(size=(3, 6, 9))
    fisher = a @ a.transpose(0, 2, 1) / 9 + 0.05 * np.eye(6)
    fisher[2, 3:], fisher[2, :, 3:] = 0, 0
    fisher[2, 3:, 3:] = np.eye(3)
    kept = RNG.random((3, 5)) > 0.5
    inverse = jnp.asarray(np.linalg.inv(fisher), jnp.float32)
    found = jp.compensation.fisher_blocks(
        {"w": w, "b": jnp.ones(2)},
        {"w": jnp.asarray(kept), "b": None},
        inverse_fisher={"w": inverse, "b": None},
    )
    flat_w, flat_kept = (np.pad(np.asarray(x).ravel(), (0, 3)) for x in (w, kept))
    flat_kept[15:] = True
    expected = [
        least(fisher[b], flat_w[6 * b : 6 * b + 6], flat_kept[6 * b : 6 * b + 6]) for b in range(3)
    ]
    np.testing.assert_allclose(found["w"].ravel(), np.concatenate(expected)[:15], atol=2e-4)
    assert (np.asarray(found["w"])[~kept] == 0).all()
    assert found["b"].tolist() == [1, 1]


def test_the_sum_of_single_moves_and_the_joint_move_by_hand():
    """A = [[2, 1, -1], [1, 1, 1], [-1, 1, 3]] and w = 5, 3, 6, of which the first stays.

    Alone: 5 - 1 (3 / 1) + 1 (6 / 3) = 4. Jointly [[1, 1], [1, 3]] x = (3, 6) has x = (1.5, 1.5), so that the
    moves cancel: 5 - 1.5 + 1.5 = 5.
    """
    inverse = {"w": jnp.array([[[2.0, 1.0, -1.0], [1.0, 1.0, 1.0], [-1.0, 1.0, 3.0]]]), "b": None}
    params = {"w": jnp.array([[5.0, 3.0, 6.0]]), "b": jnp.ones(2)}
    masks = {"w": jnp.array([[True, False, False]]), "b": None}
    singly = jp.compensation.woodfisher(params, masks, inverse_fisher=inverse)
    jointly = jp.compensation.fisher_blocks(params, masks, inverse_fisher=inverse)
    np.testing.assert_allclose(singly["w"], [[4, 0, 0]], atol=1e-5)
    np.testing.assert_allclose(jointly["w"], [[5, 0, 0]], atol=1e-5)
    assert singly["b"].tolist() == jointly["b"].tolist() == [1, 1]


def test_masks_of_a_file_fit_other_containers():
    params, masks = FrozenDict(w=jnp.array([[1.0, 2.0]])), {"w": jnp.array([[False, True]])}
    moved = jp.compensation.fisher_blocks(
        params, masks, inverse_fisher=FrozenDict(w=jnp.array([[[2.0, 1.0], [1.0, 2.0]]]))
    )
    np.testing.assert_allclose(moved["w"], [[0.0, 1.5]], rtol=1e-6)
    fitted = jp.compensation.layerwise(
        params,
        masks,
        input_moments=FrozenDict(w=jnp.ones((1, 1))),
        grams=FrozenDict(w=jnp.ones((1, 1))),
        damp=0.0,
    )
    np.testing.assert_allclose(fitted["w"], [[0.0, 2.0]], rtol=1e-6)


def test_one_weight_of_each_block_moves_the_same_alone_and_jointly():
    a = RNG.normal(size=(4, 5, 9))
    inverse = {"w": jnp.asarray(a @ a.transpose(0, 2, 1) / 9, jnp.float32)}
    params = {"w": jnp.asarray(RNG.normal(size=(2, 10)), jnp.float32)}  # four blocks of 5
    masks = {"w": jnp.ones(20, bool).at[jnp.array([0, 7, 14, 15])].set(False).reshape(2, 10)}
    singly = jp.compensation.woodfisher(params, masks, inverse_fisher=inverse)["w"]
    jointly = jp.compensation.fisher_blocks(params, masks, inverse_fisher=inverse)["w"]
    np.testing.assert_allclose(singly, jointly, rtol=1e-4, atol=1e-5)
    assert (np.asarray(singly)[~np.asarray(masks["w"])] == 0).all()


@pytest.mark.parametrize("shape", [(6, 5), (3, 2, 5)])
def test_layers_are_fitted_again(shape):
    kernel = jnp.asarray(RNG.normal(size=shape), jnp.float32)
    contracted = tuple(range(len(shape) - 1))
    x = RNG.normal(size=(40, *shape[:-1])) @ np.diag(np.arange(1, shape[-2] + 1)) + 1.0
    x = jnp.asarray(x, jnp.float32)
    apply = lambda p, x: jnp.tensordot(x, p["w"], axes=(tuple(range(1, x.ndim)), contracted))
    known = jp.signals.gatherers([x], apply=apply)
    params = {"w": kernel}
    signals = {name: known[name](params) for name in ("input_moments", "grams")}
    axes = jp.axes(apply, params, x)
    scores = jp.criteria.obs(params, axes=axes, **signals)["w"]
    masks = {"w": scores > jnp.median(scores)}
    found = jp.compensation.layerwise(params, masks, axes=axes, damp=0.0, **signals)["w"]
    flat, kept = np.asarray(kernel).reshape(-1, 5), np.asarray(masks["w"]).reshape(-1, 5)
    gram = np.einsum("ni,nj->ij", x.reshape(40, -1), x.reshape(40, -1)) / 40
    expected = np.stack([least(gram, flat[:, j], kept[:, j]) for j in range(5)], 1)
    np.testing.assert_allclose(np.asarray(found).reshape(-1, 5), expected, atol=1e-3)


def test_wide_layers_are_fitted_by_conjugate_gradients():
    draw = np.random.default_rng(0)
    x, w = draw.normal(size=(900, 300)), draw.normal(size=(300, 4)).astype(np.float32)
    gram = (x.T @ x / 900).astype(np.float32)
    kept = draw.random(w.shape) < 0.5
    found = jp.compensation.layerwise(
        {"w": w}, {"w": kept}, input_moments={"w": jnp.ones((300, 1))}, grams={"w": gram}, damp=0.0
    )["w"]
    for column in range(4):
        own = np.flatnonzero(kept[:, column])
        exact = np.linalg.solve(gram[np.ix_(own, own)], gram[own] @ w[:, column])
        np.testing.assert_allclose(found[own, column], exact, rtol=2e-3, atol=2e-3)
        assert not found[~kept[:, column], column].any()


def test_obs_is_the_rise_after_the_row_has_made_up_for_it():
    known = jp.signals.gatherers([X], apply=lambda p, x: x @ p["w"])
    params = {"w": PARAMS["fc0"]}
    inputs, grams = known["input_moments"](params), known["grams"](params)
    scores = jp.criteria.obs(params, input_moments=inputs, grams=grams, damp=0.0)["w"]
    gram = np.asarray(grams["w"], np.float64)
    for q, j in [(0, 0), (3, 5), (7, 11)]:
        w = np.asarray(params["w"][:, j], np.float64)
        d = least(gram, w, np.arange(8) != q) - w
        assert float(scores[q, j]) == pytest.approx(0.5 * d @ gram @ d, rel=1e-3)


def test_making_up_for_weights_helps():
    """On a quadratic loss of one layer it must; the size of the error is what it minimises."""
    apply = lambda p, x: x @ p["w"]
    correlated = X @ jnp.asarray(RNG.normal(size=(8, 8)), jnp.float32)
    target = correlated @ PARAMS["fc0"]
    known = jp.signals.gatherers(
        [(correlated, target)],
        loss=lambda p, b: jnp.mean((apply(p, b[0]) - b[1]) ** 2),
        apply=lambda p, b: apply(p, b[0]),
    )
    error = lambda p: float(jnp.mean((apply(p, correlated) - target) ** 2))
    params = {"w": PARAMS["fc0"]}
    plain = error(jp.prune_on(params, one_shot(jp.criteria.magnitude), known)[0])
    obs = error(jp.prune_on(params, one_shot(jp.criteria.obs), known)[0])
    fitted, masks = jp.prune_on(
        params, one_shot(jp.criteria.obs), known, compensation=jp.compensation.layerwise
    )
    jp.masks.check(fitted, masks)
    assert error(fitted) < 0.7 * min(obs, plain)


def test_inputs_that_are_always_zero():
    x = X.at[:, 2].set(0)
    known = jp.signals.gatherers([x], apply=lambda p, x: x @ p["w"])
    params, masks = jp.prune_on(
        {"w": PARAMS["fc0"]},
        one_shot(jp.criteria.obs, 0.2, allocation=jp.allocation.global_budget()),
        known,
        compensation=jp.compensation.layerwise,
    )
    assert not masks["w"][2].any()
    assert np.isfinite(params["w"]).all()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="rounds=0"):
        jp.prune_on(PARAMS, one_shot(jp.criteria.magnitude), {}, rounds=0)
    with pytest.raises(ValueError, match="can be read only once; give a list"):
        jp.signals.gatherers(iter(BATCHES), loss=loss)
    for reads_damp in (
        jp.criteria.obs,
        functools.partial(jp.compensation.layerwise, masks={"w": jnp.ones((2, 3), bool)}),
    ):
        with pytest.raises(ValueError, match=r"damp=-1\.0.*0 or above"):
            reads_damp({"w": jnp.ones((2, 3))}, input_moments=None, grams=None, damp=-1.0)
    with pytest.raises(ValueError, match="has 2 inputs, but its Gram matrix is"):
        jp.criteria.obs(
            {"w": jnp.ones((2, 3))}, input_moments={"w": jnp.ones((2, 1))}, grams={"w": jnp.eye(3)}
        )
