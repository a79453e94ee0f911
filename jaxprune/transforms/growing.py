"""Growing regularisation: weights shrink under a growing decay before they are removed."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks, kernel_axes, trees
from jaxprune import masks as masks_lib
from jaxprune.arrays.precision import at_least_float32
from jaxprune.hyperparameters import Scheduled, scheduled
from jaxprune.kernel_axes import AxesTree
from jaxprune.transforms.checking import check_inner, check_transform, check_update
from jaxprune.transforms.containers import at_home, from_inner
from jaxprune.transforms.line_search import forget_evaluations
from jaxprune.transforms.masked_step import masked_step
from jaxprune.types import Masks, Params

__all__ = ["GrowingState", "growing"]


class GrowingState(NamedTuple):
    """State of `growing`.

    Attributes:
      step: number of updates done.
      masks: the current masks; they keep all weights until the update of index `until`.
      target: the masks after that.
      inner: the wrapped optimizer's state.
    """

    step: Any
    masks: Masks
    target: Masks
    inner: optax.OptState

    __getattr__ = from_inner


def growing(
    inner: optax.GradientTransformation,
    masks: Masks,
    *,
    decay: Scheduled,
    until: int,
    axes: AxesTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Returns a transform that shrinks the weights off the masks by a growing decay, and then removes them.

    In updates with an index below `until`, a weight off the masks becomes $w \leftarrow (1 - d_t)(w + u)$,
    where $u$ is the update of `inner`. The other weights are trained as usual, and compensate. From index
    `until` on the transform does the same as `jaxprune.fixed`. It is meant for masks of units, from
    `jaxprune.structured.prune` or from `jaxprune.prune` with a pattern, but works with any masks.

        _, masks = jp.prune(params, jp.methods.magnitude(sparsity=0.5, pattern=filters))
        growth = optax.linear_schedule(0.0, 0.01, transition_steps=10_000)
        tx = jp.growing(optax.sgd(1e-3, momentum=0.9), masks, decay=growth, until=15_000)

    is GReg-1: the penalty grows to its maximum, and stays there until the weights are removed. In GReg-2 all
    weights are first penalised, and the weights that shrink least are kept. For GReg-2, put
    `add_penalty(penalties.elastic(0.0, ridge=growth))` before the optimizer for some updates, then prune by
    magnitude.

    Args:
      inner: any optax optimizer.
      masks: tree like the parameters of bool arrays or packed masks, `None` at leaves without a mask.
      decay: $d$, the fraction of its value that a weight loses in each update, from 0 to 1; a number, or a
        schedule (number of updates done -> number). For plain SGD it corresponds to the learning rate times
        the strength of the penalty. In bfloat16 a fraction below 1/500 is rounded away, like any small
        update.
      until: number of updates before the weights are removed.
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`.
        This transform does not use them; the argument exists so that all transforms can be called alike.
        `init` refuses axes that do not fit the parameters.

    Returns:
      A gradient transformation whose `update` needs `params`. `jaxprune.masks_of` returns the current masks.

    Raises:
      ValueError: if the decay is above 1 or `until` is below 0; in `init`, if the masks do not fit.

    References:
      Wang, Qin, Zhang & Fu, "Neural Pruning via Growing Regularization" (2021). Departures: weights decay
      beside the optimizer, as in Loshchilov & Hutter, "Decoupled Weight Decay Regularization" (2019), so that
      they fade under Adam too, which would divide a penalty by its own size; the decay grows by any schedule,
      not in steps every 10 updates; biases and scales that have a mask fade as well.

    >>> tx = growing(optax.sgd(0.1), {"w": jnp.array([True, False])}, decay=0.5, until=1)
    >>> params = {"w": jnp.array([1.0, 2.0])}
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update({"w": jnp.zeros(2)}, state, params)
    ...     params = optax.apply_updates(params, updates)
    ...     print(params["w"])
    [1. 1.]
    [1. 0.]
    """
    check_transform("growing", inner, masks=(masks, masks_lib.MASKS))
    checks.check("growing", until=(until, checks.INTEGER))
    inner = optax.with_extra_args_support(inner)
    decay_at = scheduled("growing", decay=decay)
    if not callable(decay) and decay_at(0) > 1:
        raise ValueError(f"growing(decay={decay!r}): a share of a weight, from 0 to 1, is needed.")
    if until < 0:
        raise ValueError(f"growing(until={until!r}): a number of updates, 0 or above, is needed.")

    def init(params: Params) -> GrowingState:
        masks_lib.validate(params, masks)
        if not trees.is_placeholder(params):
            kernel_axes.of_leaves(axes, params)
        step = jnp.zeros((), jnp.int32)
        target = jax.tree.map(jnp.copy, masks_lib.unpack(masks))
        return GrowingState(step, masks_at(target, step), target, inner.init(params))

    def masks_at(target: Masks, step: Any) -> Masks:
        return jax.tree.map(lambda mask: mask | (step < until), target)

    def update(
        grads: Params, state: GrowingState, params: Params = None, **extra: Any
    ) -> tuple[Params, GrowingState]:
        check_update("growing", GrowingState, grads, state, params)
        check_inner("growing", inner, state.inner, params)
        masks_now = masks_at(state.target, state.step)
        updates, inner_state = masked_step(inner, grads, state.inner, params, masks_now, **extra)
        share = jnp.clip(decay_at(state.step), 0, 1)

        def fade(weights: jax.Array, update: jax.Array, mask: Any) -> jax.Array:
            if mask is None:
                return update
            wide_update = update.astype(at_least_float32(update.dtype))
            return jnp.where(mask, wide_update, wide_update - share * (weights + wide_update))

        faded_updates = jax.tree.map(fade, params, updates, state.target)
        step = optax.safe_increment(state.step)
        # What fades leaves the point where a line search has stopped.
        inner_state = forget_evaluations(inner_state)
        return faded_updates, GrowingState(step, masks_now, state.target, inner_state)

    return at_home(init, update, masks=("masks", "target"))
