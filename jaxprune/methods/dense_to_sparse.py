"""Methods that begin dense and prune: at once, gradually, in rounds or in cycles; or not at all."""

from jaxprune import allocation as allocations
from jaxprune import criteria, patterns, schedules, updates
from jaxprune.coupling import AnyPattern
from jaxprune.method import Method
from jaxprune.parts import factory
from jaxprune.types import AnyAllocation, Backward

__all__ = [
    "ac_dc",
    "cyclical",
    "global_magnitude",
    "gmp",
    "granet",
    "iterative",
    "lamp",
    "magnitude",
    "magnitude_increase",
    "movement",
    "none",
    "random",
    "saliency",
    "std_threshold",
    "weight_change",
]

_UNSTRUCTURED, _UNIFORM = patterns.unstructured(), allocations.uniform()
_GLOBAL = allocations.global_budget()


@factory
def none() -> Method:
    """Nothing is pruned: dense training through the same transform, the baseline of others.

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
    """One-shot magnitude pruning: the smallest weights go, all at once.

    References: Han, Pool, Tran & Dally, "Learning both Weights and Connections for Efficient Neural
    Networks" (2015). Departure: a fraction per layer instead of a threshold.
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
    """One-shot random pruning: the control. Needs a key."""
    schedule = schedules.one_shot(sparsity=sparsity, at=at)
    return Method(criteria.random, schedule=schedule, pattern=pattern, allocation=allocation)


@factory
def gmp(
    *,
    sparsity: float,
    begin: int,
    end: int,
    every: int,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _UNIFORM,
) -> Method:
    """Gradual magnitude pruning on a cubic schedule, while training.

    References: Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
    compression" (2017). Departure: pruned weights stay zero; in the paper they may grow again.
    """
    schedule = schedules.cubic(sparsity=sparsity, begin=begin, end=end, every=every)
    return Method(criteria.magnitude, schedule=schedule, pattern=pattern, allocation=allocation)


@factory
def global_magnitude(
    *,
    sparsity: float,
    begin: int,
    end: int,
    every: int,
    at_least: int = 0,
    at_most: float = 1.0,
    pattern: AnyPattern = _UNSTRUCTURED,
) -> Method:
    """Gradual magnitude pruning where all leaves share one budget.

    A layer keeps `at_least` units and loses a fraction of `at_most`; by default it may lose all.

    References: Zhu & Gupta (2017) for the schedule; Blalock, Gonzalez Ortiz, Frankle & Guttag, "What is
    the State of Neural Network Pruning?" (2020) for global magnitude as the baseline to beat.
    """
    schedule = schedules.cubic(sparsity=sparsity, begin=begin, end=end, every=every)
    allocation = allocations.global_budget(at_least=at_least, at_most=at_most)
    return Method(criteria.magnitude, schedule=schedule, pattern=pattern, allocation=allocation)


@factory
def lamp(
    *,
    sparsity: float,
    begin: int,
    end: int,
    every: int,
    at_least: int = 0,
    at_most: float = 1.0,
    pattern: AnyPattern = _UNSTRUCTURED,
) -> Method:
    """Gradual magnitude pruning with layer-adaptive budgets.

    A layer keeps `at_least` units and loses a fraction of `at_most`; by default it may lose all.

    References: Lee, Park, Mo, Ahn & Shin, "Layer-adaptive Sparsity for the Magnitude-based Pruning"
    (2021). Departure: on a cubic schedule while training; the paper prunes and fine-tunes in rounds.
    """
    schedule = schedules.cubic(sparsity=sparsity, begin=begin, end=end, every=every)
    allocation = allocations.global_budget("lamp", at_least=at_least, at_most=at_most)
    return Method(criteria.magnitude, schedule=schedule, pattern=pattern, allocation=allocation)


@factory
def saliency(
    *,
    sparsity: float,
    begin: int,
    end: int,
    every: int,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _UNIFORM,
) -> Method:
    """Gradual pruning of the weights whose removal changes the loss least, to first order.

    References: Molchanov, Tyree, Karras, Aila & Kautz, "Pruning Convolutional Neural Networks for
    Resource Efficient Inference" (2017). Departure: the gradients of one batch, on a cubic schedule.
    """
    schedule = schedules.cubic(sparsity=sparsity, begin=begin, end=end, every=every)
    return Method(criteria.taylor, schedule=schedule, pattern=pattern, allocation=allocation)


@factory
def iterative(
    *,
    rate: float,
    every: int,
    levels: int,
    begin: int = 0,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _UNIFORM,
) -> Method:
    """Rounds of magnitude pruning and training on: each removes `rate` of what is left.

    References: Han, Pool, Tran & Dally, "Learning both Weights and Connections for Efficient Neural
    Networks" (2015). Departure: a fraction per layer instead of a threshold.
    """
    schedule = schedules.levels(rate=rate, every=every, levels=levels, begin=begin)
    return Method(criteria.magnitude, schedule=schedule, pattern=pattern, allocation=allocation)


