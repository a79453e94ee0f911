"""Methods for `jaxprune.straight_through`: dense weights, of which the forward pass uses the best."""

from jaxprune import allocation as allocations
from jaxprune import criteria, patterns, schedules, updates
from jaxprune.method import Method
from jaxprune.parts import factory
from jaxprune.types import AnyAllocation, Backward
from jaxprune.units.coupling import AnyPattern

__all__ = ["sr_ste", "ste", "surgery", "top_kast"]

_UNSTRUCTURED = patterns.unstructured()
_UNIFORM = allocations.uniform()


@factory
def ste(
    *,
    sparsity: float,
    end: int,
    every: int = 1,
    begin: int = 0,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _UNIFORM,
) -> Method:
    """Returns STE: the forward pass uses the largest weights only, and all weights are trained.

    The masks are chosen anew every `every` updates, so a weight that has become large returns.

    Use it when masks shall be able to change their mind and you can afford dense gradients in every update.
    Its accuracy was 0.1 points below that of `gmp` at 90 % and 0.8 at 98 % (LeNet-300-100 on MNIST,
    results/compare_methods).

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      end: update at which masks are chosen last; they stay from then on.
      every: updates from one choice of the masks to the next.
      begin: update, counted from 0, at which they are first chosen; dense before.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; by default each has
        the same.

    Returns:
      A method for `jaxprune.straight_through`.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Bengio, Léonard & Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for
      Conditional Computation" (2013), for the estimator.

    >>> import jax.numpy as jnp
    >>> from jaxprune import next_masks
    >>> params, masks = {"w": jnp.array([[1.0, 2.0]])}, {"w": jnp.array([[True, False]])}
    >>> next_masks(ste(sparsity=0.5, end=100), params, masks, 7)
    {'w': Array([[False,  True]], dtype=bool)}
    """
    schedule = schedules.every(every, sparsity=sparsity, begin=begin, end=end)
    update = updates.reselect()
    return Method(
        criteria.magnitude,
        schedule=schedule,
        pattern=pattern,
        allocation=allocation,
        update=update,
        backward=Backward(),
    )


@factory
def sr_ste(
    *,
    sparsity: float,
    end: int,
    m: int = 4,
    every: int = 1,
    begin: int = 0,
    decay: float = 2e-4,
) -> Method:
    """Returns SR-STE: N:M training straight through the masks, with a decay of the weights off the masks.

    Of every `m` neighbours along the inputs the largest are kept: a sparsity of 0.5 with `m=4` is 2:4, one of
    0.75 is 1:4.

    Use it when you train an N:M network from scratch. At 2:4 it matched dense within 0.3 points. So did one
    cut in mid-training, `magnitude(pattern=groups(4))`, which is simpler and at 1:4 was 0.2 points better
    (LeNet-300-100 on MNIST, results/compare_sr_ste).

    Args:
      sparsity: fraction removed of each `m` neighbours, in [0, 1); `m` times it must be a whole number.
      end: update at which masks are chosen last; they stay from then on.
      m: weights in one contest, neighbours along the input axis of a kernel.
      every: updates from one choice of the masks to the next.
      begin: update, counted from 0, at which they are first chosen; dense before.
      decay: `decay * w` is added to the gradient of a weight `w` off the mask; at least 0.

    Returns:
      A method for `jaxprune.straight_through`.

    Raises:
      ValueError: if `sparsity` and `m` give no N:M pattern, or another argument is out of its range.

    References:
      Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch" (2021):
      `decay * w` is added to the gradient of the weights off the mask.

    >>> import jax.numpy as jnp
    >>> from jaxprune import prune
    >>> pruned, _ = prune({"w": jnp.array([[1.0], [-4.0], [3.0], [2.0]])}, sr_ste(sparsity=0.5, end=100))
    >>> pruned["w"].ravel()
    Array([ 0., -4.,  3.,  0.], dtype=float32)
    """
    _check_decay("sr_ste", decay)
    if not 0 < (n := round(m * (1 - sparsity))) < m or abs(m * (1 - sparsity) - n) > 1e-6:
        raise ValueError(
            f"sr_ste(sparsity={sparsity}, m={m}): {m * (1 - sparsity):g} of {m} weights is no N:M pattern; "
            "2:4 is sparsity=0.5, m=4."
        )
    schedule = schedules.every(every, sparsity=sparsity, begin=begin, end=end)
    return Method(
        criteria.magnitude,
        schedule=schedule,
        pattern=patterns.groups(m),
        update=updates.reselect(),
        backward=Backward(decay),
    )


