"""Training with a penalty that makes weights exactly zero: proximal steps around any optax optimizer."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxprune import checks, trees
from jaxprune import masks as masks_lib
from jaxprune.arrays.precision import at_least_float32
from jaxprune.hyperparameters import Scheduled, scheduled
from jaxprune.kernel_axes import AxesTree
from jaxprune.masks import Prunable
from jaxprune.parts import PENALTY
from jaxprune.preconditioners import Preconditioner
from jaxprune.transforms.accumulation import idle_leaves
from jaxprune.transforms.checking import check_inner, check_transform, check_update
from jaxprune.transforms.containers import at_home, from_inner
from jaxprune.transforms.frozen import frozen_leaves
from jaxprune.transforms.line_search import forget_evaluations
from jaxprune.transforms.masked_step import land
from jaxprune.types import Masks, Params, Penalty

__all__ = ["AddPenaltyState", "ProximalState", "add_penalty", "proximal"]


_PRECONDITIONER = checks.Kind(
    "a preconditioner",
    lambda value: checks.is_function(value) and checks.takes(value, 2),
    lambda _: "such as preconditioners.adam(), called",
)


class ProximalState(NamedTuple):
    """State of `proximal`.

    Attributes:
      step: number of updates done, without calls in which `inner` only gathers gradients or skips them.
      masks: bool arrays, true where penalised leaves are not zero; `None` at the other leaves.
      inner: the wrapped optimizer's state.
    """

    step: Any
    masks: Masks
    inner: optax.OptState

    __getattr__ = from_inner


def proximal(
    inner: optax.GradientTransformation,
    penalty: Penalty,
    learning_rate: Scheduled,
    *,
    preconditioner: Preconditioner | None = None,
    prunable: Prunable = None,
    axes: AxesTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Returns a transform that minimises loss + `penalty`: each update ends with a proximal step.

    The update is $w \leftarrow \mathrm{prox}_{\eta P}(w + u)$, where $u$ is the update of `inner` and
    $\mathrm{prox}_{\eta P}(v) = \arg\min_w P(w) + \sum_i (w_i - v_i)^2 / 2\eta_i$. The proximal step sets
    weights to exactly zero. They become nonzero again when the gradient of the loss outweighs the penalty: no
    mask is enforced, and moments are not changed. `jaxprune.masks_of` returns which weights are not zero. To
    train only these further, give the masks to `jaxprune.fixed`.

    The step size $\eta$ must be that of `inner`; otherwise the minimised function is not loss + penalty:

    * `optax.sgd(lr)`: the learning rate. With `momentum=b`, `learning_rate=lr / (1 - b)`, the factor by which
      one gradient moves a weight over all updates.
    * `optax.adam(lr)` and the like: each weight has its own step size. Give
      `preconditioner=preconditioners.adam()`, whose factors multiply the learning rate. Without a
      preconditioner all weights have the same threshold: there are zeros too, but the penalty is weaker where
      gradients are small.

    It must be the outermost of the transforms that change the parameters: put clipping and weight decay
    inside. In calls in which `inner` takes no step there is no proximal step either: those of
    `optax.MultiSteps` and `apply_every` that gather, and those that `apply_if_finite` or `conditionally_mask`
    skip. Leaves that `inner` freezes (`optax.set_to_zero`, `optax.freeze`) are not penalised.

    Args:
      inner: any optax optimizer; it does not see the penalty.
      penalty: see `jaxprune.penalties`.
      learning_rate: a number, or a schedule (number of updates done -> number).
      preconditioner: (state of `inner` after the update, parameters) -> tree of factors by which the learning
        rate is multiplied; see `jaxprune.preconditioners`.
      prunable: which leaves are penalised (see `jaxprune.masks.make`), unless the penalty names them.
      axes: which axes of the leaves are inputs, outputs and layers, from
        `jaxprune.axes(apply, params, *inputs)`; used if `prunable` is `None`. A penalty on inputs or outputs
        has an argument `axes` of its own.

    Returns:
      A gradient transformation whose `update` needs `params`. At the penalised leaves its updates are
      float32 or wider, so that weights of narrower dtypes land on exact zeros.

    Raises:
      ValueError: in `init`, if a leaf does not fit the penalty or a filter matches nothing, or if `inner`
        freezes all that is penalised, or a leaf whose units the penalty couples with others'; in `update`, if
        `params` is missing or the preconditioner knows nothing of a penalised leaf.

    References:
      Yun, Lozano & Yang, "Adaptive Proximal Gradient Methods for Structured Neural Networks" (2021),
      algorithm 1 (ProxGen). Departure: any optimizer may stand inside, momentum and decay included.

    >>> from jaxprune import penalties
    >>> tx = proximal(optax.sgd(0.1), penalties.l1(2.0), learning_rate=0.1)
    >>> params = {"w": jnp.array([[1.0, -0.1]])}
    >>> updates, state = tx.update({"w": jnp.ones((1, 2))}, tx.init(params), params)
    >>> optax.apply_updates(params, updates)["w"].round(4)  # prox of 0.9, -0.2
    Array([[0.7, 0. ]], dtype=float32)
    """
    check_transform("proximal", inner, penalty=(penalty, PENALTY))
    checks.check("proximal", preconditioner=(preconditioner, checks.optional(_PRECONDITIONER)))
    inner = optax.with_extra_args_support(inner)
    rate_at = scheduled("proximal", learning_rate=learning_rate)

    def init(params: Params) -> ProximalState:
        chosen = _penalised("proximal", penalty, params, prunable, axes)
        chosen = _without_frozen(penalty, params, chosen, frozen_leaves(inner, params))
        masks = jax.tree.map(lambda p, m: None if m is None else p != 0, params, chosen)
        return ProximalState(jnp.zeros((), jnp.int32), masks, inner.init(params))

    def update(
        grads: Params, state: ProximalState, params: Params = None, **extra: Any
    ) -> tuple[Params, ProximalState]:
        check_update("proximal", ProximalState, grads, state, params)
        check_inner("proximal", inner, state.inner, params)
        updates, inner_state = inner.update(grads, state.inner, params, **extra)
        inner_state = forget_evaluations(inner_state)  # the proximal step moves on from there
        weights = _by_path(params, state.masks, params)
        updates_by_path = _by_path(params, state.masks, updates)
        step_sizes = rate_at(state.step)
        is_step: Any = True
        idle = idle_leaves(
            state.inner, inner_state, params, lambda: _still(penalty, params, updates_by_path)
        )
        if idle is not None:
            idle_by_path = _by_path(params, state.masks, jax.tree.structure(params).unflatten(idle))
            is_step = ~jnp.stack(list(idle_by_path.values())).all()
            sizes = {id(flag): jnp.where(flag, 0.0, step_sizes) for flag in idle}
            step_sizes = {path: sizes[id(flag)] for path, flag in idle_by_path.items()}
        if preconditioner is not None:
            factors = _by_path(params, state.masks, preconditioner(inner_state, params))
            _check_factors(factors)
            step_sizes = {
                path: factor * (step_sizes[path] if isinstance(step_sizes, dict) else step_sizes)
                for path, factor in factors.items()
            }
        moved_weights = {
            path: _wide_sum(weights[path], update) for path, update in updates_by_path.items()
        }
        new_weights = penalty.prox(moved_weights, step_sizes, state.step)
        updates, masks = _updates_towards(params, updates, state.masks, new_weights)
        step = jnp.where(is_step, optax.safe_increment(state.step), state.step)
        return updates, ProximalState(step, masks, inner_state)

    return at_home(init, update, masks=("masks",))


