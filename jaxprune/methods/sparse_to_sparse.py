"""Methods that are sparse from the start: with fixed random masks, or with masks that change in training."""

from jaxprune import allocation as allocations
from jaxprune import criteria, patterns, schedules, updates
from jaxprune.method import Method
from jaxprune.parts import factory
from jaxprune.types import AnyAllocation
from jaxprune.units.coupling import AnyPattern

__all__ = ["dsr", "itop", "mest", "rigl", "set_", "snfs", "static"]

_UNSTRUCTURED = patterns.unstructured()
_ERK = allocations.erk()


@factory
def static(
    *, sparsity: float, pattern: AnyPattern = _UNSTRUCTURED, allocation: AnyAllocation = _ERK
) -> Method:
    """Returns training of a random sparse network whose masks never change. Needs a key.

    Use it when you need the control that methods with changing masks must beat. At 98 % its accuracy was 2.0
    to 38 points below that of `set_` (MNIST, results/compare_mnist_mlp and results/compare_evci2022_mlp).

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; Erdős–Rényi-kernel
        densities by default: layers with few inputs and outputs keep a larger fraction.

    Returns:
      A method for `jaxprune.sparsify`, whose `key` draws the first masks.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      None: the control of Mocanu et al. (2018) and of Evci et al. (2020).

    >>> import jax
    >>> from jaxprune import prune
    >>> _, masks = prune({"w": jax.numpy.ones((2, 4))}, static(sparsity=0.5), key=jax.random.key(0))
    >>> int(masks["w"].sum())
    4
    """
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
    """Returns SET: from time to time the smallest weights are replaced by random ones. Needs a key.

    Use it when gradients of removed weights may never be computed. At 98 % its accuracy was 2.0 to 38 points
    above that of `static` and 0.4 to 2.1 below that of `rigl` (MNIST, results/compare_mnist_mlp,
    results/compare_evci2022_mlp).

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      every: updates from one change of the masks to the next; the first is at update `every`.
      end: update at which masks change last; papers stop at about 75 % of the training.
      fraction: share of the kept weights that a change of the masks replaces by others, in [0, 1].
      decay: whether `fraction` decays to 0 at `end` by a cosine, as RigL's does.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; Erdős–Rényi-kernel
        densities by default: layers with few inputs and outputs keep a larger fraction.

    Returns:
      A method for `jaxprune.sparsify`, whose `key` draws the first masks.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Mocanu et al., "Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity
      inspired by Network Science" (2018). Departures: the smallest in size are dropped, not those closest
      to zero on either side; changes stop at `end`.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxprune import next_masks
    >>> params = {"w": jnp.array([[4.0, 3.0, 0.0, 0.0]])}
    >>> masks = {"w": jnp.array([[True, True, False, False]])}
    >>> method = set_(sparsity=0.5, every=5, end=10, fraction=0.5)
    >>> masks = next_masks(method, params, masks, 5, key=jax.random.key(0))
    >>> bool(masks["w"][0, 0]), int(masks["w"].sum())  # the larger weight stays; one place is drawn
    (True, 2)
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
    """Returns RigL: the smallest weights are replaced by those of the largest gradients. Needs a key.

    Use it when training must be sparse from the start and a dense gradient every `every` updates is
    affordable. At 98 % its accuracy was 0.4 to 2.1 points above that of `set_`, and 1.5 to 2.2 below that of
    `gmp`, which begins dense (MNIST, results/compare_mnist_mlp, results/compare_evci2022_mlp). Arrays stay
    dense in this library, so this saves neither memory nor time by itself.

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      every: updates from one change of the masks to the next; the first is at update `every`.
      end: update at which masks change last; papers stop at about 75 % of the training.
      fraction: share of the kept weights that a change of the masks replaces by others, in [0, 1]. This is
        its value at update 0; it decays to 0 at `end` by a cosine.
      accumulate: whether the gradients are summed over the updates since the last change of the masks;
        otherwise they are those of one batch.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; Erdős–Rényi-kernel
        densities by default: layers with few inputs and outputs keep a larger fraction.

    Returns:
      A method for `jaxprune.sparsify`, whose `key` draws the first masks.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Evci, Gale, Menick, Castro & Elsen, "Rigging the Lottery: Making All Tickets Winners" (2020):
      cosine-decayed fraction, Erdős–Rényi-kernel densities, no gradient step when masks change: no weight of
      any leaf moves, moments stay as they were, and grown weights have none. Departure: counts of the wrapped
      optimizer advance in that update, so that learning-rate schedules keep in step; Adam's bias correction
      counts it too.

    >>> import jax.numpy as jnp
    >>> from jaxprune import next_masks
    >>> params = {"w": jnp.array([[4.0, 3.0, 0.0, 0.0]])}
    >>> masks = {"w": jnp.array([[True, True, False, False]])}
    >>> method = rigl(sparsity=0.5, every=5, end=10, fraction=0.5)
    >>> next_masks(method, params, masks, 0, grads={"w": jnp.array([[0.0, 0.0, 1.0, 9.0]])})
    {'w': Array([[ True, False, False,  True]], dtype=bool)}
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
    """Returns RigL-ITOP: RigL with rare and large changes, so that more weights are tried. Needs a key.

    In the paper masks change every 1,500 to 4,000 updates, until late in training.

    Use it when training is long and sparse from the start. With a change every 400 of 4,000 updates its
    accuracy at 98 % was 0.33 points above that of `rigl` and 0.25 below that of `rigl(accumulate=True)`
    (LeNet-300-100 on MNIST, results/compare_methods).

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      every: updates from one change of the masks to the next; the first is at update `every`.
      end: update at which masks change last; papers stop at about 75 % of the training.
      fraction: share of the kept weights that a change of the masks replaces by others, in [0, 1]. This is
        its value at update 0; it decays to 0 at `end` by a cosine.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; Erdős–Rényi-kernel
        densities by default: layers with few inputs and outputs keep a larger fraction.

    Returns:
      A method for `jaxprune.sparsify`, whose `key` draws the first masks.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Liu, Yin, Mocanu & Pechenizkiy, "Do We Actually Need Dense Over-Parameterization? In-Time
      Over-Parameterization in Sparse Training" (2021).

    >>> import jax.numpy as jnp
    >>> from jaxprune import next_masks
    >>> params = {"w": jnp.array([[4.0, 3.0, 0.0, 0.0]])}
    >>> masks = {"w": jnp.array([[True, True, False, False]])}
    >>> method = itop(sparsity=0.5, every=5, end=10, fraction=0.5)
    >>> next_masks(method, params, masks, 0, grads={"w": jnp.array([[0.0, 0.0, 1.0, 9.0]])})
    {'w': Array([[ True, False, False,  True]], dtype=bool)}
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
    """Returns SNFS: weights are regrown in the leaves, and at the weights, of large momentum.

    Needs a key.

    Use it when training must be sparse from the start and you do not know how dense each layer should be. It
    reads the gradients of all weights in every update. It was as good as `rigl` at 90 and 98 % (LeNet-300-100
    on MNIST, results/compare_methods).

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      every: updates from one change of the masks to the next; the first is at update `every`.
      end: update at which masks change last; papers stop at about 75 % of the training.
      fraction: share of the kept weights that a change of the masks replaces by others, in [0, 1]. This is
        its value at update 0; it decays to 0 at `end` by a cosine.
      allocation: how the sparsity is divided among leaves to begin with, from `jaxprune.allocation`;
        Erdős–Rényi-kernel densities by default.

    Returns:
      A method for `jaxprune.sparsify`, whose `key` draws the first masks.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Dettmers & Zettlemoyer, "Sparse Networks from Scratch: Faster Training without Losing Performance"
      (2019). Departures: the momentum is an average of its own, over dead weights too; leaves share by
      what is left of them after the drop; Erdős–Rényi-kernel densities to begin with.

    >>> import jax.numpy as jnp
    >>> from jaxprune import next_masks
    >>> weights = jnp.array([[8.0, 7.0, 6.0, 5.0, 0.0, 0.0, 0.0, 0.0]])
    >>> params = {"a": weights, "b": weights / 10}
    >>> masks = {"a": weights > 0, "b": weights > 0}
    >>> method = snfs(sparsity=0.5, every=5, end=10)
    >>> momentum = {"a": jnp.zeros((1, 8)), "b": jnp.ones((1, 8))}
    >>> masks = next_masks(method, params, masks, 0, momentum=momentum)
    >>> [int(mask.sum()) for mask in masks.values()]  # each drops 2; shares are rounded, the last goes to `a`
    [3, 5]
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
    """Returns DSR: the smallest weights of the whole tree are removed, and others regrow at random.

    A leaf that has kept more weights regrows more (dynamic sparse reparameterization). Needs a key.

    Use it when training must be sparse from the start, no gradient of removed weights may be computed, and
    you do not know how dense each layer should be. It was as good as `set_` at 90 and 98 % (LeNet-300-100 on
    MNIST, results/compare_methods).

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      every: updates from one change of the masks to the next; the first is at update `every`.
      end: update at which masks change last; papers stop at about 75 % of the training.
      fraction: share of the kept weights that a change of the masks replaces by others, in [0, 1].
      allocation: how the sparsity is divided among leaves to begin with, from `jaxprune.allocation`;
        Erdős–Rényi-kernel densities by default.

    Returns:
      A method for `jaxprune.sparsify`, whose `key` draws the first masks.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Mostafa & Wang, "Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic
      Sparse Reparameterization" (2019). Departures: the threshold that drops the fraction is found
      exactly, instead of being doubled or halved from change to change; Erdős–Rényi-kernel densities to
      begin with.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxprune import next_masks
    >>> weights = jnp.array([[8.0, 7.0, 6.0, 5.0, 0.0, 0.0, 0.0, 0.0]])
    >>> params = {"a": weights, "b": weights / 10}
    >>> masks = {"a": weights > 0, "b": weights > 0}
    >>> method = dsr(sparsity=0.5, every=5, end=10, fraction=0.5)
    >>> masks = next_masks(method, params, masks, 5, key=jax.random.key(0))
    >>> [int(mask.sum()) for mask in masks.values()]  # `b`, whose weights are the smallest, drops all but one
    [7, 1]
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
    """Returns MEST: weights of small size and small gradient are replaced by random ones. Needs a key.

    Use it when training must be sparse from the start and only the gradients of kept weights are available.
    It was as good as `set_` at 90 and 98 % (LeNet-300-100 on MNIST, results/compare_methods).

    Args:
      sparsity: fraction removed of the prunable weights, in [0, 1): 0.9 keeps one in ten.
      every: updates from one change of the masks to the next; the first is at update `every`.
      end: update at which masks change last; papers stop at about 75 % of the training.
      fraction: share of the kept weights that a change of the masks replaces by others, in [0, 1]. This is
        its value at update 0; it decays to 0 at `end` by a cosine.
      pattern: which weights are removed together and which compete, from `jaxprune.patterns` or
        `jaxprune.structured.coupled`; single weights by default.
      allocation: how the sparsity is divided among leaves, from `jaxprune.allocation`; Erdős–Rényi-kernel
        densities by default: layers with few inputs and outputs keep a larger fraction.

    Returns:
      A method for `jaxprune.sparsify`, whose `key` draws the first masks.

    Raises:
      ValueError: if an argument is out of its range.

    References:
      Yuan et al., "MEST: Accurate and Fast Memory-Economic Sparse Training Framework on the Edge" (2021),
      elastic mutation. Departures: the fraction decays by a cosine; the paper's variant that exceeds the
      budget for a while is left out.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxprune import next_masks
    >>> params = {"w": jnp.array([[4.0, 3.0, 0.0, 0.0]])}
    >>> masks = {"w": jnp.array([[True, True, False, False]])}
    >>> method = mest(sparsity=0.5, every=5, end=10, fraction=0.5)
    >>> grads = {"w": jnp.array([[0.0, 9.0, 0.0, 0.0]])}
    >>> masks = next_masks(method, params, masks, 0, grads=grads, key=jax.random.key(0))
    >>> bool(masks["w"][0, 1]), int(masks["w"].sum())  # 3 + 9 stays before 4 + 0; one place is drawn
    (True, 2)
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