@factory
def surgery(
    *, end: int, every: int = 1, begin: int = 0, c: float = 0.0, margin: float = 0.1
) -> Method:
    r"""Returns dynamic network surgery: weights are cut below one threshold and return above another.

    The thresholds are $(1 \mp m)\,t$ with $t = \max(\mu + c \sigma, 0)$, where $\mu$ and $\sigma$ are the
    mean and standard deviation of the weights' sizes in a leaf. The sparsity that results depends on `c` and
    the weights.

    Use it when the sizes of the weights shall determine how sparse each layer becomes, and you can try values
    of `c`. LeNet-300-100 on MNIST kept one weight in 47 at a test accuracy of 97.75 %; the paper has one in
    56 at 98.01 % (results/guo2016_lenet300).

    Args:
      end: update at which masks change last; they stay from then on.
      every: updates from one change of the masks to the next.
      begin: update, counted from 0, at which masks first change; dense before.
      c: how far the threshold lies above the mean size, in standard deviations; more removes more.
      margin: $m$, half the width of the band between the two thresholds, as a share of $t$, in [0, 1).

    Returns:
      A method for `jaxprune.straight_through`.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Guo, Yao & Chen, "Dynamic Network Surgery for Efficient DNNs" (2016). Departures: masks change every
      `every` updates, instead of at random and ever more rarely; the thresholds are computed from the current
      weights.

    >>> import jax.numpy as jnp
    >>> from jaxprune import next_masks
    >>> params = {"w": jnp.array([[1.0, 3.0, 2.0, 2.0]])}  # mean 2: cut below 1.8, back above 2.2
    >>> masks = {"w": jnp.array([[True, False, True, False]])}
    >>> next_masks(surgery(end=100), params, masks, 7)
    {'w': Array([[False,  True,  True, False]], dtype=bool)}
    """
    return Method(
        criteria.magnitude,
        schedule=schedules.every(every, sparsity=0.0, begin=begin, end=end),
        update=updates.splice(c, margin),
        backward=Backward(),
    )


@factory
def top_kast(
    *,
    sparsity: float,
    backward_sparsity: float,
    end: int,
    every: int = 1,
    begin: int = 0,
    decay: float = 0.0,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _UNIFORM,
) -> Method:
    """Returns Top-KAST: the forward pass uses the largest weights, and only a larger set of them is trained.

    Use it when the backward pass shall be sparse too, in all updates. Its accuracy was below that of `ste`,
    whose backward pass is dense, by 0.5 points at 90 % and 0.4 at 98 % (LeNet-300-100 on MNIST,
    results/compare_methods).

    Args:
      sparsity: fraction of the weights that the forward pass does not use, in [0, 1).
      backward_sparsity: fraction of the weights that are not trained, between 0 and `sparsity`.
      end: update at which masks are chosen last; they stay from then on.
      every: updates from one choice of the masks to the next.
      begin: update, counted from 0, at which they are first chosen; dense before.
      decay: `decay * w` is added to the gradient of weights `w` that are trained but not used in the forward
        pass; at least 0.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; by default each has
        the same.

    Returns:
      A method for `jaxprune.straight_through`.

    Raises:
      ValueError: if the forward pass uses more weights than are trained, or another argument is out of its
        range.

    References:
      Jayakumar, Pascanu, Rae, Osindero & Elsen, "Top-KAST: Top-K Always Sparse Training" (2020).
      Departure: the paper's exploration loss decays the weights that are trained but not used in the forward
      pass, 1/(forward density) times as strongly as those that are used. Here the former decay is
      `decay * w`, added to their gradient, 0 by default; the latter is the wrapped optimizer's weight decay.

    >>> import jax.numpy as jnp
    >>> from jaxprune import prune
    >>> method = top_kast(sparsity=0.75, backward_sparsity=0.5, end=100)
    >>> prune({"w": jnp.array([[1.0, -4.0, 3.0, 2.0]])}, method)[0]  # runs forward; 3 learns as well
    {'w': Array([[ 0., -4.,  0.,  0.]], dtype=float32)}
    """
    _check_decay("top_kast", decay)
    if not 0 <= backward_sparsity <= sparsity:
        raise ValueError(
            f"top_kast(sparsity={sparsity}, backward_sparsity={backward_sparsity}): more weights must "
            "learn than run forward; backward_sparsity lies between 0 and sparsity."
        )
    schedule = schedules.every(every, sparsity=sparsity, begin=begin, end=end)
    backward = Backward(decay, backward_sparsity)
    return Method(
        criteria.magnitude,
        schedule=schedule,
        pattern=pattern,
        allocation=allocation,
        update=updates.reselect(),
        backward=backward,
    )


def _check_decay(name: str, decay: float) -> None:
    if decay < 0:
        raise ValueError(f"{name}(decay={decay}): at least 0 is needed, or weights would run away.")
