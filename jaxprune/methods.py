"""Published methods as sentences: criterion · pattern · allocation · schedule · update."""

from jaxprune import allocation as allocations
from jaxprune import criteria, patterns, schedules, updates
from jaxprune.method import Method
from jaxprune.types import Allocation, Pattern

__all__ = [
    "global_magnitude",
    "gmp",
    "iterative",
    "lamp",
    "magnitude",
    "random",
    "rigl",
    "saliency",
    "set_",
    "static",
]

_UNSTRUCTURED, _UNIFORM, _ERK = patterns.unstructured(), allocations.uniform(), allocations.erk()


def magnitude(
    *,
    sparsity: float,
    at: int = 0,
    pattern: Pattern = _UNSTRUCTURED,
    allocation: Allocation = _UNIFORM,
) -> Method:
    """One-shot magnitude pruning: the smallest weights go, all at once.

    References: Han, Pool, Tran & Dally, "Learning both Weights and Connections for Efficient Neural
    Networks" (2015). Departure: a fraction per layer instead of a threshold.
    """
    schedule = schedules.one_shot(sparsity=sparsity, at=at)
    return Method(criteria.magnitude, schedule, pattern, allocation)


def random(
    *,
    sparsity: float,
    at: int = 0,
    pattern: Pattern = _UNSTRUCTURED,
    allocation: Allocation = _UNIFORM,
) -> Method:
    """One-shot random pruning: the control. Needs a key."""
    schedule = schedules.one_shot(sparsity=sparsity, at=at)
    return Method(criteria.random, schedule, pattern, allocation)


def gmp(
    *,
    sparsity: float,
    begin: int,
    end: int,
    every: int,
    pattern: Pattern = _UNSTRUCTURED,
    allocation: Allocation = _UNIFORM,
) -> Method:
    """Gradual magnitude pruning on a cubic schedule, while training.

    References: Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model
    compression" (2017). Departure: pruned weights stay zero; in the paper they may grow again.
    """
    schedule = schedules.cubic(sparsity=sparsity, begin=begin, end=end, every=every)
    return Method(criteria.magnitude, schedule, pattern, allocation)


def global_magnitude(
    *, sparsity: float, begin: int, end: int, every: int, pattern: Pattern = _UNSTRUCTURED
) -> Method:
    """Gradual magnitude pruning where all leaves share one budget.

    References: Zhu & Gupta (2017) for the schedule; Blalock, Gonzalez Ortiz, Frankle & Guttag, "What is
    the State of Neural Network Pruning?" (2020) for global magnitude as the baseline to beat.
    """
    shared = allocations.global_budget()
    return gmp(
        sparsity=sparsity, begin=begin, end=end, every=every, pattern=pattern, allocation=shared
    )


def lamp(
    *, sparsity: float, begin: int, end: int, every: int, pattern: Pattern = _UNSTRUCTURED
) -> Method:
    """Gradual magnitude pruning with layer-adaptive budgets.

    References: Lee, Park, Mo, Ahn & Shin, "Layer-adaptive Sparsity for the Magnitude-based Pruning"
    (2021). Departure: on a cubic schedule while training; the paper prunes and fine-tunes in rounds.
    """
    adaptive = allocations.global_budget(normalize="lamp")
    return gmp(
        sparsity=sparsity, begin=begin, end=end, every=every, pattern=pattern, allocation=adaptive
    )


def saliency(
    *,
    sparsity: float,
    begin: int,
    end: int,
    every: int,
    pattern: Pattern = _UNSTRUCTURED,
    allocation: Allocation = _UNIFORM,
) -> Method:
    """Gradual pruning of the weights whose removal changes the loss least, to first order.

    References: Molchanov, Tyree, Karras, Aila & Kautz, "Pruning Convolutional Neural Networks for
    Resource Efficient Inference" (2017). Departure: the gradients of one batch, on a cubic schedule.
    """
    schedule = schedules.cubic(sparsity=sparsity, begin=begin, end=end, every=every)
    return Method(criteria.taylor, schedule, pattern, allocation)


def iterative(
    *,
    rate: float,
    every: int,
    levels: int,
    begin: int = 0,
    pattern: Pattern = _UNSTRUCTURED,
    allocation: Allocation = _UNIFORM,
) -> Method:
    """Rounds of magnitude pruning and training on: each removes `rate` of what is left.

    References: Han, Pool, Tran & Dally, "Learning both Weights and Connections for Efficient Neural
    Networks" (2015). Departure: a fraction per layer instead of a threshold.
    """
    schedule = schedules.levels(rate=rate, every=every, levels=levels, begin=begin)
    return Method(criteria.magnitude, schedule, pattern, allocation)


def static(
    *, sparsity: float, pattern: Pattern = _UNSTRUCTURED, allocation: Allocation = _ERK
) -> Method:
    """A random sparse network from the start, never changed. Needs a key."""
    schedule = schedules.one_shot(sparsity=sparsity)._replace(due=lambda step: False)
    return Method(criteria.random, schedule, pattern, allocation, initial=criteria.random)


def set_(
    *,
    sparsity: float,
    every: int,
    end: int,
    fraction: float = 0.3,
    pattern: Pattern = _UNSTRUCTURED,
    allocation: Allocation = _ERK,
) -> Method:
    """SET: the smallest weights give their places to random ones. Needs a key.

    References: Mocanu et al., "Scalable Training of Artificial Neural Networks with Adaptive Sparse
    Connectivity inspired by Network Science" (2018). Departure: the smallest in size are dropped, not
    those closest to zero on either side; changes stop at `end`.
    """
    schedule = schedules.every(every, sparsity=sparsity, end=end)
    update = updates.regrow(criteria.random, fraction=fraction)
    return Method(criteria.magnitude, schedule, pattern, allocation, update, criteria.random)


def rigl(
    *,
    sparsity: float,
    every: int,
    end: int,
    fraction: float = 0.3,
    pattern: Pattern = _UNSTRUCTURED,
    allocation: Allocation = _ERK,
) -> Method:
    """RigL: the smallest weights give their places to those of the largest gradients. Needs a key.

    References: Evci, Gale, Menick, Castro & Elsen, "Rigging the Lottery: Making All Tickets Winners"
    (2020): cosine-decayed fraction, Erdős–Rényi-kernel densities, no gradient step when masks change.
    Departure: the wrapped optimizer still counts that step, so learning-rate schedules do not slip.
    """
    schedule = schedules.every(every, sparsity=sparsity, end=end)
    decay = updates.cosine(fraction, end)
    update = updates.regrow(criteria.gradient, fraction=decay, skip_gradient=True)
    return Method(criteria.magnitude, schedule, pattern, allocation, update, criteria.random)