class AddPenaltyState(NamedTuple):
    """State of `add_penalty`.

    Attributes:
      step: updates done.
    """

    step: Any


def add_penalty(
    penalty: Penalty, *, prunable: Prunable = None, axes: AxesTree | None = None
) -> optax.GradientTransformationExtraArgs:
    r"""Returns a transform that adds a subgradient of the penalty: $g \leftarrow g + \partial P(w)$.

    Put it before the optimizer in a chain. It has the same effect as adding `penalty.value` to the loss.
    **It gives no exact zeros**: weights oscillate around zero by about the learning rate times the strength.
    Adam and similar optimizers scale the penalty together with the gradients. For exact zeros use `proximal`;
    `add_penalty` is for comparison, and for methods that prune afterwards.

        optax.chain(jp.add_penalty(jp.penalties.l1(1e-4), prunable="scale$"), optax.sgd(0.1))

    is network slimming: the scales of the normalisation layers go down, and the channels of the smallest
    are removed.

    Args:
      penalty: see `jaxprune.penalties`; `l0` has no subgradient.
      prunable: which leaves are penalised (see `jaxprune.masks.make`), unless the penalty names them.
      axes: which axes of the leaves are inputs, outputs and layers, from
        `jaxprune.axes(apply, params, *inputs)`; used if `prunable` is `None`. A penalty on inputs or outputs
        has an argument `axes` of its own.

    Returns:
      A gradient transformation whose `update` needs `params`, to stand before an optimizer.

    Raises:
      ValueError: if the penalty has no subgradient; in `init`, if a leaf does not fit it.

    References:
      Liu, Li, Shen, Huang, Yan & Zhang, "Learning Efficient Convolutional Networks through Network
      Slimming" (2017), equation 1.

    >>> from jaxprune import penalties
    >>> tx = add_penalty(penalties.l1(0.5))
    >>> params = {"w": jnp.array([[1.0, 0.0]])}
    >>> tx.update({"w": jnp.ones((1, 2))}, tx.init(params), params)[0]
    {'w': Array([[1.5, 1. ]], dtype=float32)}
    """
    checks.check("add_penalty", penalty=(penalty, PENALTY))
    subgradient = penalty.subgradient
    if subgradient is None:
        raise ValueError(
            "add_penalty: this penalty has no subgradient that could be added to gradients (l0 is flat "
            "wherever it is smooth); use jaxprune.proximal, or l1."
        )

    def init(params: Params) -> AddPenaltyState:
        _penalised("add_penalty", penalty, params, prunable, axes)
        return AddPenaltyState(jnp.zeros((), jnp.int32))

    def update(
        grads: Params, state: AddPenaltyState, params: Params = None, **_: Any
    ) -> tuple[Params, AddPenaltyState]:
        check_update("add_penalty", AddPenaltyState, grads, state, params)
        chosen = _penalised("add_penalty", penalty, params, prunable, axes)
        slopes = subgradient(_by_path(params, chosen, params), state.step)
        rows = zip(masks_lib.paths(params), masks_lib.beside(params, grads), strict=True)
        sums = [
            grad + slopes[path].astype(grad.dtype) if path in slopes else grad
            for path, grad in rows
        ]
        new_grads = jax.tree.structure(params).unflatten(sums)
        return new_grads, AddPenaltyState(optax.safe_increment(state.step))

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore


