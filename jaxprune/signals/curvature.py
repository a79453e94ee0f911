"""Signals of second order: products with the Hessian, its diagonal, the inverse Fisher in blocks."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune import masks as masks_lib
from jaxprune.arrays.precision import widen
from jaxprune.arrays.shardings import whole
from jaxprune.masks import Prunable
from jaxprune.signals.batches import (
    Progress,
    check_rereadable,
    check_several,
    mean_over,
    with_example_counts,
)
from jaxprune.signals.finite import Watch
from jaxprune.signals.gradients import check_divisible, gradient, grads, scan_groups
from jaxprune.signals.leaves import (
    are_floating,
    chosen_leaves,
    fill_tree,
    with_leaves,
)
from jaxprune.signals.losses import Apply, Loss, OutputLoss, check_function, loss_of_outputs
from jaxprune.types import Params

__all__ = ["hessian_diagonal", "hessian_gradient", "hessian_vector", "inverse_fisher"]


def hessian_vector(
    loss: Loss,
    params: Params,
    batches: Iterable[Any],
    vector: Params,
    *,
    progress: Progress | None = None,
) -> Params:
    r"""Returns the product $H v$ of the mean loss's Hessian and a vector, without forming the Hessian.

    It is the forward-mode derivative of the gradient: about three times the cost of a gradient, and twice its
    memory.

    Args:
      loss: (params, batch) -> the mean loss over the batch's leading axis, a scalar; twice differentiable
        by JAX.
      params: tree of arrays.
      batches: trees of arrays [examples, ...]; they may differ in size.
      vector: tree like `params`, cast to the dtypes of `params`; `None` at a leaf stands for zeros.
      progress: called with the number of batches done, after each.

    Returns:
      A tree like `params`, float32 or wider; zeros at leaves that are not floating.

    Raises:
      ValueError: `vector` is not a tree like `params`, or one of its arrays has another shape; there are no
        batches, or one holds NaN.

    References:
      Pearlmutter, "Fast Exact Multiplication by the Hessian" (1994).

    >>> loss = lambda params, x: jnp.mean(x) * params["w"][0] * params["w"][1]  # H = [[0, 2], [2, 0]]
    >>> params, vector = {"w": jnp.ones(2)}, {"w": jnp.array([1.0, 3.0])}
    >>> hessian_vector(loss, params, [jnp.array([1.0, 3.0])], vector)
    {'w': Array([6., 2.], dtype=float32)}
    """
    check_function("hessian_vector", params, loss=loss)
    is_floating = are_floating(params)
    directions = _directions(params, vector, is_floating)
    options: Any = {"progress": progress, "who": "hessian_vector"}
    return mean_over(_products, params, batches, directions, static=(loss,), **options)


def hessian_gradient(
    apply: Apply,
    output_loss: OutputLoss,
    params: Params,
    batches: Iterable[Any],
    *,
    temperature: float = 200.0,
    progress: Progress | None = None,
) -> Params:
    r"""Returns $H g$, Hessian times gradient, of the loss at outputs divided by a temperature, for GraSP.

    A high temperature $T$ makes the outputs of an untrained network nearly equal. It changes the order of
    scores, not only their size: the part of $H g$ from the curvature of the loss falls as $T^{-3}$, the part
    from the curvature of the network as $T^{-2}$.

    Args:
      apply: (params, batch) -> outputs of the network: logits.
      output_loss: (outputs, batch) -> the mean loss over the batch's leading axis, a scalar.
      params: tree of arrays.
      batches: trees of arrays [examples, ...], read twice; they may differ in size.
      temperature: $T$; 200 in the authors' code, though not in the paper.
      progress: called after each batch, with the number of batches done in both passes.

    Returns:
      A tree like `params`, float32 or wider. The criterion `grasp` reads it.

    Raises:
      ValueError: `batches` is an iterator, which can be read only once.

    References:
      Wang, Zhang & Grosse, "Picking Winning Tickets Before Training by Preserving Gradient Flow" (2020).

    >>> apply, output_loss = lambda params, x: params["w"] * x, lambda outputs, x: jnp.mean(outputs**2)
    >>> params, batches = {"w": jnp.array(3.0)}, [jnp.array([2.0])]  # w^2 x^2 / T^2: g = 6, H = 2
    >>> hessian_gradient(apply, output_loss, params, batches, temperature=2.0)
    {'w': Array(12., dtype=float32)}
    """
    batches = check_rereadable(batches, "hessian_gradient reads batches twice")
    loss = loss_of_outputs(apply, output_loss, temperature=temperature)
    return gradient_product(loss, params, batches, progress)


def gradient_product(
    loss: Loss, params: Params, batches: Iterable[Any], progress: Progress | None
) -> Params:
    """Returns the product of Hessian and gradient of one loss.

    Args:
      loss: (params, batch) -> the mean loss over the batch's leading axis, a scalar.
      params: tree of arrays.
      batches: trees of arrays [examples, ...]; read twice.
      progress: called after each batch, with the number of batches done in both passes.
    """
    batches_done = 0

    def count(_: int) -> None:
        nonlocal batches_done
        batches_done += 1
        if progress is not None:
            progress(batches_done)

    mean_gradient = grads(loss, params, batches, progress=count)
    return hessian_vector(loss, params, batches, mean_gradient, progress=count)


def hessian_diagonal(
    loss: Loss,
    params: Params,
    batches: Iterable[Any],
    key: jax.Array,
    *,
    samples: int = 1,
    progress: Progress | None = None,
) -> Params:
    r"""Returns an estimate of the Hessian's diagonal: the mean of $z \odot H z$ with random $z_i = \pm 1$.

    Its expectation is the diagonal. Its variance at weight $i$ is $\sum_{j \ne i} H_{ij}^2$ divided by the
    number of draws, of which each batch has `samples` new ones. If the Hessian is diagonal, the result is
    exact. This is the Hessian itself, not the Gauss-Newton matrix (`gauss_newton_diagonal`): away from a
    minimum, many entries are negative.

    Args:
      loss: (params, batch) -> the mean loss over the batch's leading axis, a scalar; twice differentiable
        by JAX.
      params: tree of arrays.
      batches: trees of arrays [examples, ...]; they may differ in size.
      key: PRNG key.
      samples: draws per batch; each costs about three gradients of time, and no additional memory.
      progress: called with the number of batches done, after each.

    Returns:
      A tree like `params`, float32 or wider; zeros at leaves that are not floating. The criterion
      `second_order_taylor` reads it.

    Raises:
      ValueError: `samples` is below 1, there are no batches, or one holds NaN.

    References:
      Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
      splines" (1990); Bekas, Kokiopoulou & Saad, "An estimator for the diagonal of a matrix" (2007).

    >>> loss = lambda params, x: jnp.mean(x) * (params["w"][0] ** 2 - params["w"][1] ** 2)
    >>> hessian_diagonal(loss, {"w": jnp.ones(2)}, [jnp.array([1.0, 3.0])], jax.random.key(0))
    {'w': Array([ 4., -4.], dtype=float32)}
    """
    check_function("hessian_diagonal", params, loss=loss)
    checks.check("hessian_diagonal", key=(key, checks.KEY), samples=(samples, checks.INTEGER))
    if samples < 1:
        raise ValueError(f"hessian_diagonal(samples={samples}): at least 1 is needed.")
    static = (loss, samples)
    options: Any = {"progress": progress, "who": "hessian_diagonal"}
    return mean_over(_diagonals, params, batches, static=static, key=key, **options)


def inverse_fisher(
    loss: Loss,
    params: Params,
    batches: Iterable[Any],
    *,
    block: int = 50,
    damp: float = 1e-5,
    examples: int = 1,
    chunk: int = 8,
    prunable: Prunable = None,
    progress: Progress | None = None,
) -> Any:
    r"""Returns the inverse of the damped empirical Fisher, in blocks of consecutive weights of a leaf.

    $F = \lambda I + \frac{1}{G} \sum_k g_k g_k^\top$ over the gradients of $G$ groups of examples is inverted
    by one rank-one step per group, $A \leftarrow A - A g_k (A g_k)^\top / (G + g_k^\top A g_k)$, from
    $A = I / \lambda$. In float32 this is far more accurate than inverting the sum, in which rounding hides
    the damping: compared with float64, the diagonal of A was right to 1e-4 where the largest eigenvalue of a
    block was $10^5 \lambda$, to 1e-2 where it was $10^7 \lambda$. For larger ratios raise `damp`.

    Weights that are exactly zero, such as those removed before, count as absent, as in the authors' code:
    their gradients are set to zero. Otherwise the score of a kept weight would assume that removed weights
    can compensate for it.

    Memory: `block` float32 numbers per prunable weight, twice that during an update, and `chunk` gradients.

    Args:
      loss: (params, batch) -> the mean loss over the batch's leading axis, a scalar. No example may depend
        on the others (no batch statistics).
      params: tree of arrays.
      batches: list of trees of arrays [examples, ...]; the size of each batch is a multiple of `examples`.
        They are read twice, the first time to count them.
      block: weights in a block, consecutive in row-major order.
      damp: $\lambda$, what is added to the diagonal; above 0.
      examples: consecutive examples in a group; their mean gradient is one $g_k$.
      chunk: groups whose gradients are computed at the same time.
      prunable: leaves that have blocks (see `jaxprune.masks.make`).
      progress: called with the number of batches done, after each.

    Returns:
      A tree like `params` of arrays [blocks, block, block], float32 or wider; `None` at leaves that are not
      prunable. The last block of a leaf is padded with weights of zero gradient: they have $1 / \lambda$ on
      the diagonal and zeros elsewhere. The criterion `woodfisher` reads it as `inverse_fisher`.

    Raises:
      ValueError: `block` or `damp` is not above 0 or not finite, `batches` is an iterator, the size of a
        batch is no multiple of `examples`, or a batch holds NaN.

    References:
      Singh & Alistarh, "WoodFisher: Efficient Second-Order Approximation for Neural Network Compression"
      (2020). Departure: blocks are of equal size, the last one padded.

    >>> loss = lambda params, x: jnp.mean(x @ params["w"])  # gradients are the examples
    >>> x = jnp.array([[2.0, 0.0], [0.0, 2.0]])
    >>> params = {"w": jnp.ones((2, 1))}
    >>> inverse_fisher(loss, params, [x], block=2, damp=2.0)["w"]  # (2 I + diag(2, 2))^-1
    Array([[[0.25, 0.  ],
            [0.  , 0.25]]], dtype=float32)
    """
    check_function("inverse_fisher", params, loss=loss)
    checks.check("inverse_fisher", block=(block, checks.INTEGER), damp=(damp, checks.NUMBER))
    if block < 1 or not 0 < damp < float("inf"):
        raise ValueError(
            f"inverse_fisher(block={block}, damp={damp}): both must be above 0, and finite."
        )
    batches = check_rereadable(batches, "inverse_fisher counts batches before it reads them")
    checked_batches = check_divisible(batches, examples, chunk)
    masks = masks_lib.make(params, prunable)
    is_chosen = tuple(mask is not None for mask in masks_lib.beside(params, masks))
    number_of_groups = (
        sum(number_of_examples for _, number_of_examples in with_example_counts(checked_batches))
        // examples
    )
    inverses = [
        jnp.tile(
            jnp.eye(block, dtype=widen(weights).dtype) / damp, (-(-weights.size // block), 1, 1)
        )
        for weights in chosen_leaves(params, is_chosen)
    ]
    options = (loss, examples, chunk, is_chosen)
    watch = Watch("inverse_fisher")
    for batch, _ in with_example_counts(watch.batches(check_several(batches)), progress):
        inverses = jax.block_until_ready(
            _with_batch(inverses, options, params, batch, number_of_groups)
        )
        watch.signal(inverses)
    watch.check(params)
    return fill_tree(params, is_chosen, inverses, elsewhere=lambda leaf: None)


@functools.partial(jax.jit, static_argnames="options", donate_argnums=0)
def _with_batch(inverses, options, params, batch, groups):
    loss, examples, chunk, is_chosen = options

    def subtract_rank_one(inverse: jax.Array, leaf_gradients: jax.Array) -> tuple[jax.Array, None]:
        product = jnp.einsum("bij,bj->bi", inverse, leaf_gradients)
        scale = groups + jnp.sum(leaf_gradients * product, axis=-1)
        update = product[:, :, None] * (product / scale[:, None])[:, None, :]
        return inverse - update, None

    def subtract_groups(
        inverses: list[jax.Array], group_gradients: list[jax.Array]
    ) -> list[jax.Array]:
        blocked = [
            _in_blocks(widen(leaf_gradients), inverse)
            for inverse, leaf_gradients in zip(inverses, group_gradients, strict=True)
        ]
        inverses_and_gradients = zip(inverses, blocked, strict=True)
        return [
            jax.lax.scan(subtract_rank_one, inverse, leaf_gradients)[0]
            for inverse, leaf_gradients in inverses_and_gradients
        ]

    def gradients_of_group(group: Any) -> list[jax.Array]:
        group_gradients = gradient(loss, params, group, is_chosen)
        return [
            leaf_gradients * (weights != 0)
            for leaf_gradients, weights in zip(
                group_gradients, chosen_leaves(params, is_chosen), strict=True
            )
        ]

    with jax.default_matmul_precision("highest"):
        return scan_groups(subtract_groups, inverses, gradients_of_group, batch, examples, chunk)


def _in_blocks(gradients: jax.Array, inverse: jax.Array) -> jax.Array:
    """Returns gradients [chunk, ...] of a leaf as [chunk, blocks, block], filled up with zeros."""
    number_of_blocks, block_size, _ = inverse.shape
    flat = whole(gradients).reshape(gradients.shape[0], -1)
    padded = jnp.pad(flat, ((0, 0), (0, number_of_blocks * block_size - flat.shape[1])))
    return padded.reshape(-1, number_of_blocks, block_size)


def _product(
    loss: Loss, params: Params, batch: Any, is_chosen: Sequence[bool], directions: list[jax.Array]
) -> list[jax.Array]:
    """Returns the Hessian of a batch's loss times a vector, at the chosen leaves."""

    def chosen_gradients(values: list[jax.Array]) -> list[jax.Array]:
        return gradient(loss, with_leaves(params, is_chosen, values), batch, is_chosen)

    return jax.jvp(chosen_gradients, (chosen_leaves(params, is_chosen),), (directions,))[1]


