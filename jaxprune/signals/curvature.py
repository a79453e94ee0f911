"""Signals of second order: products with the Hessian, its diagonal, the inverse Fisher in blocks."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune import masks as masks_lib
from jaxprune.masks import Prunable
from jaxprune.signals.finite import Watch
from jaxprune.signals.gather import Progress, counted, mean_over, several, twice
from jaxprune.signals.gradients import divisible, gradient, grads, over_groups
from jaxprune.signals.leaves import floating, in_one_place, put, spread, take, wide
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
    r"""The product of the mean loss's Hessian and a vector, $H v$, without the Hessian.

    Forward through the gradient: about three times the cost of a gradient, and twice its memory.

    Args:
      loss: (params, batch) -> the mean loss over the batch's leading axis, a scalar; twice differentiable
        by JAX.
      params: tree of arrays.
      batches: trees of arrays [examples, ...]; they may differ in size.
      vector: tree like `params`; `None` at a leaf is zero there. It is cast to the parameters' types.
      progress: called with the number of batches done, after each.

    Returns:
      A tree like `params`, float32 or wider; zeros at leaves that are not floating.

    References:
      Pearlmutter, "Fast Exact Multiplication by the Hessian" (1994).

    >>> loss = lambda params, x: jnp.mean(x) * params["w"][0] * params["w"][1]  # H = [[0, 2], [2, 0]]
    >>> params, vector = {"w": jnp.ones(2)}, {"w": jnp.array([1.0, 3.0])}
    >>> hessian_vector(loss, params, [jnp.array([1.0, 3.0])], vector)
    {'w': Array([6., 2.], dtype=float32)}
    """
    check_function("hessian_vector", params, loss=loss)
    chosen = floating(params)
    directions = _directions(params, vector, chosen)
    more: Any = {"progress": progress, "who": "hessian_vector"}
    return mean_over(_products, params, batches, directions, static=(loss,), **more)


def hessian_gradient(
    apply: Apply,
    output_loss: OutputLoss,
    params: Params,
    batches: Iterable[Any],
    *,
    temperature: float = 200.0,
    progress: Progress | None = None,
) -> Params:
    r"""The product $H g$ of Hessian and gradient of the loss of outputs divided by a temperature, for GraSP.

    A high temperature makes the outputs of an untrained network nearly equal. It changes the order of
    weights, not only the size of scores: what comes of the curvature of the loss falls as $T^{-3}$, what
    comes of that of the network as $T^{-2}$.

    Args:
      apply: (params, batch) -> outputs of the network: logits.
      output_loss: (outputs, batch) -> the mean loss over the batch's leading axis, a scalar.
      params: tree of arrays.
      batches: trees of arrays [examples, ...], read twice; they may differ in size.
      temperature: $T$; 200 in the authors' code, though not in the paper.
      progress: called after each batch, with the number of batches done in both passes.

    Returns:
      A tree like `params`, float32 or wider. What the criterion `grasp` reads.

    References:
      Wang, Zhang & Grosse, "Picking Winning Tickets Before Training by Preserving Gradient Flow" (2020).

    >>> apply, output_loss = lambda params, x: params["w"] * x, lambda outputs, x: jnp.mean(outputs**2)
    >>> params, batches = {"w": jnp.array(3.0)}, [jnp.array([2.0])]  # w^2 x^2 / T^2: g = 6, H = 2
    >>> hessian_gradient(apply, output_loss, params, batches, temperature=2.0)
    {'w': Array(12., dtype=float32)}
    """
    batches = twice(batches, "hessian_gradient reads batches twice")
    loss = loss_of_outputs(apply, output_loss, temperature=temperature)
    return gradient_product(loss, params, batches, progress)


def gradient_product(
    loss: Loss, params: Params, batches: Iterable[Any], progress: Progress | None
) -> Params:
    """The product of Hessian and gradient of one loss; `progress` counts batches of both passes."""
    done = 0

    def count(_: int) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done)

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
    r"""An estimate of the diagonal of the mean loss's Hessian: the mean of $z \odot H z$, $z_i = \pm 1$.

    Its expectation is the diagonal, its variance at weight $i$ is $\sum_{j \ne i} H_{ij}^2$ over the number
    of draws: `samples` fresh ones for each batch. A diagonal Hessian is found exactly. It is the Hessian
    itself, not Gauss-Newton's (`gauss_newton_diagonal`): off a minimum, entries are negative at many weights.

    Args:
      loss: (params, batch) -> the mean loss over the batch's leading axis, a scalar; twice differentiable
        by JAX.
      params: tree of arrays.
      batches: trees of arrays [examples, ...]; they may differ in size.
      key: PRNG key.
      samples: draws per batch; each costs about three gradients, and no memory.
      progress: called with the number of batches done, after each.

    Returns:
      A tree like `params`, float32 or wider; zeros at leaves that are not floating. What the criterion
      `second_order_taylor` reads.

    References:
      Hutchinson, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing
      splines" (1990); Bekas, Kokiopoulou & Saad, "An estimator for the diagonal of a matrix" (2007).

    >>> loss = lambda params, x: jnp.mean(x) * (params["w"][0] ** 2 - params["w"][1] ** 2)
    >>> hessian_diagonal(loss, {"w": jnp.ones(2)}, [jnp.array([1.0, 3.0])], jax.random.key(0))
    {'w': Array([ 4., -4.], dtype=float32)}
    """
    check_function("hessian_diagonal", params, loss=loss)
    checks.check("hessian_diagonal", key=(key, checks.KEY))
    if samples < 1:
        raise ValueError(f"hessian_diagonal(samples={samples}): at least 1 is needed.")
    static = (loss, samples)
    more: Any = {"progress": progress, "who": "hessian_diagonal"}
    return mean_over(_diagonals, params, batches, static=static, key=key, **more)


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
    r"""The inverse of the damped empirical Fisher, block by block of consecutive weights of a leaf.

    $F = \lambda I + \frac{1}{G} \sum_k g_k g_k^\top$ over the gradients of $G$ groups of examples is inverted
    by one rank-one step per group, $A \leftarrow A - A g_k (A g_k)^\top / (G + g_k^\top A g_k)$, from
    $A = I / \lambda$. In float32 this is far more accurate than inverting the sum, whose damping drowns in
    rounding: against float64, the diagonal of A was right to 1e-4 where the largest eigenvalue of a block
    was $10^5 \lambda$, to 1e-2 where it was $10^7 \lambda$. Beyond that raise `damp`.

    Weights that are exactly zero, such as those that were removed before, are taken for absent, as in the
    authors' code: their gradients count as zero, so that no living weight is priced as if they would make up
    for it.

    Memory: `block` float32 numbers per prunable weight, twice while they are updated, and `chunk` gradients.

    Args:
      loss: (params, batch) -> the mean loss over the batch's leading axis, a scalar. No example may depend
        on the others (no batch statistics).
      params: tree of arrays.
      batches: trees of arrays that share their leading axis, a multiple of `examples`. They are read twice,
        first to be counted.
      block: weights in a block, in row-major order.
      damp: $\lambda$.
      examples: consecutive examples in a group, whose mean gradient is one $g_k$.
      chunk: groups whose gradients are found side by side.
      prunable: leaves that have blocks (see `jaxprune.masks.make`).
      progress: called with the number of batches done, after each.

    Returns:
      A tree like `params` of arrays [blocks, block, block], `None` at leaves that are not prunable. The
      last block of a leaf is filled up with weights whose gradient is zero: they have $1 / \lambda$ on the
      diagonal and nothing beside it. What the criterion `woodfisher` reads as `inverse_fisher`.

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
    if block < 1 or not damp > 0:
        raise ValueError(f"inverse_fisher(block={block}, damp={damp}): both must be above 0.")
    batches = twice(batches, "inverse_fisher counts batches before it reads them")
    looked_at = divisible(batches, examples, chunk)
    masks = masks_lib.make(params, prunable)
    chosen = tuple(mask is not None for mask in masks_lib.beside(params, masks))
    groups = sum(n for _, n in counted(looked_at)) // examples
    inverses = [
        jnp.tile(jnp.eye(block, dtype=wide(w).dtype) / damp, (-(-w.size // block), 1, 1))
        for w in take(params, chosen)
    ]
    options = (loss, examples, chunk, chosen)
    watch = Watch("inverse_fisher")
    for batch, _ in counted(watch.batches(several(batches)), progress):
        inverses = jax.block_until_ready(_with_batch(inverses, options, params, batch, groups))
        watch.signal(inverses)
    watch.check(params)
    return spread(params, chosen, inverses, elsewhere=lambda leaf: None)


@functools.partial(jax.jit, static_argnames="options", donate_argnums=0)
def _with_batch(inverses, options, params, batch, groups):
    loss, examples, chunk, chosen = options

    def rank_one(inverse: jax.Array, g: jax.Array) -> tuple[jax.Array, None]:
        product = jnp.einsum("bij,bj->bi", inverse, g)
        scale = groups + jnp.sum(g * product, axis=-1)
        update = product[:, :, None] * (product / scale[:, None])[:, None, :]
        return inverse - update, None

    def with_gradients(inverses: list[jax.Array], found: list[jax.Array]) -> list[jax.Array]:
        blocked = [_in_blocks(wide(g), inverse) for inverse, g in zip(inverses, found, strict=True)]
        pairs = zip(inverses, blocked, strict=True)
        return [jax.lax.scan(rank_one, inverse, g)[0] for inverse, g in pairs]

    def one(group: Any) -> list[jax.Array]:
        found = gradient(loss, params, group, chosen)
        return [g * (w != 0) for g, w in zip(found, take(params, chosen), strict=True)]

    with jax.default_matmul_precision("highest"):
        return over_groups(with_gradients, inverses, one, batch, examples, chunk)


def _in_blocks(gradients: jax.Array, inverse: jax.Array) -> jax.Array:
    """Gradients [chunk, ...] of a leaf as [chunk, blocks, block], filled up with zeros."""
    blocks, block, _ = inverse.shape
    flat = in_one_place(gradients, axes=gradients.ndim).reshape(gradients.shape[0], -1)
    filled = jnp.pad(flat, ((0, 0), (0, blocks * block - flat.shape[1])))
    return filled.reshape(-1, blocks, block)


def _product(
    loss: Loss, params: Params, batch: Any, chosen: Sequence[bool], directions: list[jax.Array]
) -> list[jax.Array]:
    slope = lambda values: gradient(loss, put(params, chosen, values), batch, chosen)
    return jax.jvp(slope, (take(params, chosen),), (directions,))[1]


def _products(loss: Loss, params: Params, batch: Any, directions: list[jax.Array]) -> Params:
    chosen = floating(params)
    return spread(params, chosen, _product(loss, params, batch, chosen, directions))


def _diagonals(loss: Loss, samples: int, params: Params, batch: Any, key: jax.Array) -> Params:
    chosen = floating(params)
    weights = take(params, chosen)

    def signs(key: jax.Array, i: int, w: jax.Array) -> jax.Array:  # drawn flat: compiles faster
        flat = jax.random.rademacher(jax.random.fold_in(key, i), (w.size,), w.dtype)
        return flat.reshape(w.shape)

    def draw(total: list[jax.Array], key: jax.Array) -> tuple[list[jax.Array], None]:
        z = [signs(key, i, w) for i, w in enumerate(weights)]
        found = _product(loss, params, batch, chosen, z)
        triples = zip(total, z, found, strict=True)
        return [t + wide(sign * product) for t, sign, product in triples], None

    zeros = [jnp.zeros_like(wide(w)) for w in weights]
    total, _ = jax.lax.scan(draw, zeros, jax.random.split(key, samples))
    return spread(params, chosen, [t / samples for t in total])


def _directions(params: Params, vector: Params, chosen: Sequence[bool]) -> list[jax.Array]:
    try:
        entries = masks_lib.beside(params, vector)
    except ValueError as error:
        raise ValueError(
            f"hessian_vector: the vector is no tree like the parameters: {error}"
        ) from None
    named = zip(masks_lib.paths(params), jax.tree.leaves(params), entries, chosen, strict=True)
    found = []
    for name, w, v, mine in named:
        if not mine:
            continue
        if v is not None and jnp.shape(v) != jnp.shape(w):
            raise ValueError(
                f"hessian_vector: the vector has the shape {jnp.shape(v)} at {name!r}, the parameter "
                f"{jnp.shape(w)}."
            )
        w = jnp.asarray(w)
        found.append(jnp.zeros_like(w) if v is None else jnp.asarray(v, w.dtype))
    return found
