"""Optimal Brain Compression: removes weights one by one, each time the weight that costs least."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune import selection
from jaxprune.kernel_axes.matrices import check_damp
from jaxprune.parts import factory
from jaxprune.posttrain.contests import Contest, Solved
from jaxprune.posttrain.solvers.factor import add_damping
from jaxprune.posttrain.solvers.solver import Solver

__all__ = ["obc"]

_MOST = 1024  # inputs


@factory
def obc(*, damp: float = 0.01) -> Solver:
    r"""Returns the solver of Optimal Brain Compression (ExactOBS), for layers of up to 1024 inputs.

    In each step and output, the weight with the least $w_i^2 / [H^{-1}]_{ii}$ is removed ($H$ is the damped
    Gram matrix), the other weights compensate for it, and its row and column are removed from $H^{-1}$. The
    number of operations per output is of the order of the cube of the inputs. If all weights of a kernel
    compete, each output is first emptied weight by weight; then the cheapest removals of all outputs are
    made.

    Args:
      damp: damping added to the diagonal of the Gram matrix, as a fraction of the diagonal's mean.

    Returns:
      `(kernels, contests, *, grams) -> list of Solved`; it refuses kernels with more than 1024 inputs.

    Raises:
      ValueError: if `damp` is negative or infinite.

    References:
      Frantar & Alistarh, "Optimal Brain Compression" (2022). Departure: if a removal costs less than an
      earlier one of the same output, it is given the cost of the earlier one.

    >>> from jaxprune import patterns
    >>> from jaxprune.posttrain.contests import contest
    >>> from jaxprune.posttrain.views import Layout
    >>> one_of_two = contest(patterns.groups(), Layout((2, 1), (), (0,), (1,)), 0.5, "w")
    >>> kernel, gram = jnp.array([[[1.0], [2.0]]]), jnp.array([[[1.0, 0.5], [0.5, 1.0]]])
    >>> obc(damp=0.0)([kernel], [one_of_two], grams=gram)[0].kernel.round(4).tolist()
    [[[0.0], [2.5]]]
    """
    check_damp("obc", damp)

    def solve(
        kernels: Sequence[jax.Array], contests: Sequence[Contest], *, grams: jax.Array, **_
    ) -> list[Solved]:
        inputs = grams.shape[1]
        if inputs > _MOST:
            raise ValueError(
                f"obc: a kernel has {inputs} inputs, and {_MOST} are the most; use sparsegpt()."
            )
        results: list[Solved] = []
        for kernel, kernel_contest in zip(kernels, contests, strict=True):
            kernel_contest.one_weight_each("obc")
            keep = kernel_contest.keep
            members = kernel_contest.members if kernel_contest.among == "inputs" else inputs
            together = kernel_contest.among == "layer"
            new_kernel, mask = _solve_layers(kernel, grams, damp, keep, members, together)
            results.append(Solved(new_kernel, mask, jnp.full(len(kernel), damp)))
        return results

    return Solver(solve)


@functools.partial(jax.jit, static_argnames=("members", "together"))
def _solve_layers(
    kernel: jax.Array, grams: jax.Array, damp: Any, keep: Any, members: int, together: bool
) -> tuple[jax.Array, jax.Array]:
    """Returns the refitted kernel and its mask, layer by layer and output by output.

    Args:
      kernel: `[layers, inputs, outputs]`.
      grams: `[layers, inputs, inputs]`.
      damp: share of the mean of the Gram's diagonal.
      keep: survivors of a contest.
      members: inputs in a contest.
      together: whether all weights of a layer are one contest.
    """

    def one_layer(layer: Any) -> tuple[jax.Array, jax.Array]:
        weights, gram = layer
        inputs, outputs = weights.shape
        with jax.default_matmul_precision("highest"):
            gram = add_damping(gram, damp, inputs)
            inverse = jnp.linalg.inv(gram)
            minimum_kept = jnp.int32(0) if together else jnp.int32(keep)
            remove_from_output = functools.partial(
                _removal_order, inverse=inverse, keep=minimum_kept, members=members
            )
            removal_steps, costs = lax.map(remove_from_output, weights.T)
            if together:
                removed_count = inputs * outputs - keep
                rising_costs = lax.cummax(costs, 1)
                [removed_mask] = selection.top([-rising_costs], removed_count)
                mask = removal_steps >= jnp.sum(removed_mask, 1, dtype=jnp.int32)[:, None]
            else:
                mask = removal_steps == inputs
            new_columns = lax.map(
                lambda weights_and_mask: _solve_kept(gram, *weights_and_mask), (weights.T, mask)
            )
        return new_columns.T, mask.T

    return lax.map(one_layer, (kernel, grams))


def _removal_order(
    weights: jax.Array, *, inverse: jax.Array, keep: jax.Array, members: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the step at which each weight of an output is removed, and the cost of each step's removal.

    Args:
      weights: `[inputs]`.
      inverse: of the Gram matrix.
      keep: weights that a contest keeps at least.
      members: inputs in a contest.

    Returns:
      Steps counted from 0, or the number of inputs for a weight that is never removed; costs by step.
    """
    inputs = len(weights)

    def step(step_index: Any, state: Any) -> Any:
        weights, inverse, removal_steps, costs = state
        is_alive = removal_steps == inputs
        alive_counts = jnp.sum(is_alive.reshape(-1, members), 1)
        is_removable = is_alive & jnp.repeat(
            alive_counts > keep, members, total_repeat_length=inputs
        )
        diagonal = jnp.diagonal(inverse)
        cost = jnp.where(
            is_removable, jnp.square(weights) / jnp.where(is_alive, diagonal, 1), jnp.inf
        )
        removed_index = jnp.argmin(cost)
        column = inverse[:, removed_index]
        is_removed = is_removable[removed_index]
        new_weights = weights - column * (weights[removed_index] / diagonal[removed_index])
        new_weights = jnp.where(is_alive, new_weights, 0).at[removed_index].set(0)
        new_inverse = inverse - jnp.outer(column, column) / diagonal[removed_index]
        new_inverse = new_inverse.at[removed_index].set(0).at[:, removed_index].set(0)
        return (
            jnp.where(is_removed, new_weights, weights),
            jnp.where(is_removed, new_inverse, inverse),
            jnp.where(is_removed, removal_steps.at[removed_index].set(step_index), removal_steps),
            jnp.where(is_removed, costs.at[step_index].set(cost[removed_index]), costs),
        )

    never_removed = jnp.full(inputs, inputs, jnp.int32)
    initial_state = (weights, inverse, never_removed, jnp.zeros_like(weights))
    _, _, removal_steps, costs = lax.fori_loop(0, inputs, step, initial_state)
    return removal_steps, costs


def _solve_kept(gram: jax.Array, weights: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the weights of one output that minimise its error under a mask."""
    system = jnp.where(mask[:, None] & mask[None, :], gram, jnp.eye(len(gram), dtype=gram.dtype))
    return jax.scipy.linalg.solve(system, jnp.where(mask, gram @ weights, 0), assume_a="pos")
