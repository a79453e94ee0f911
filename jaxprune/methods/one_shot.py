"""Methods that prune at once, or not at all."""

from jaxprune import allocation as allocations
from jaxprune import criteria, patterns, schedules
from jaxprune.method import Method
from jaxprune.parts import factory
from jaxprune.types import AnyAllocation
from jaxprune.units.coupling import AnyPattern

__all__ = ["magnitude", "none", "random"]

_UNSTRUCTURED = patterns.unstructured()
_UNIFORM = allocations.uniform()


@factory
def none() -> Method:
    """Returns the method that prunes nothing: dense training through the same transform.

    Use it when a comparison needs the dense network trained by the same code as the pruned ones.

    Args: none.

    Returns:
      A method for `jaxprune.prune` and `jaxprune.sparsify`.

    References:
      None: the baseline of every experiment.

    >>> import jax.numpy as jnp
    >>> from jaxprune import prune
    >>> prune({"w": jnp.array([[1.0, -3.0]])}, none())[0]
    {'w': Array([[ 1., -3.]], dtype=float32)}
    """
    return Method(criteria.magnitude, schedule=schedules.never())


@factory
def magnitude(
    *,
    sparsity: float,
    at: int = 0,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _UNIFORM,
) -> Method:
    """Returns one-shot magnitude pruning: the smallest weights are removed, all at once.

    Use it when you want a first result at no cost, or have a trained network and time for one cut only.
    Applied half-way through training it was as good as `gmp` at 90 % and 0.4 points worse at 98 %
    (LeNet-300-100 on MNIST, results/compare_methods).

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      at: update, counted from 0, before which the weights are removed.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; by default each has
        the same.

    Returns:
      A method for `jaxprune.prune` and `jaxprune.sparsify`.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Han, Pool, Tran & Dally, "Learning both Weights and Connections for Efficient Neural Networks"
      (2015). Departure: a fraction per layer instead of a threshold (`std_threshold` has one).

    >>> import jax.numpy as jnp
    >>> from jaxprune import prune
    >>> prune({"w": jnp.array([[1.0, -3.0, 2.0, 0.5]])}, magnitude(sparsity=0.5))[0]
    {'w': Array([[ 0., -3.,  2.,  0.]], dtype=float32)}
    """
    schedule = schedules.one_shot(sparsity=sparsity, at=at)
    return Method(criteria.magnitude, schedule=schedule, pattern=pattern, allocation=allocation)


@factory
def random(
    *,
    sparsity: float,
    at: int = 0,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _UNIFORM,
) -> Method:
    """Returns one-shot random pruning: weights are removed at random. Needs a key.

    Use it when you need the control that a criterion must beat, and for nothing else. At 98 % it lost 5.5
    points, where `magnitude` lost 0.9 (LeNet-300-100 on MNIST, results/compare_methods).

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      at: update, counted from 0, before which the weights are removed.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; by default each has
        the same.

    Returns:
      A method for `jaxprune.prune` and `jaxprune.sparsify`.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      None: the usual control.

    >>> import jax
    >>> from jaxprune import prune
    >>> _, masks = prune({"w": jax.numpy.ones((2, 4))}, random(sparsity=0.75), key=jax.random.key(0))
    >>> int(masks["w"].sum())
    2
    """
    schedule = schedules.one_shot(sparsity=sparsity, at=at)
    return Method(criteria.random, schedule=schedule, pattern=pattern, allocation=allocation)
