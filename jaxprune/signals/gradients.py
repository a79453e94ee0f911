"""Signals of first order: gradients, and the squares of those of single examples."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune.signals.gather import Progress, mean_over, number_of_examples
from jaxprune.signals.leaves import floating, in_one_place, put, spread, take, wide
from jaxprune.signals.losses import Loss, check_function, scalar
from jaxprune.types import Params

__all__ = ["divisible", "fisher", "gradient", "grads", "over_groups"]


def grads(
    loss: Loss, params: Params, batches: Iterable[Any], *, progress: Progress | None = None
) -> Params:
    r"""The gradient of the mean loss over all examples: $g = \nabla_w \frac{1}{N} \sum_n \ell_n(w)$.

    A batch's gradient has the type of its parameter; sums over batches are float32 at least.

    Args:
      loss: (params, batch) -> the mean loss over the batch's leading axis, a scalar.
      params: tree of arrays.
      batches: trees of arrays [examples, ...]; they may differ in size.
      progress: called with the number of batches done, after each.

    Returns:
      A tree like `params`, float32 or wider; zeros at leaves that are not floating. What criteria read as
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
    r"""The diagonal of the empirical Fisher: $F_i = \frac{1}{G} \sum_{k=1}^{G} g_{k,i}^2$.

    With the labels of the data, not labels drawn from the network's own outputs. A group $k$ is one
    example, or several: then the squares are those of their mean gradient, cheaper and, where the mean
    over all vanishes, smaller by that factor.

    Memory: `chunk` gradients of the whole tree at once, beside two trees of sums.

    Args:
      loss: (params, batch) -> the mean loss over the batch's leading axis, a scalar. No example may depend
        on the others (no batch statistics).
      params: tree of arrays.
      batches: trees of arrays that share their leading axis, a multiple of `examples`.
      examples: consecutive examples in a group.
      chunk: groups whose gradients are found side by side.
      progress: called with the number of batches done, after each.

    Returns:
      A tree like `params`, float32 or wider; zeros at leaves that are not floating. What the criterion
      `fisher` reads.

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
    batches = divisible(batches, examples, chunk)
    static = (loss, examples, chunk)
    more: Any = {"progress": progress, "who": "fisher"}
    return mean_over(_mean_of_squares, params, batches, static=static, **more)


def gradient(loss: Loss, params: Params, batch: Any, chosen: Sequence[bool]) -> list[jax.Array]:
    """The gradients at the chosen leaves, in order."""
    at = lambda values: scalar(loss(put(params, chosen, values), batch))
    return jax.grad(at)(take(params, chosen))


def over_groups(
    body: Callable[[Any, list[jax.Array]], Any],
    carry: Any,
    gradients_of: Callable[[Any], list[jax.Array]],
    batch: Any,
    examples: int,
    chunk: int,
) -> Any:
    """Carries something through a batch, group by group of consecutive examples.

    Args:
      body: (carry, gradients of at most `chunk` groups, stacked along a first axis) -> carry.
      carry: what it begins with.
      gradients_of: group -> list of gradients.
      batch: tree of arrays with one leading axis, a multiple of `examples`.
      examples: in a group.
      chunk: groups whose gradients are found side by side. On an explicit mesh every device finds all of
        them; elsewhere the compiler decides.
    """
    groups = number_of_examples(batch) // examples
    chunk = min(chunk, groups)
    whole = groups // chunk * chunk  # what does not fill a chunk comes last
    side_by_side = jax.vmap(gradients_of)

    batch = jax.tree.map(lambda x: in_one_place(x, axes=1), batch)

    def part(start: int, stop: int, *axes: int) -> Any:
        cut = lambda x: x[start * examples : stop * examples].reshape(*axes, examples, *x.shape[1:])
        return jax.tree.map(cut, batch)

    step = lambda carry, groups: (body(carry, side_by_side(groups)), None)
    carry, _ = jax.lax.scan(step, carry, part(0, whole, whole // chunk, chunk))
    if whole < groups:
        carry = body(carry, side_by_side(part(whole, groups, groups - whole)))
    return carry


def divisible(batches: Iterable[Any], examples: int, chunk: int) -> Iterable[Any]:
    """The batches, each looked at before it is cut into groups of examples."""
    for name, value in (("examples", examples), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{name}={value}: at least 1 is needed.")
    return _looked_at(batches, examples)


def _looked_at(batches: Iterable[Any], examples: int) -> Iterator[Any]:
    for index, batch in enumerate(batches):
        number_of_examples(batch, index, multiple_of=examples)
        yield batch


def _gradients(loss: Loss, params: Params, batch: Any) -> Params:
    chosen = floating(params)
    return spread(params, chosen, gradient(loss, params, batch, chosen))


def _mean_of_squares(loss: Loss, examples: int, chunk: int, params: Params, batch: Any) -> Params:
    chosen = floating(params)
    groups = number_of_examples(batch) // examples

    def add(total: list[jax.Array], found: list[jax.Array]) -> list[jax.Array]:
        return [t + jnp.sum(wide(g) ** 2, axis=0) for t, g in zip(total, found, strict=True)]

    zeros = [jnp.zeros_like(wide(w)) for w in take(params, chosen)]
    one = lambda group: gradient(loss, params, group, chosen)
    total = over_groups(add, zeros, one, batch, examples, chunk)
    return spread(params, chosen, [t / groups for t in total])
