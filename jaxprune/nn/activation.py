"""Activations that stay sparse for every input: k winners take all.

Masks on weights are the same for every example. With k winners, the active units depend on the example.

References:
  A. Makhzani, B. Frey. k-Sparse Autoencoders. 2013.
  S. Ahmad, L. Scheinkman. How Can We Be So Dense? The Benefits of Using Highly Sparse
  Representations. 2019.
  C. Xiao, P. Zhong, C. Zheng. Enhancing Adversarial Defense by k-Winners-Take-All. 2020.
"""

import math
import operator
from collections.abc import Mapping
from numbers import Integral
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxprune.allocation import survivors
from jaxprune.selection import top_along
from jaxprune.types import Sparsity

_SOWN = "activation_sparsity"


def k_winners(
    x: jax.Array,
    *,
    sparsity: Sparsity,
    axis: int | tuple[int, ...] = -1,
    by: Literal["value", "magnitude"] = "value",
    straight_through: bool = False,
) -> jax.Array:
    """Returns the largest activations of each contest, with all others set to exactly zero.

    A contest is a set of units that compete. Of its `n` units, `n - round(n * sparsity)` win. Of equal
    activations the first wins; NaN ranks below everything. A winner keeps its value, whatever its sign.
    After a ReLU fewer units may be positive than can win; then some winners are zeros, and the result is
    sparser than `sparsity`.

    Departures: the papers use more winners in tests than in training (Makhzani & Frey; Ahmad & Scheinkman),
    and favour units that have won rarely (Ahmad & Scheinkman, "boosting"). Here only `sparsity` counts; it
    may differ from call to call. The papers replace ReLU by k winners; here it may also follow a ReLU.

    Args:
      x: activations of any real type.
      sparsity: fraction of each contest that is set to zero, in [0, 1). It may be a traced JAX scalar,
        as of a schedule; its range is then not checked.
      axis: the axis or axes along which units compete; each index of the other axes is one contest. Use
        the last axis for a dense layer. For images [batch, height, width, channels], use (1, 2, 3), or
        (1, 2) for contests within each channel. Ties are broken by the position in row-major order,
        whatever the order of the axes. If several axes are given, none may be split over devices on an
        explicit mesh; a single axis may be.
      by: what is compared: "value", or "magnitude" for the absolute value.
      straight_through: true: the gradient passes to all units, as through the identity; false: it passes
        to the winners only.

    Returns:
      Activations of the same shape and type.

    Raises:
      ValueError: `sparsity` is not in [0, 1) or leaves no winner, `by` is unknown, or an axis is missing or
        named twice.

    >>> x = jnp.array([[0.0, 3.0, 2.0, -4.0], [1.0, 1.0, 1.0, 1.0]])
    >>> k_winners(x, sparsity=0.5)
    Array([[0., 3., 2., 0.],
           [1., 1., 0., 0.]], dtype=float32)
    >>> k_winners(x, sparsity=0.5, axis=(0, 1), by="magnitude")
    Array([[ 0.,  3.,  2., -4.],
           [ 1.,  0.,  0.,  0.]], dtype=float32)
    """
    x = jnp.asarray(x)
    _check_options(sparsity, by)
    axes = _contest_axes(axis, x.shape)
    number_of_rivals = math.prod(x.shape[contest_axis] for contest_axis in axes)
    number_of_winners = _winners(number_of_rivals, sparsity)
    if isinstance(number_of_winners, int) and number_of_winners == number_of_rivals:
        return x
    scores = jax.lax.stop_gradient(x)
    if by == "magnitude":
        is_integer = jnp.issubdtype(x.dtype, jnp.integer)
        scores = jnp.abs(scores.astype(jnp.float32) if is_integer else scores)  # int8 has no 128
    wins_mask = _top(scores, number_of_winners, axes)
    return _identity_behind(x, wins_mask) if straight_through else _only(x, wins_mask)


def n_of_m(
    x: jax.Array,
    n: int,
    m: int,
    *,
    axis: int = -1,
    by: Literal["value", "magnitude"] = "magnitude",
    straight_through: bool = False,
) -> jax.Array:
    """Returns the `n` largest of each `m` neighbouring activations, with all others set to exactly zero.

    Of equal activations the first wins; a winner keeps its value.

    Args:
      x: activations of any real type.
      n: number of winners in each group.
      m: number of activations in a group; the length of the axis must be a multiple of it.
      axis: the axis along which groups lie, usually that of the features.
      by: what is compared: "value", or "magnitude" for the absolute value.
      straight_through: true: the gradient passes to all units, as through the identity; false: it passes
        to the winners only.

    Returns:
      Activations of the same shape and type.

    Raises:
      ValueError: if `n` is no integer from 1 to `m`, or the axis is no multiple of `m`.

    >>> n_of_m(jnp.array([0.0, 3.0, 2.0, -4.0, 1.0, 1.0, 1.0, 1.0]), 2, 4)
    Array([ 0.,  3.,  0., -4.,  1.,  1.,  0.,  0.], dtype=float32)
    """
    x = jnp.asarray(x)
    [group_axis] = _contest_axes(axis, x.shape)
    if not (isinstance(n, Integral) and isinstance(m, Integral) and 1 <= n <= m):
        raise ValueError(
            f"n_of_m(n={n}, m={m}): integers are needed, from 1 to m winners of each group."
        )
    if x.shape[group_axis] % m:
        raise ValueError(
            f"n_of_m(m={m}): the activations have the shape {x.shape}, whose axis {axis} is no "
            f"multiple of {m}; choose another."
        )
    features = jnp.moveaxis(x, group_axis, -1)
    groups = features.reshape(*features.shape[:-1], -1, m)
    kept_groups = k_winners(groups, sparsity=1 - n / m, by=by, straight_through=straight_through)
    return jnp.moveaxis(kept_groups.reshape(features.shape), -1, group_axis)


