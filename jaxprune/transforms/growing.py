"""Weights that are to go fade first, under a decay that grows."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks, kernel_axes, trees
from jaxprune import masks as masks_lib
from jaxprune.kernel_axes import AxesTree
from jaxprune.precision import at_least_float32
from jaxprune.schedules import Scheduled, scheduled
from jaxprune.transforms.checking import check_inner, check_transform, check_update
from jaxprune.transforms.containers import at_home, from_inner
from jaxprune.transforms.state import masked_step
from jaxprune.types import Masks, Params

__all__ = ["GrowingState", "growing"]


class GrowingState(NamedTuple):
    """State of `growing`.

    Attributes:
      step: updates done.
      masks: in force: everything until the weights are removed.
      target: what will be left.
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
    r"""Removes what `masks` leave out not at once, but after an L2 penalty that grows has made it small.

    Before the update numbered `until`, $w \leftarrow (1 - d_t)(w + u)$ off the masks, where $u$ is the update
    of `inner`; the others are trained as ever, and make up for what fades. From that update on it is
    `jaxprune.fixed`. The masks are best those of units, of `jaxprune.structured.prune` or of `prune` with a
    pattern; single weights can fade as well.

        _, masks = jp.prune(params, jp.methods.magnitude(sparsity=0.5, pattern=filters))
        growth = optax.linear_schedule(0.0, 0.01, transition_steps=10_000)
        tx = jp.growing(optax.sgd(1e-3, momentum=0.9), masks, decay=growth, until=15_000)

    is GReg-1: the penalty grows to its ceiling, and stays there until the weights go. For GReg-2 every weight
    is pressed first, and how each gives way says what it is worth: train some updates with
    `add_penalty(penalties.elastic(0.0, ridge=growth))` before the optimizer, and prune by magnitude then.

    Args:
      inner: any optax optimizer.
      masks: bool arrays, or packed ones, `None` at leaves without a mask.
      decay: $d$, the share of a weight that goes in each update, from 0 to 1: learning rate times strength of
        the penalty, for plain SGD. A number or a schedule of the updates done. In bfloat16 a share below
        1/500 is rounded away, as any small update is.
      until: updates before the weights are removed.
      axes: which axes of the leaves are inputs, outputs and layers: `jaxprune.axes(apply, params, *inputs)`.
        The masks say all that is needed here: they are taken so that every transform can be called alike, and
        refused in `init` if they do not fit the parameters.

    Returns:
      A gradient transformation whose `update` needs `params`. `jaxprune.masks_of` gives the masks in force.

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
    share = scheduled("growing", decay=decay)
    if not callable(decay) and share(0) > 1:
        raise ValueError(f"growing(decay={decay!r}): a share of a weight, from 0 to 1, is needed.")
    if until < 0:
        raise ValueError(f"growing(until={until!r}): a number of updates, 0 or above, is needed.")

    def init(params: Params) -> GrowingState:
        masks_lib.validate(params, masks)
        if not trees.is_placeholder(params):
            kernel_axes.of_leaves(axes, params)
        step = jnp.zeros((), jnp.int32)
        target = jax.tree.map(jnp.copy, masks_lib.unpack(masks))
        return GrowingState(step, in_force(target, step), target, inner.init(params))

    def in_force(target: Masks, step: Any) -> Masks:
        return jax.tree.map(lambda m: m | (step < until), target)

    def update(
        grads: Params, state: GrowingState, params: Params = None, **extra: Any
    ) -> tuple[Params, GrowingState]:
        check_update("growing", GrowingState, grads, state, params)
        check_inner("growing", inner, state.inner, params)
        step, now = state.step, in_force(state.target, state.step)
        updates, inner_state = masked_step(inner, grads, state.inner, params, now, **extra)
        lost = jnp.clip(share(step), 0, 1)

        def fading(p: jax.Array, u: jax.Array, m: Any) -> jax.Array:
            if m is None:
                return u
            u = u.astype(at_least_float32(u.dtype))
            return jnp.where(m, u, u - lost * (p + u))

        updates = jax.tree.map(fading, params, updates, state.target)
        return updates, GrowingState(optax.safe_increment(step), now, state.target, inner_state)

    return at_home(init, update, masks=("masks", "target"))
