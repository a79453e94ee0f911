"""Methods for `jaxprune.straight_through`: dense weights, of which the forward pass uses the best."""

from jaxprune import allocation as allocations
from jaxprune import criteria, patterns, schedules, updates
from jaxprune.coupling import AnyPattern
from jaxprune.method import Method
from jaxprune.parts import factory
from jaxprune.types import AnyAllocation, Backward

__all__ = ["sr_ste", "ste", "surgery", "top_kast"]

_UNSTRUCTURED, _UNIFORM = patterns.unstructured(), allocations.uniform()


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
    """The largest weights, chosen anew in each step, with gradients straight through the mask.

    Masks stay as they are from the step `end` on; the number of updates makes the last weights choose.

    References: Bengio, Léonard & Courville, "Estimating or Propagating Gradients Through Stochastic
    Neurons for Conditional Computation" (2013), for the estimator.
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
    """SR-STE: of every `m` neighbours along the input axis the largest; the others are pulled to zero.

    A sparsity of 0.5 with `m=4` is 2:4, one of 0.75 is 1:4.

    References: Zhou et al., "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch"
    (2021): `decay * w` is added to the gradient of the weights off the mask.
    """
    _check_decay("sr_ste", decay)
    if not 0 < (n := round(m * (1 - sparsity))) < m or abs(m * (1 - sparsity) - n) > 1e-6:
        raise ValueError(
            f"sr_ste(sparsity={sparsity}, m={m}): {m * (1 - sparsity):g} of {m} weights is no N:M pattern; "
            "2:4 is sparsity=0.5, m=4."
        )
    schedule = schedules.every(every, sparsity=sparsity, begin=begin, end=end)
    pattern, update = patterns.groups(m), updates.reselect()
    return Method(
        criteria.magnitude,
        schedule=schedule,
        pattern=pattern,
        update=update,
        backward=Backward(decay),
    )


@factory
def surgery(
    *, end: int, every: int = 1, begin: int = 0, c: float = 0.0, margin: float = 0.1
) -> Method:
    """Dynamic network surgery: weights are cut below one threshold, and spliced back above another.

    How sparse that is, `c` and the weights decide.

    References: Guo, Yao & Chen, "Dynamic Network Surgery for Efficient DNNs" (2016). Departures: masks
    change every `every` steps instead of ever more rarely at random; thresholds of the moment.
    """
    schedule = schedules.every(every, sparsity=0.0, begin=begin, end=end)
    update = updates.splice(c, margin)
    return Method(criteria.magnitude, schedule=schedule, update=update, backward=Backward())


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
    """Top-KAST: the largest weights run forward, a larger set of them learns, the rest stands still.

    References: Jayakumar, Pascanu, Rae, Osindero & Elsen, "Top-KAST: Top-K Always Sparse Training"
    (2020). Departure: the paper's loss of exploration pulls at the weights that learn without running
    forward, 1/(forward density) times as strongly as at those that run. Here that is `decay * w`, added to
    their gradient, and it is 0 by default; the pull at the others is the wrapped optimizer's weight decay.
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