@factory
def movement(
    *,
    sparsity: float,
    begin: int,
    end: int,
    every: int,
    straight_through: bool = False,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _UNIFORM,
) -> Method:
    """Movement pruning: the weights that training pushes towards zero go, large or small.

    With `straight_through`, for the transform of that name, weights off the masks go on moving, as in the
    paper, and may come back. Without, they are zero and their scores stand still, until others fall below
    them. All scores are zero in the first step: `begin` later.

    References: Sanh, Wolf & Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning" (2020), the hard
    version. Departure: the score is the plain sum of $-w g$; in the paper an optimizer trains it.
    """
    schedule = schedules.cubic(sparsity=sparsity, begin=begin, end=end, every=every)
    backward = Backward() if straight_through else None
    return Method(
        criteria.movement,
        schedule=schedule,
        pattern=pattern,
        allocation=allocation,
        update=updates.reselect(),
        backward=backward,
    )


@factory
def weight_change(
    *,
    sparsity: float,
    begin: int,
    end: int,
    every: int,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _UNIFORM,
) -> Method:
    """Gradual pruning of the weights that have changed least since training began.

    References: Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the
    Supermask" (2019). Departure: on a cubic schedule while training; the paper prunes in rounds.
    """
    schedule = schedules.cubic(sparsity=sparsity, begin=begin, end=end, every=every)
    return Method(criteria.weight_change, schedule=schedule, pattern=pattern, allocation=allocation)


@factory
def magnitude_increase(
    *,
    sparsity: float,
    begin: int,
    end: int,
    every: int,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _UNIFORM,
) -> Method:
    """Gradual pruning of the weights that have grown least in size since training began.

    References: Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the
    Supermask" (2019). Departure: on a cubic schedule while training; the paper prunes in rounds.
    """
    schedule = schedules.cubic(sparsity=sparsity, begin=begin, end=end, every=every)
    return Method(
        criteria.magnitude_increase, schedule=schedule, pattern=pattern, allocation=allocation
    )


@factory
def std_threshold(
    *,
    quality: float,
    begin: int = 0,
    every: int = 1,
    rounds: int = 1,
    pattern: AnyPattern = _UNSTRUCTURED,
) -> Method:
    """Weights below `quality` standard deviations of their leaf go; how sparse that is, they decide.

    References: Han, Pool, Tran & Dally, "Learning both Weights and Connections for Efficient Neural
    Networks" (2015). Departure: the deviation is taken around zero, of the weights that are left.
    """
    end = begin + (rounds - 1) * every
    schedule = schedules.every(every, sparsity=0.0, begin=begin, end=end)
    return Method(
        criteria.magnitude,
        schedule=schedule,
        pattern=pattern,
        allocation=allocations.threshold(quality),
    )


@factory
def cyclical(
    *,
    sparsity: float,
    begin: int,
    end: int,
    every: int,
    cycles: int,
    initial: float = 0.0,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _UNIFORM,
) -> Method:
    """Cyclical pruning: sparsity rises again and again, and what was pruned wrongly can come back.

    References: Srinivas, Kuzmin, Nagel, van Baalen, Skliar & Blankevoort, "Cyclical Pruning for Sparse
    Neural Networks" (2022). Departure: a weight comes back from zero; under `straight_through`, from
    where it has gone meanwhile.
    """
    schedule = schedules.cyclical(
        sparsity=sparsity, begin=begin, end=end, every=every, cycles=cycles, initial=initial
    )
    return Method(
        criteria.magnitude,
        schedule=schedule,
        pattern=pattern,
        allocation=allocation,
        update=updates.reselect(),
    )


@factory
def ac_dc(
    *,
    sparsity: float,
    begin: int,
    end: int,
    every: int,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _GLOBAL,
) -> Method:
    """AC/DC: compressed and decompressed phases of `every` steps in turn, compressed from `end` on.

    The optimizer's state of pruned weights starts anew when they come back.

    References: Peste, Iofinova, Vladu & Alistarh, "AC/DC: Alternating Compressed/DeCompressed Training
    of Deep Neural Networks" (2021).
    """
    schedule = schedules.alternate(sparsity=sparsity, every=every, begin=begin, end=end)
    return Method(
        criteria.magnitude,
        schedule=schedule,
        pattern=pattern,
        allocation=allocation,
        update=updates.reselect(),
    )


@factory
def granet(
    *,
    sparsity: float,
    begin: int,
    end: int,
    every: int,
    initial: float = 0.0,
    fraction: float = 0.5,
    pattern: AnyPattern = _UNSTRUCTURED,
    allocation: AnyAllocation = _GLOBAL,
) -> Method:
    """GraNet: gradual pruning that deals out some of the places anew, to the largest gradients.

    References: Liu et al., "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration"
    (2021). `initial=0.5` starts at random masks of that sparsity, and needs a key. Departure: these are
    about equally dense in all leaves, unless `allocation` is `erk`.
    """
    schedule = schedules.cubic(
        sparsity=sparsity, begin=begin, end=end, every=every, initial=initial
    )
    update = updates.regrow(criteria.gradient, fraction=updates.cosine(fraction, end))
    first = criteria.random if initial else None
    return Method(
        criteria.magnitude,
        schedule=schedule,
        pattern=pattern,
        allocation=allocation,
        update=update,
        initial=first,
    )
