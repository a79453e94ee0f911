"""Methods that prune gradually, while a network that begins dense is trained."""

from jaxprune import allocation as allocations
from jaxprune import criteria, patterns, schedules, updates
from jaxprune.method import Method
from jaxprune.parts import factory
from jaxprune.types import AnyAllocation, Backward
from jaxprune.units.coupling import AnyPattern

__all__ = [
    "global_magnitude",
    "gmp",
    "lamp",
    "magnitude_increase",
    "movement",
    "saliency",
    "weight_change",
]

_UNSTRUCTURED = patterns.unstructured()
_UNIFORM = allocations.uniform()


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
    """Returns gradual magnitude pruning: the smallest weights are removed while training, fast at first.

    The sparsity rises on the cubic schedule `jaxprune.schedules.cubic`.

    Use it when you train the network anyway and can afford to start dense. Try this method first. Its
    accuracy was within 0.1 points of dense at 90 % and within 0.4 at 98 %, and above that of all methods that
    are sparse from the start (LeNet-300-100 on MNIST, results/compare_methods and
    results/compare_evci2022_mlp).

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      begin: update, counted from 0, at which masks first change.
      end: update at which they change last and `sparsity` is reached.
      every: updates from one change of the masks to the next.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; by default each has
        the same.

    Returns:
      A method for `jaxprune.prune` and `jaxprune.sparsify`.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Zhu & Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression"
      (2017). Departure: pruned weights stay zero; in the paper they may grow again.

    >>> method = gmp(sparsity=0.8, begin=0, end=10, every=5)
    >>> [round(float(method.schedule.sparsity(step)), 2) for step in (0, 5, 10)]
    [0.0, 0.7, 0.8]
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
    """Returns gradual magnitude pruning where all leaves share one budget.

    The smallest weights of the whole tree are removed; by default a layer may lose all its weights.

    Use it when layers differ in how much they can lose and you do not want to choose a sparsity for each. Set
    `at_least` or `at_most`, or a layer may lose all its weights. It was as good as `gmp` at 90 % and 0.2
    points worse at 98 % (LeNet-300-100 on MNIST, results/compare_methods).

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      begin: update, counted from 0, at which masks first change.
      end: update at which they change last and `sparsity` is reached.
      every: updates from one change of the masks to the next.
      at_least: fewest units that a layer keeps (all if it has fewer); with 0 it may lose all.
      at_most: largest fraction removed of any one layer.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.

    Returns:
      A method for `jaxprune.prune` and `jaxprune.sparsify`.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Zhu & Gupta, "To prune, or not to prune" (2017), for the schedule; Blalock, Gonzalez Ortiz, Frankle
      & Guttag, "What is the State of Neural Network Pruning?" (2020), for global magnitude as the
      baseline to beat.

    >>> import jax.numpy as jnp
    >>> from jaxprune import prune
    >>> params = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[3.0, 4.0]])}
    >>> method = global_magnitude(sparsity=0.5, begin=0, end=10, every=5, at_least=1)
    >>> prune(params, method)[0]  # without `at_least`, both of `a` would go
    {'a': Array([[0., 2.]], dtype=float32), 'b': Array([[0., 4.]], dtype=float32)}
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
    """Returns gradual magnitude pruning with layer-adaptive budgets.

    The score of a weight is its square, divided by the sum of the squares of all weights of its leaf that are
    not smaller. These scores are compared between leaves. The largest weight of a leaf scores 1 and is
    removed last.

    Use it when `global_magnitude` removes too much of a layer and you do not want to choose densities. It was
    as good as `gmp` at 90 and 98 % (LeNet-300-100 on MNIST, results/compare_methods); each change sorts every
    leaf, slow on CPU.

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      begin: update, counted from 0, at which masks first change.
      end: update at which they change last and `sparsity` is reached.
      every: updates from one change of the masks to the next.
      at_least: fewest units that a layer keeps (all if it has fewer); with 0 it may lose all.
      at_most: largest fraction removed of any one layer.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.

    Returns:
      A method for `jaxprune.prune` and `jaxprune.sparsify`.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Lee, Park, Mo, Ahn & Shin, "Layer-adaptive Sparsity for the Magnitude-based Pruning" (2021).
      Departure: on a cubic schedule while training; the paper prunes and fine-tunes in rounds.

    >>> import jax.numpy as jnp
    >>> from jaxprune import prune
    >>> params = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[3.0, 4.0]])}  # 1/5 and 1, 9/25 and 1
    >>> prune(params, lamp(sparsity=0.5, begin=0, end=10, every=5))[0]
    {'a': Array([[0., 2.]], dtype=float32), 'b': Array([[0., 4.]], dtype=float32)}
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
    """Returns gradual pruning of the weights whose removal changes the loss least, to first order.

    Use it when you want a criterion that reads the loss instead of the size of weights. None of our runs
    shows a gain: it lost 1.7 points at 98 %, where `gmp` lost 0.4 (LeNet-300-100 on MNIST,
    results/compare_methods).

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      begin: update, counted from 0, at which masks first change.
      end: update at which they change last and `sparsity` is reached.
      every: updates from one change of the masks to the next.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; by default each has
        the same.

    Returns:
      A method for `jaxprune.sparsify`, and for `jaxprune.prune`, which needs `grads=` in addition.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Molchanov, Tyree, Karras, Aila & Kautz, "Pruning Convolutional Neural Networks for Resource
      Efficient Inference" (2017). Departure: the gradients of one batch, on a cubic schedule.

    >>> import jax.numpy as jnp
    >>> from jaxprune import prune
    >>> params, grads = {"w": jnp.array([[2.0, -1.0]])}, {"w": jnp.array([[1.0, 3.0]])}  # |w g|: 2, 3
    >>> prune(params, saliency(sparsity=0.5, begin=0, end=10, every=5), grads=grads)[0]
    {'w': Array([[ 0., -1.]], dtype=float32)}
    """
    schedule = schedules.cubic(sparsity=sparsity, begin=begin, end=end, every=every)
    return Method(criteria.taylor, schedule=schedule, pattern=pattern, allocation=allocation)


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
    """Returns movement pruning: the weights that training pushes towards zero are removed, large or small.

    With `straight_through=True` the method is for the transform `jaxprune.straight_through`: weights off the
    masks are trained further, as in the paper, and may return. Without it they are zero and their scores stay
    constant; they return if scores of other weights fall below theirs. All scores are zero in the first
    update, so `begin` must be later.

    Use it when you fine-tune a pretrained network, whose large weights may be of no use to the new task.
    LeNet-300-100 from MNIST to Fashion-MNIST with 3 % of its weights lost 1.75 points, 2.62 by `gmp` and 2.33
    by the gate `jaxprune.gates.movement`; with 15 % of the weights the three are within 0.3 points
    (results/compare_sanh2020_transfer). With `straight_through` it lost 6.4 points there, at a learning rate
    of 1e-3, perhaps because removed weights drift far before they return. Trained from scratch with
    `straight_through` it lost 1.5 points at 98 %, where `gmp` lost 0.4 (results/compare_methods); in another
    comparison from scratch the gate came first (results/compare_regularised).

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      begin: update, counted from 0, at which masks first change.
      end: update at which they change last and `sparsity` is reached.
      every: updates from one change of the masks to the next.
      straight_through: whether weights off the masks are trained further, by `jaxprune.straight_through`.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; by default each has
        the same.

    Returns:
      A method for `jaxprune.sparsify`, or with `straight_through` for the transform of that name.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Sanh, Wolf & Rush, "Movement Pruning: Adaptive Sparsity by Fine-Tuning" (2020), the hard version.
      Departure: the score is the plain sum of $-w g$; in the paper an optimizer trains it.

    >>> import jax.numpy as jnp
    >>> from jaxprune import prune
    >>> params, pushed = {"w": jnp.array([[1.0, 5.0]])}, {"w": jnp.array([[0.5, -1.0]])}
    >>> prune(params, movement(sparsity=0.5, begin=1, end=9, every=2), movement_sum=pushed)[0]
    {'w': Array([[1., 0.]], dtype=float32)}
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
    """Returns gradual pruning of the weights that have changed least since training began.

    Use it when you suspect that the size of a weight comes from initialisation and not from training. It was
    as good as `gmp` at 90 and 98 % (LeNet-300-100 on MNIST, results/compare_methods); it keeps a copy of the
    initial weights.

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      begin: update, counted from 0, at which masks first change.
      end: update at which they change last and `sparsity` is reached.
      every: updates from one change of the masks to the next.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; by default each has
        the same.

    Returns:
      A method for `jaxprune.sparsify`, and for `jaxprune.prune`, which needs `initial_params=` in addition.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask" (2019).
      Departure: on a cubic schedule while training; the paper prunes in rounds.

    >>> import jax.numpy as jnp
    >>> from jaxprune import prune
    >>> params, start = {"w": jnp.array([[2.0, -3.0]])}, {"w": jnp.array([[1.0, -3.0]])}  # changes: 1, 0
    >>> prune(params, weight_change(sparsity=0.5, begin=1, end=9, every=2), initial_params=start)[0]
    {'w': Array([[2., 0.]], dtype=float32)}
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
    """Returns gradual pruning of the weights that have grown least in size since training began.

    Use it when you suspect that the size of a weight comes from initialisation and not from training. Unlike
    `weight_change` it removes weights that have shrunk. It was as good as `gmp` at 90 and 98 % (LeNet-300-100
    on MNIST, results/compare_methods); it keeps a copy of the initial weights.

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      begin: update, counted from 0, at which masks first change.
      end: update at which they change last and `sparsity` is reached.
      every: updates from one change of the masks to the next.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; by default each has
        the same.

    Returns:
      A method for `jaxprune.sparsify`, and for `jaxprune.prune`, which needs `initial_params=` in addition.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask" (2019).
      Departure: on a cubic schedule while training; the paper prunes in rounds.

    >>> import jax.numpy as jnp
    >>> from jaxprune import prune
    >>> params, start = {"w": jnp.array([[2.0, -3.0]])}, {"w": jnp.array([[1.0, -4.0]])}  # growth: 1, -1
    >>> prune(params, magnitude_increase(sparsity=0.5, begin=1, end=9, every=2), initial_params=start)[0]
    {'w': Array([[2., 0.]], dtype=float32)}
    """
    schedule = schedules.cubic(sparsity=sparsity, begin=begin, end=end, every=every)
    return Method(
        criteria.magnitude_increase, schedule=schedule, pattern=pattern, allocation=allocation
    )
