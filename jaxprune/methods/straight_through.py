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
    """Returns training straight through masks: the largest weights run forward, all of them learn.

    The masks are chosen anew every `every` updates, so a weight that has grown comes back.

    Use it when you want masks that can err and recover and can afford dense gradients in every update. It
    stood 0.1 points below `gmp` at 90 % and 0.8 at 98 % (LeNet-300-100 on MNIST,
    results/compare_methods).

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      end: update at which masks are chosen last; they stay from then on.
      every: updates from one choice of the masks to the next.
      begin: update, counted from 0, at which they are first chosen; dense before.
      pattern: which weights go together and compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; the same for each
        by default.

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
    """Returns SR-STE: of every `m` neighbours along the inputs the largest; the others are pulled to zero.

    A sparsity of 0.5 with `m=4` is 2:4, one of 0.75 is 1:4.

    Use it when you train an N:M network from scratch. At 2:4 it matched dense to 0.3 points, and so did
    one cut in mid-training, `magnitude(pattern=groups(4))`, which is simpler; at 1:4 that cut was 0.2
    points better (LeNet-300-100 on MNIST, results/compare_sr_ste).

    Args:
      sparsity: fraction removed of each `m` neighbours, in [0, 1); `m` times it must be a whole number.
      end: update at which masks are chosen last; they stay from then on.
      m: weights in one contest, neighbours along the input axis of a kernel.
      every: updates from one choice of the masks to the next.
      begin: update, counted from 0, at which they are first chosen; dense before.
      decay: what is added to the gradient of a weight off the mask, as a share of the weight; at least 0.

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
    r"""Returns dynamic network surgery: weights are cut below one threshold and spliced back above another.

    The thresholds are $(1 \mp m)\,t$ with $t = \max(\mu + c \sigma, 0)$ of the mean $\mu$ and the
    deviation $\sigma$ of the weights' sizes in a leaf. How sparse that is, `c` and the weights decide.

    Use it when the weights shall decide how sparse each layer becomes, and you can try values of `c`.
    LeNet-300-100 on MNIST kept one weight in 47 at a test accuracy of 97.75 %; the paper has one in 56 at
    98.01 % (results/guo2016_lenet300).

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
      `every` updates instead of ever more rarely at random; thresholds of the moment.

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
    """Returns Top-KAST: the largest weights run forward, a larger set of them learns, the rest stands still.

    Use it when the backward pass is to be sparse as well, for all updates. It stood 0.5 points below
    `ste`, whose backward pass is dense, at 90 % and 0.4 at 98 % (LeNet-300-100 on MNIST,
    results/compare_methods).

    Args:
      sparsity: fraction of the weights that do not run forward, in [0, 1).
      backward_sparsity: fraction of the weights that do not learn, between 0 and `sparsity`.
      end: update at which masks are chosen last; they stay from then on.
      every: updates from one choice of the masks to the next.
      begin: update, counted from 0, at which they are first chosen; dense before.
      decay: what is added to the gradient of weights that learn without running forward, as a share of
        the weight; at least 0.
      pattern: which weights go together and compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; the same for each
        by default.

    Returns:
      A method for `jaxprune.straight_through`.

    Raises:
      ValueError: if more weights run forward than learn, or another argument is out of its range.

    References:
      Jayakumar, Pascanu, Rae, Osindero & Elsen, "Top-KAST: Top-K Always Sparse Training" (2020).
      Departure: the paper's loss of exploration pulls at the weights that learn without running forward,
      1/(forward density) times as strongly as at those that run. Here that is `decay * w`, added to their
      gradient, and it is 0 by default; the pull at the others is the wrapped optimizer's weight decay.

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
