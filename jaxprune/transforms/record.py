"""Records the masks of a training run: their mean density, and the weights that were ever kept."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import masks as masks_lib
from jaxprune import trees
from jaxprune.transforms.changes import overdue_of
from jaxprune.transforms.checking import check_transform, check_update
from jaxprune.transforms.containers import from_inner
from jaxprune.transforms.reading import masks_of, nodes_of
from jaxprune.types import Masks, Params

__all__ = ["Record", "record_of", "recorded"]


class Record(NamedTuple):
    """State of `recorded`, and what `record_of` finds.

    Attributes:
      updates: number of updates recorded.
      density: tree of float32 scalars, the fraction of a leaf that is kept, averaged over these updates; the
        cost of training follows from it.
      explored: tree of bool arrays, true at weights that were kept at any time.
      inner: the wrapped optimizer's state.
    """

    updates: Any
    density: Any
    explored: Masks
    inner: optax.OptState

    __getattr__ = from_inner

    @property
    def exploration(self) -> jax.Array:
        """Fraction of the prunable weights that were kept at any time: the exploration rate of ITOP."""
        return 1 - masks_lib.sparsity(self.explored)

    @property
    def pending(self) -> jax.Array:
        """Whether a change of masks is due that could not be made yet: a bool scalar."""
        waits = [flag for overdue in overdue_of(self.inner) for flag in overdue.pending]
        return jnp.stack([jnp.zeros((), bool), *waits]).any()

    @property
    def held(self) -> jax.Array:
        """Number of updates that held a change, as a gradient was not finite or a score NaN: int32."""
        return sum((overdue.held for overdue in overdue_of(self.inner)), jnp.zeros((), jnp.int32))


def recorded(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""Returns a transform that keeps a record of the masks of `inner`; it changes no update.

    The density $d_t$ of a leaf is that of the mask with which the gradients of update $t$ were computed. The
    mean $\bar d = \frac1T \sum_t d_t$ is therefore the leaf's cost in operations relative to dense training.
    The explored weights are $\bigvee_t m_t$, including the masks after the last update.

    Args:
      inner: `sparsify`, `straight_through`, `proximal`, `lottery_ticket`, `fixed`, `growing`, or a
        transform that wraps one of them.

    Returns:
      A gradient transformation with the updates of `inner`; `record_of` reads its state.

    References:
      Liu et al., "Do We Actually Need Dense Over-Parameterization? In-Time Over-Parameterization in Sparse
      Training" (2021): the exploration rate $R_s$. Evci et al., "Rigging the Lottery" (2020), appendix H:
      training operations from the densities.

    >>> from jaxprune import methods, sparsify
    >>> tx = recorded(sparsify(optax.sgd(0.1), methods.magnitude(sparsity=0.5)))
    >>> params = {"w": jnp.array([[1.0, -3.0]])}
    >>> updates, state = tx.update({"w": jnp.ones((1, 2))}, tx.init(params), params)
    >>> record = record_of(state)
    >>> float(record.density["w"]), float(record.exploration)  # the first gradients were dense
    (1.0, 1.0)
    """
    check_transform("recorded", inner)
    inner = optax.with_extra_args_support(inner)

    def init(params: Params) -> Record:
        state = inner.init(params)
        masks = masks_of(state)

        def zero_density(_: Any) -> jax.Array:
            return jnp.zeros((), jnp.float32)  # anew for each leaf: a state may be donated

        is_placeholder = trees.is_placeholder(params)
        density = zero_density(params) if is_placeholder else jax.tree.map(zero_density, masks)
        # A copy: two names for one buffer could not both be donated.
        return Record(jnp.zeros((), jnp.int32), density, jax.tree.map(jnp.copy, masks), state)

    def update(
        grads: Params, state: Record, params: Params | None = None, **extra: Any
    ) -> tuple[Params, Record]:
        check_update("recorded", Record, grads, state, params)
        count: Any = optax.safe_increment(state.updates)

        def new_mean(density: jax.Array, mask: jax.Array) -> jax.Array:
            return density + (jnp.mean(mask, dtype=jnp.float32) - density) / count

        densities = jax.tree.map(new_mean, state.density, masks_of(state.inner))
        updates, inner_state = inner.update(grads, state.inner, params, **extra)
        explored = jax.tree.map(jnp.logical_or, state.explored, masks_of(inner_state))
        return updates, Record(count, densities, explored, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore


def record_of(opt_state: Any) -> Record:
    """Returns the record in an optimizer state, chains and wrappers around it included.

    Args:
      opt_state: state of the optimizer.

    Returns:
      The record: updates, densities, explored weights, changes that were held.

    Raises:
      ValueError: if there is none, or more than one.

    >>> from jaxprune import methods, sparsify
    >>> tx = recorded(sparsify(optax.sgd(0.1), methods.magnitude(sparsity=0.5)))
    >>> int(record_of(tx.init({"w": jnp.ones((1, 2))})).updates)
    0
    """
    nodes = nodes_of(opt_state, lambda node: isinstance(node, Record))
    records = [trees.unboxed(node) for node in nodes]
    if len(records) != 1:
        raise ValueError(
            f"record_of: {len(records) or 'no'} records in this optimizer state, one is needed; wrap the "
            "optimizer in jaxprune.recorded(...)."
        )
    return records[0]