def _penalised(
    who: str, penalty: Penalty, params: Params, prunable: Prunable, axes: AxesTree | None
) -> Masks:
    """Shapes at the leaves that the penalty falls on, which are checked; `None` elsewhere."""
    if trees.is_placeholder(params):
        return params
    if penalty.covers is not None and prunable is not None:
        raise ValueError(f"{who}: this penalty names its leaves itself; leave prunable= out.")
    checks.check(who, params=(params, checks.TREE))
    trees.check_distinct(who, masks_lib.paths(params))
    wanted = prunable if penalty.covers is None else lambda *_: True
    if isinstance(penalty.covers, str):
        wanted = penalty.covers
    masks = jax.eval_shape(functools.partial(masks_lib.make, prunable=wanted, axes=axes), params)
    masks_by_path = _by_path(params, masks, masks)
    fault = penalty.check({path: mask.shape for path, mask in masks_by_path.items()})
    if fault:
        raise ValueError(f"{who}: {fault}.")
    if not isinstance(penalty.covers, tuple):
        return masks
    pairs = zip(masks_lib.paths(params), masks_lib.beside(params, masks), strict=True)
    covered_masks = (mask if path in penalty.covers else None for path, mask in pairs)
    return jax.tree.structure(params).unflatten(covered_masks)


