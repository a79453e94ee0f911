"""Signals of first order: gradients, and the squares of those of single examples."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import checks
from jaxprune.arrays.precision import widen
from jaxprune.arrays.shardings import whole
from jaxprune.signals.batches import Progress, mean_over, number_of_examples
from jaxprune.signals.leaves import (
    are_floating,
    chosen_leaves,
    fill_tree,
    with_leaves,
)
from jaxprune.signals.losses import Loss, check_function, scalar
from jaxprune.types import Params

__all__ = ["check_divisible", "fisher", "gradient", "grads", "scan_groups"]


def grads(
    loss: Loss, params: Params, batches: Iterable[Any], *, progress: Progress | None = None
) -> Params:
    r"""Returns the gradient of the mean loss over all examples: $g = \nabla_w \frac{1}{N} \sum_n \ell_n(w)$.

    A batch's gradient has the dtype of its parameter; sums over batches are float32 at least.

    Args:
      loss: (params, batch) -> the mean loss over the batch's leading axis, a scalar.
      params: tree of arrays.
      batches: trees of arrays [examples, ...]; they may differ in size.
      progress: called with the number of batches done, after each.

    Returns:
      A tree like `params`, float32 or wider; zeros at leaves that are not floating. Criteria read it as
      `grads`.

    >>> loss = lambda params, x: jnp.mean((params["w"] * x) ** 2)  # its gradient: 2 w mean(x^2)
    >>> grads(loss, {"w": jnp.array(3.0)}, [jnp.array([1.0, 2.0]), jnp.array([1.0])])
    {'w': Array(12., dtype=float32)}
    """
    check_function("grads", params, loss=loss)
    return mean_over(_gradients, params, batches, static=(loss,), progress=progress, who="grads")


def fisher(
    loss: Loss,
    params: Params,
    batches: Iterable[Any],
    *,
    examples: int = 1,
    chunk: int = 8,
    progress: Progress | None = None,
) -> Params:
    r"""Returns the diagonal of the empirical Fisher: $F_i = \frac{1}{G} \sum_{k=1}^{G} g_{k,i}^2$.

    The labels are those of the data, not drawn from the network's own outputs. $g_k$ is the mean gradient of
    group $k$ of `examples` consecutive examples. Larger groups are cheaper; where the mean gradient of all
    examples vanishes, they make the result smaller by the factor `examples`.

    Memory: `chunk` gradients of the whole tree, and two trees of sums.

    Args:
      loss: (params, batch) -> the mean loss over the batch's leading axis, a scalar. No example may depend
        on the others (no batch statistics).
      params: tree of arrays.
      batches: trees of arrays [examples, ...]; the size of each batch is a multiple of `examples`.
      examples: consecutive examples in a group.
      chunk: groups whose gradients are computed at the same time.
      progress: called with the number of batches done, after each.

    Returns:
      A tree like `params`, float32 or wider; zeros at leaves that are not floating. The criterion
      `fisher` reads it.

    Raises:
      ValueError: `examples` or `chunk` is below 1, or the size of a batch is no multiple of `examples`.

    References:
      Theis, Korshunova, Tejani & Huszár, "Faster gaze prediction with dense networks and Fisher pruning"
      (2018); Kunstner, Balles & Hennig, "Limitations of the Empirical Fisher Approximation" (2019).

    >>> loss = lambda params, x: jnp.mean(params["w"] * x)  # gradients 1 and 3
    >>> fisher(loss, {"w": jnp.array(2.0)}, [jnp.array([1.0, 3.0])])
    {'w': Array(5., dtype=float32)}
    >>> fisher(loss, {"w": jnp.array(2.0)}, [jnp.array([1.0, 3.0])], examples=2)
    {'w': Array(4., dtype=float32)}
    """
    check_function("fisher", params, loss=loss)
    batches = check_divisible(batches, examples, chunk)
    static = (loss, examples, chunk)
    options: Any = {"progress": progress, "who": "fisher"}
    return mean_over(_mean_of_squares, params, batches, static=static, **options)


def gradient(loss: Loss, params: Params, batch: Any, is_chosen: Sequence[bool]) -> list[jax.Array]:
    """Returns the gradients at the chosen leaves, in order."""

    def loss_of_leaves(values: list[jax.Array]) -> jax.Array:
        return scalar(loss(with_leaves(params, is_chosen, values), batch))

    return jax.grad(loss_of_leaves)(chosen_leaves(params, is_chosen))


def scan_groups(
    body: Callable[[Any, list[jax.Array]], Any],
    carry: Any,
    gradients_of: Callable[[Any], list[jax.Array]],
    batch: Any,
    examples: int,
    chunk: int,
) -> Any:
    """Returns what a function carries through a batch, group by group of consecutive examples.

    Args:
      body: (carry, gradients of at most `chunk` groups, stacked along a first axis) -> carry.
      carry: its initial value.
      gradients_of: group -> list of gradients.
      batch: tree of arrays with one leading axis, a multiple of `examples`.
      examples: in a group.
      chunk: groups whose gradients are found side by side. On an explicit mesh every device finds all of
        them; elsewhere the compiler decides.
    """
    number_of_groups = number_of_examples(batch) // examples
    chunk = min(chunk, number_of_groups)
    number_in_chunks = number_of_groups // chunk * chunk  # what does not fill a chunk comes last
    side_by_side = jax.vmap(gradients_of)

    batch = jax.tree.map(lambda x: whole(x, axes=[0]), batch)

    def cut_groups(start: int, stop: int, *axes: int) -> Any:
        """Returns groups `start` to `stop` of the batch, [*axes, examples, ...]."""

        def cut(leaf: jax.Array) -> jax.Array:
            rows = leaf[start * examples : stop * examples]
            return rows.reshape(*axes, examples, *leaf.shape[1:])

        return jax.tree.map(cut, batch)

    def step(carry: Any, groups: Any) -> tuple[Any, None]:
        return body(carry, side_by_side(groups)), None

    carry, _ = jax.lax.scan(
        step, carry, cut_groups(0, number_in_chunks, number_in_chunks // chunk, chunk)
    )
    if number_in_chunks < number_of_groups:
        number_left = number_of_groups - number_in_chunks
        groups = cut_groups(number_in_chunks, number_of_groups, number_left)
        carry = body(carry, side_by_side(groups))
    return carry


def check_divisible(batches: Iterable[Any], examples: int, chunk: int) -> Iterable[Any]:
    """Returns the batches, each checked before it is passed on: groups of examples must fill it."""
    for name, value in (("examples", examples), ("chunk", chunk)):
        checks.check("signals", **{name: (value, checks.INTEGER)})
        if value < 1:
            raise ValueError(f"signals({name}={value}): at least 1 is needed.")
    return _check_each(batches, examples)


def _check_each(batches: Iterable[Any], examples: int) -> Iterator[Any]:
    for index, batch in enumerate(batches):
        number_of_examples(batch, index, multiple_of=examples)
        yield batch


def _gradients(loss: Loss, params: Params, batch: Any) -> Params:
    is_floating = are_floating(params)
    return fill_tree(params, is_floating, gradient(loss, params, batch, is_floating))


def _mean_of_squares(loss: Loss, examples: int, chunk: int, params: Params, batch: Any) -> Params:
    is_floating = are_floating(params)
    number_of_groups = number_of_examples(batch) // examples

    def add_squares(total: list[jax.Array], group_gradients: list[jax.Array]) -> list[jax.Array]:
        return [
            leaf_total + jnp.sum(widen(gradients) ** 2, axis=0)
            for leaf_total, gradients in zip(total, group_gradients, strict=True)
        ]

    zeros = [jnp.zeros_like(widen(weights)) for weights in chosen_leaves(params, is_floating)]

    def gradients_of_group(group: Any) -> list[jax.Array]:
        return gradient(loss, params, group, is_floating)

    total = scan_groups(add_squares, zeros, gradients_of_group, batch, examples, chunk)
    return fill_tree(params, is_floating, [leaf_total / number_of_groups for leaf_total in total])
