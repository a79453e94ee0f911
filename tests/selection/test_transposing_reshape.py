"""Scores that are computed where they are read follow reshapes that transpose."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxprune as jp


def test_a_compiled_search_reads_scores_in_the_order_of_the_reshape():
    def by_column(params, **_):
        def score(weights):
            columns = (jnp.abs(weights) * 1.5).ravel(order="F")
            return (columns * jnp.arange(columns.size)).reshape(weights.shape)

        return jax.tree.map(score, params)

    weights = np.random.default_rng(0).normal(size=(4, 6))
    params = {"w": jnp.asarray(weights, jnp.float32)}
    grads = jax.tree.map(jnp.zeros_like, params)
    method = jp.Method(criterion=by_column, schedule=jp.schedules.one_shot(sparsity=0.5))
    tx = jp.sparsify(optax.sgd(0.1), method)
    state = tx.init(params)
    masks = [
        jp.masks_of(update(grads, state, params)[1])["w"]
        for update in (tx.update, jax.jit(tx.update))
    ]
    np.testing.assert_array_equal(*masks)
    scores = np.asarray(by_column(params)["w"])
    np.testing.assert_array_equal(masks[0], scores >= np.sort(scores.ravel())[12])