def _without_frozen(
    penalty: Penalty, params: Params, chosen: Masks, frozen: Sequence[bool]
) -> Masks:
    """What the penalty falls on, without the leaves that the optimizer never changes."""
    if not any(frozen):
        return chosen
    entries = masks_lib.beside(params, chosen)
    rows = zip(masks_lib.paths(params), entries, frozen, strict=True)
    frozen_paths = [path for path, entry, is_frozen in rows if is_frozen and entry is not None]
    if frozen_paths and isinstance(penalty.covers, tuple):
        raise ValueError(
            f"proximal: the wrapped optimizer never changes {frozen_paths[0]!r}, but units that the penalty "
            "couples run through it; leave their coupling out, or let the optimizer train it."
        )
    pairs = zip(entries, frozen, strict=True)
    left = [None if is_frozen else entry for entry, is_frozen in pairs]
    if all(entry is None for entry in left):
        raise ValueError(
            f"proximal: the wrapped optimizer never changes {trees.quote_names(frozen_paths)}, so nothing is "
            "left to penalise; let it train some of them, or choose others by prunable=."
        )
    return jax.tree.structure(params).unflatten(left)


def _by_path(params: Params, masks: Masks, tree: Any) -> dict[str, Any]:
    """The leaves of a tree that have a mask, by path."""
    rows = zip(
        masks_lib.paths(params),
        masks_lib.beside(params, masks),
        masks_lib.beside(params, tree),
        strict=True,
    )
    return {path: leaf for path, mask, leaf in rows if mask is not None}


def _check_factors(factors: dict[str, Any]) -> None:
    """Refuses factors of the step size that the preconditioner does not know."""
    unknown = [path for path, factor in factors.items() if factor is None]
    if unknown:
        raise ValueError(
            f"proximal: the preconditioner gives no factor for {', '.join(map(repr, unknown))}, which the "
            "inner optimizer scales in another way or not at all; exclude them with prunable=."
        )


def _still(
    penalty: Penalty, params: Params, updates_by_path: dict[str, jax.Array]
) -> list[jax.Array | None]:
    """Whether the update of each penalised leaf is zero; of all together, if the penalty couples them."""
    are_still = {path: (update == 0).all() for path, update in updates_by_path.items()}
    if isinstance(penalty.covers, tuple):
        are_still = dict.fromkeys(are_still, jnp.stack(list(are_still.values())).all())
    return [are_still.get(path) for path in masks_lib.paths(params)]


def _wide_sum(weights: jax.Array, update: jax.Array) -> jax.Array:
    return weights + update.astype(at_least_float32(weights.dtype, update.dtype))


def _updates_towards(
    params: Params, updates: Params, masks: Masks, new_weights: dict[str, jax.Array]
) -> tuple[Params, Masks]:
    """Updates that lead to the new weights where they are given, and the masks of what is not zero then."""
    new_updates = []
    new_masks = []
    rows = zip(
        masks_lib.paths(params),
        jax.tree.leaves(params),
        masks_lib.beside(params, updates),
        strict=True,
    )
    for path, weights, update in rows:
        target = new_weights.get(path)
        if target is None:
            new_updates.append(update)
            new_masks.append(None)
            continue
        new_updates.append(target - weights)
        # As apply_updates will compute it: a weight that is nothing beside the step may be lost in it.
        new_masks.append((weights + new_updates[-1]).astype(weights.dtype) != 0)
    treedef = jax.tree.structure(params)
    masks = treedef.unflatten(new_masks)
    return land(treedef.unflatten(new_updates), params, masks), masks