def _products(loss: Loss, params: Params, batch: Any, directions: list[jax.Array]) -> Params:
    is_floating = are_floating(params)
    return fill_tree(params, is_floating, _product(loss, params, batch, is_floating, directions))


def _diagonals(loss: Loss, samples: int, params: Params, batch: Any, key: jax.Array) -> Params:
    is_floating = are_floating(params)
    weights = chosen_leaves(params, is_floating)

    def random_signs(key: jax.Array, leaf_index: int, leaf_weights: jax.Array) -> jax.Array:
        # Drawn flat: this compiles faster.
        flat_signs = jax.random.rademacher(
            jax.random.fold_in(key, leaf_index), (leaf_weights.size,), leaf_weights.dtype
        )
        return flat_signs.reshape(leaf_weights.shape)

    def add_draw(total: list[jax.Array], key: jax.Array) -> tuple[list[jax.Array], None]:
        sign_vector = [
            random_signs(key, leaf_index, leaf_weights)
            for leaf_index, leaf_weights in enumerate(weights)
        ]
        products = _product(loss, params, batch, is_floating, sign_vector)
        totals_signs_products = zip(total, sign_vector, products, strict=True)
        return [
            leaf_total + widen(sign * product)
            for leaf_total, sign, product in totals_signs_products
        ], None

    zeros = [jnp.zeros_like(widen(leaf_weights)) for leaf_weights in weights]
    total, _ = jax.lax.scan(add_draw, zeros, jax.random.split(key, samples))
    return fill_tree(params, is_floating, [leaf_total / samples for leaf_total in total])


def _directions(params: Params, vector: Params, chosen: Sequence[bool]) -> list[jax.Array]:
    try:
        vector_leaves = masks_lib.beside(params, vector)
    except ValueError as error:
        raise ValueError(
            f"hessian_vector: the vector is no tree like the parameters: {error}"
        ) from None
    named_leaves = zip(
        masks_lib.paths(params), jax.tree.leaves(params), vector_leaves, chosen, strict=True
    )
    directions = []
    for name, weights, direction, is_floating in named_leaves:
        if not is_floating:
            continue
        if direction is not None and jnp.shape(direction) != jnp.shape(weights):
            raise ValueError(
                f"hessian_vector: the vector has the shape {jnp.shape(direction)} at {name!r}, the parameter "
                f"{jnp.shape(weights)}."
            )
        weights = jnp.asarray(weights)
        directions.append(
            jnp.zeros_like(weights) if direction is None else jnp.asarray(direction, weights.dtype)
        )
    return directions
