"""Methods that are sparse from the start: fixed at random, or moving their connections."""

from jaxprune import allocation as allocations
from jaxprune import criteria, patterns, schedules, updates
from jaxprune.coupling import AnyPattern
from jaxprune.method import Method
from jaxprune.parts import factory
from jaxprune.types import AnyAllocation

__all__ = ["dsr", "itop", "mest", "rigl", "set_", "snfs", "static"]

_UNSTRUCTURED, _ERK = patterns.unstructured(), allocations.erk()


@factory
def static(
    *, sparsity: float, pattern: AnyPattern = _UNSTRUCTURED, allocation: AnyAllocation = _ERK
) -> Method:
    """A random sparse network from the start, never changed. Needs a key."""
    schedule = schedules.never(sparsity=sparsity)
    return Method(
        criteria.random,
        schedule=schedule,
        pattern=pattern,
        allocation=allocation,
        initial=criteria.random,
    )


@factory
def set_(
    *,
    sparsity: float,
    every: int,
    end: int,
    fraction: float = 0.3,
    decay: bool = False,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _ERK,
) -> Method:
    """SET: the smallest weights give their places to random ones. Needs a key.

    With `decay`, the fraction decays by a cosine, as RigL's does.

    References: Mocanu et al., "Scalable Training of Artificial Neural Networks with Adaptive Sparse
    Connectivity inspired by Network Science" (2018). Departure: the smallest in size are dropped, not
    those closest to zero on either side; changes stop at `end`.
    """
    schedule = schedules.every(every, sparsity=sparsity, end=end)
    share = updates.cosine(fraction, end) if decay else fraction
    update = updates.regrow(criteria.random, fraction=share)
    return Method(
        criteria.magnitude,
        schedule=schedule,
        pattern=pattern,
        allocation=allocation,
        update=update,
        initial=criteria.random,
    )


@factory
def rigl(
    *,
    sparsity: float,
    every: int,
    end: int,
    fraction: float = 0.3,
    accumulate: bool = False,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _ERK,
) -> Method:
    """RigL: the smallest weights give their places to those of the largest gradients. Needs a key.

    With `accumulate`, the gradients are summed since the last change instead of being those of one batch.

    References: Evci, Gale, Menick, Castro & Elsen, "Rigging the Lottery: Making All Tickets Winners"
    (2020): cosine-decayed fraction, Erdős–Rényi-kernel densities, no gradient step when masks change: no
    weight of any leaf moves, moments stay as they were, and grown weights have none. Departure: counts of the
    wrapped optimizer go on, so that learning-rate schedules do not slip; Adam's bias correction counts that
    step too.
    """
    schedule = schedules.every(every, sparsity=sparsity, end=end)
    decay = updates.cosine(fraction, end)
    growth = criteria.accumulated_gradient if accumulate else criteria.gradient
    update = updates.regrow(growth, fraction=decay, skip_gradient=True)
    return Method(
        criteria.magnitude,
        schedule=schedule,
        pattern=pattern,
        allocation=allocation,
        update=update,
        initial=criteria.random,
    )


@factory
def itop(
    *,
    sparsity: float,
    every: int,
    end: int,
    fraction: float = 0.5,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _ERK,
) -> Method:
    """RigL-ITOP: RigL with rare and large changes, so that more weights get their turn. Needs a key.

    The paper's intervals are 1,500 to 4,000 steps between changes, which go on until late in training.

    References: Liu, Yin, Mocanu & Pechenizkiy, "Do We Actually Need Dense Over-Parameterization?
    In-Time Over-Parameterization in Sparse Training" (2021).
    """
    schedule = schedules.every(every, sparsity=sparsity, end=end)
    update = updates.regrow(criteria.gradient, fraction=updates.cosine(fraction, end))
    return Method(
        criteria.magnitude,
        schedule=schedule,
        pattern=pattern,
        allocation=allocation,
        update=update,
        initial=criteria.random,
    )


@factory
def snfs(
    *,
    sparsity: float,
    every: int,
    end: int,
    fraction: float = 0.5,
    allocation: AnyAllocation = _ERK,
) -> Method:
    """Sparse networks from scratch: places go to the leaves, and the weights, of large momentum.

    Needs a key.

    References: Dettmers & Zettlemoyer, "Sparse Networks from Scratch: Faster Training without Losing
    Performance" (2019). Departures: the momentum is an average of its own, over dead weights too; leaves
    share by what is left of them after the drop; Erdős–Rényi-kernel densities to begin with.
    """
    schedule = schedules.every(every, sparsity=sparsity, end=end)
    decay = updates.cosine(fraction, end)
    update = updates.redistribute(criteria.momentum, fraction=decay, shares=updates.by_signal)
    return Method(
        criteria.magnitude,
        schedule=schedule,
        allocation=allocation,
        update=update,
        initial=criteria.random,
    )


@factory
def dsr(
    *,
    sparsity: float,
    every: int,
    end: int,
    fraction: float = 0.3,
    allocation: AnyAllocation = _ERK,
) -> Method:
    """Dynamic sparse reparameterization: the smallest of all leaves go, chance grows others.

    A leaf that has kept more grows more. Needs a key.

    References: Mostafa & Wang, "Parameter Efficient Training of Deep Convolutional Neural Networks by
    Dynamic Sparse Reparameterization" (2019). Departures: the threshold that drops the fraction is found
    exactly, instead of being doubled or halved from change to change; Erdős–Rényi-kernel densities to begin
    with.
    """
    schedule = schedules.every(every, sparsity=sparsity, end=end)
    update = updates.redistribute(
        criteria.random, fraction=fraction, shares=updates.by_survivors, pooled=True
    )
    return Method(
        criteria.magnitude,
        schedule=schedule,
        allocation=allocation,
        update=update,
        initial=criteria.random,
    )


@factory
def mest(
    *,
    sparsity: float,
    every: int,
    end: int,
    fraction: float = 0.3,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _ERK,
) -> Method:
    """MEST: weights of small size and small gradient give their places to random ones. Needs a key.

    References: Yuan et al., "MEST: Accurate and Fast Memory-Economic Sparse Training Framework on the
    Edge" (2021), elastic mutation. Departures: the fraction decays by a cosine; the paper's variant that
    exceeds the budget for a while is left out.
    """
    schedule = schedules.every(every, sparsity=sparsity, end=end)
    update = updates.regrow(criteria.random, fraction=updates.cosine(fraction, end))
    score = criteria.magnitude_and_gradient
    return Method(
        score,
        schedule=schedule,
        pattern=pattern,
        allocation=allocation,
        update=update,
        initial=criteria.random,
    )
