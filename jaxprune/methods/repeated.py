"""Methods that begin dense and prune in rounds or in cycles, some of them bringing weights back."""

from jaxprune import allocation as allocations
from jaxprune import criteria, patterns, schedules, updates
from jaxprune.method import Method
from jaxprune.parts import factory
from jaxprune.types import AnyAllocation
from jaxprune.units.coupling import AnyPattern

__all__ = ["ac_dc", "cyclical", "granet", "iterative", "std_threshold"]

_UNSTRUCTURED = patterns.unstructured()
_UNIFORM = allocations.uniform()
_GLOBAL = allocations.global_budget()


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
    """Returns magnitude pruning in rounds with training between them: each removes a share of what is left.

    Use it when you can train long and want the classical recipe: cut a little, train on, and repeat. With
    weights that are rewound to earlier values it is `jaxprune.lottery_ticket`. None of our runs compares it
    with `gmp`.

    Args:
      rate: share of the remaining weights that one round removes, in [0, 1).
      every: updates from one round to the next.
      levels: number of rounds; $1 - (1 - r)^n$ of the weights are gone after $n$ of rate $r$.
      begin: update, counted from 0, of the first round.
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
      (2015). Departure: a fraction per layer instead of a threshold.

    >>> method = iterative(rate=0.5, every=100, levels=3)
    >>> [round(float(method.schedule.sparsity(step)), 3) for step in (0, 100, 200)]
    [0.5, 0.75, 0.875]
    """
    schedule = schedules.levels(rate=rate, every=every, levels=levels, begin=begin)
    return Method(criteria.magnitude, schedule=schedule, pattern=pattern, allocation=allocation)


@factory
def std_threshold(
    *,
    quality: float,
    begin: int = 0,
    every: int = 1,
    rounds: int = 1,
    pattern: AnyPattern = _UNSTRUCTURED,
) -> Method:
    """Returns pruning below a threshold: a share of the standard deviation of each leaf's weights.

    Use it when the sizes of the weights shall determine how sparse each layer becomes, as in the paper. To
    choose the sparsity yourself, use `iterative` or `gmp`. None of our runs compares it with others.

    Args:
      quality: how many standard deviations the threshold lies above zero; more removes more.
      begin: update, counted from 0, of the first round.
      every: updates from one round to the next.
      rounds: how often weights below the threshold are removed.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.

    Returns:
      A method for `jaxprune.prune` and `jaxprune.sparsify`.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Han, Pool, Tran & Dally, "Learning both Weights and Connections for Efficient Neural Networks"
      (2015). Departure: the deviation is taken around zero, of the weights that are left.

    >>> import jax.numpy as jnp
    >>> from jaxprune import prune
    >>> params = {"w": jnp.array([[1.0, -1.0, 1.0, 3.0]])}  # the deviation is the root of 12 / 4, 1.7
    >>> prune(params, std_threshold(quality=1.0))[0]
    {'w': Array([[0., 0., 0., 3.]], dtype=float32)}
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
    """Returns cyclical pruning: the sparsity rises in several cycles, and weights removed wrongly can return.

    Use it when early masks are doubtful and there is time for several cycles. We measured no gain: with two
    cycles it was as good as `gmp` at 90 % and 0.1 points worse at 98 % (LeNet-300-100 on MNIST,
    results/compare_methods).

    Args:
      sparsity: fraction removed at the end of every cycle, in [0, 1).
      begin: update, counted from 0, at which masks first change.
      end: update at which they change last and `sparsity` is reached.
      every: updates from one change of the masks to the next.
      cycles: how often the sparsity rises.
      initial: fraction removed at the start of every cycle, in [0, 1).
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; by default each has
        the same.

    Returns:
      A method for `jaxprune.prune` and `jaxprune.sparsify`.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Srinivas, Kuzmin, Nagel, van Baalen, Skliar & Blankevoort, "Cyclical Pruning for Sparse Neural
      Networks" (2022). Departure: a weight returns with the value zero; under `straight_through`, with the
      value that it has reached meanwhile.

    >>> method = cyclical(sparsity=0.8, begin=0, end=20, every=5, cycles=2)
    >>> [round(float(method.schedule.sparsity(step)), 2) for step in (0, 5, 10, 15, 20)]
    [0.0, 0.8, 0.0, 0.8, 0.8]
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
    """Returns AC/DC: sparse ("compressed") and dense phases in turn, the last of them sparse.

    The optimizer's state of pruned weights starts anew when they return.

    Use it when one training shall give a dense network as well as a sparse one. For the sparse one alone
    `gmp` was better with phases of 400 updates: by 0.1 points at 90 %, 0.3 at 95 %, 0.8 at 98 %
    (LeNet-300-100 on MNIST, results/compare_ac_dc). With phases as long as the paper's it matched `gmp` at 95
    % (results/compare_peste2021_mlp).

    Args:
      sparsity: fraction removed in the compressed phases, in [0, 1).
      begin: update, counted from 0, at which the first compressed phase begins; dense before.
      end: update from which on the network stays compressed.
      every: updates of one phase.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; by default the best
        weights of the whole tree are kept, whatever layer they are in.

    Returns:
      A method for `jaxprune.prune` and `jaxprune.sparsify`.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Peste, Iofinova, Vladu & Alistarh, "AC/DC: Alternating Compressed/DeCompressed Training of Deep
      Neural Networks" (2021).

    >>> method = ac_dc(sparsity=0.9, begin=0, end=6, every=2)
    >>> [round(float(method.schedule.sparsity(step)), 2) for step in (0, 2, 4, 6)]
    [0.9, 0.0, 0.9, 0.9]
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
    """Returns GraNet: gradual pruning that also replaces some kept weights by those of the largest gradients.

    With `initial` above 0 training begins at random masks of that sparsity, and needs a key.

    Use it when the sparsity is high and a few dense gradients are affordable. It was the best of 22 methods
    at 98 %, with a lead over `gmp` within its spread (97.77 ± 0.06 and 97.71 %, LeNet-300-100 on MNIST,
    results/compare_methods).

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      begin: update, counted from 0, at which masks first change.
      end: update at which they change last and `sparsity` is reached.
      every: updates from one change of the masks to the next.
      initial: fraction removed at `begin`, in [0, 1); 0: dense.
      fraction: share of the kept weights that a change of the masks replaces by others, in [0, 1]. This is
        its value at update 0; it decays to 0 at `end` by a cosine.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; by default the best
        weights of the whole tree are kept, whatever layer they are in.

    Returns:
      A method for `jaxprune.sparsify`.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Liu et al., "Sparse Training via Boosting Pruning Plasticity with Neuroregeneration" (2021).
      Departure: the random first masks are about equally dense in all leaves, unless `allocation` is `erk`.

    >>> import jax.numpy as jnp
    >>> from jaxprune import next_masks
    >>> method = granet(sparsity=0.5, begin=0, end=10, every=5, initial=0.5)
    >>> params = {"w": jnp.array([[4.0, 3.0, 0.0, 0.0]])}
    >>> masks = {"w": jnp.array([[True, True, False, False]])}
    >>> next_masks(method, params, masks, 0, grads={"w": jnp.array([[0.0, 0.0, 1.0, 9.0]])})
    {'w': Array([[ True, False, False,  True]], dtype=bool)}
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