class KWinners(nn.Module, kw_only=True):
    """`k_winners` as a Flax layer without parameters, which reports the sparsity of its outputs.

    If a model is applied with `mutable=["intermediates"]`, each call sows the fraction of its outputs
    that are exactly zero; `activation_sparsity` reads it. Otherwise nothing is counted.

    Attributes:
      sparsity: fraction of each contest that is set to zero.
      axis: the axis or the axes along which units compete.
      by: what is compared, the `"value"` or its `"magnitude"`.
      straight_through: whether the gradient reaches all units.
      name: name of the layer; `name` and `parent` are attributes of every Flax module.

    >>> KWinners(sparsity=0.75).apply({}, jnp.array([[1.0, 4.0, 3.0, 2.0]]))
    Array([[0., 4., 0., 0.]], dtype=float32)
    """

    sparsity: Sparsity
    axis: int | tuple[int, ...] = -1
    by: Literal["value", "magnitude"] = "value"
    straight_through: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps activations to the same shape."""
        outputs = k_winners(
            x,
            sparsity=self.sparsity,
            axis=self.axis,
            by=self.by,
            straight_through=self.straight_through,
        )
        if self.is_mutable_collection("intermediates"):
            self.sow("intermediates", _SOWN, jnp.count_nonzero(outputs == 0) / max(outputs.size, 1))
        return outputs


def activation_sparsity(variables: Mapping[str, Any]) -> dict[str, float]:
    """Returns the realised sparsity of each `KWinners` layer.

    Args:
      variables: what `model.apply(variables, x, mutable=["intermediates"])` returns beside the
        output.

    Returns:
      The layer's path -> the fraction of its outputs that were exactly zero: of a layer that was
      called several times, or is stacked by `nn.scan`, the mean.

    >>> model = nn.Sequential([nn.relu, KWinners(sparsity=0.25)])
    >>> _, state = model.apply({}, jnp.array([[1.0, 0.0, 3.0, 0.0]]), mutable=["intermediates"])
    >>> activation_sparsity(state)
    {'layers_1': 0.5}
    """
    sown = traverse_util.flatten_dict(dict(variables.get("intermediates", {})))
    return {
        "/".join(path[:-1]): float(jnp.mean(jnp.asarray(calls)))
        for path, calls in sown.items()
        if path[-1] == _SOWN
    }


def _check_options(sparsity: Sparsity, by: str) -> None:
    if not isinstance(sparsity, jax.Array) and not 0 <= sparsity < 1:
        raise ValueError(
            f"k_winners: sparsity={sparsity} is not in [0, 1); 0.9 sets nine tenths to zero."
        )
    if by not in ("value", "magnitude"):
        raise ValueError(f"k_winners: by={by!r} must be 'value' or 'magnitude'.")


def _contest_axes(axis: int | tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the axes in increasing order, counted from the first."""
    given_axes = [operator.index(given_axis) for given_axis in np.atleast_1d(axis)]
    missing_axes = [
        given_axis for given_axis in given_axes if not -len(shape) <= given_axis < len(shape)
    ]
    if missing_axes or not given_axes:
        raise ValueError(
            f"k_winners: axis={axis} names {missing_axes[0] if missing_axes else 'no axis'}, but activations "
            f"of shape {shape} have the axes {list(range(len(shape)))}; name those that compete."
        )
    axes = sorted({given_axis % len(shape) for given_axis in given_axes})
    if len(axes) < len(given_axes):
        raise ValueError(f"k_winners: axis={axis} names an axis of shape {shape} twice.")
    return tuple(axes)


def _winners(number_of_rivals: int, sparsity: Sparsity) -> int | jax.Array:
    if isinstance(sparsity, jax.Array):
        return survivors(number_of_rivals, sparsity)
    with jax.ensure_compile_time_eval():
        number_of_winners = int(survivors(number_of_rivals, float(sparsity)))
    if number_of_rivals and not number_of_winners:
        raise ValueError(
            f"k_winners: sparsity={sparsity} leaves none of {number_of_rivals} rivals, so that nothing would "
            "pass; use a smaller sparsity or let more axes compete."
        )
    return number_of_winners


def _top(scores: jax.Array, keep: int | jax.Array, axes: tuple[int, ...]) -> jax.Array:
    if len(axes) == 1:
        return top_along(scores, keep, axes[0])
    last_axes = tuple(range(scores.ndim - len(axes), scores.ndim))
    axes_last = jnp.moveaxis(scores, axes, last_axes)
    flat_contests = axes_last.reshape(
        *axes_last.shape[: last_axes[0]], math.prod(axes_last.shape[last_axes[0] :])
    )
    return jnp.moveaxis(
        top_along(flat_contests, keep, -1).reshape(axes_last.shape), last_axes, axes
    )


def _only(x: jax.Array, wins: jax.Array) -> jax.Array:
    return jnp.where(wins, x, jnp.zeros_like(x))


@jax.custom_jvp
def _identity_behind(x: jax.Array, wins: jax.Array) -> jax.Array:
    """Returns `_only(x, wins)` with the derivative of the identity.

    `x + stop_gradient(y - x)` would turn infinity into NaN.
    """
    return _only(x, wins)


@_identity_behind.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    return _identity_behind(*primals), tangents[0]
