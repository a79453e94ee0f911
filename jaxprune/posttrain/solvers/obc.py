"""Optimal Brain Compression: one weight after the other, each time the one that costs least."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxprune import selection
from jaxprune.parts import factory
from jaxprune.posttrain.contests import Contest, Solved
from jaxprune.posttrain.solvers.factor import damped
from jaxprune.posttrain.solvers.solver import Solver

__all__ = ["obc"]

_MOST = 1024  # inputs


@factory
def obc(*, damp: float = 0.01) -> Solver:
    r"""Returns the solver of Optimal Brain Compression (ExactOBS), for layers of up to 1024 inputs.

    In each output, the weight with the least $w_i^2 / [H^{-1}]_{ii}$ goes, the others make up for it, and
    $H^{-1}$ loses a row and a column; operations are the cube of the inputs, for each output. Where all
    weights of a kernel compete, all are removed from each output, and how far each goes is chosen by what the
    removals cost.

    Args:
      damp: share of the mean of the Gram's diagonal that is added to it.

    References:
      Frantar & Alistarh, "Optimal Brain Compression" (2022). Departure: of a removal that costs less than one
      before it in its output, the cost is that of the one before.

    >>> from jaxprune import patterns
    >>> from jaxprune.posttrain.contests import contest
    >>> from jaxprune.posttrain.views import Layout
    >>> who = contest(patterns.groups(), Layout((2, 1), (), (0,), (1,)), 0.5, "w")
    >>> kernel, gram = jnp.array([[[1.0], [2.0]]]), jnp.array([[[1.0, 0.5], [0.5, 1.0]]])
    >>> obc(damp=0.0)([kernel], [who], grams=gram)[0].kernel.round(4).tolist()
    [[[0.0], [2.5]]]
    """

    def solve(
        kernels: Sequence[jax.Array], contests: Sequence[Contest], *, grams: jax.Array, **_
    ) -> list[Solved]:
        inputs = grams.shape[1]
        if inputs > _MOST:
            raise ValueError(
                f"obc: a kernel has {inputs} inputs, and {_MOST} are the most; use sparsegpt()."
            )
        found: list[Solved] = []
        for kernel, each in zip(kernels, contests, strict=True):
            each.one_weight_each("obc")
            members = each.members if each.among == "inputs" else inputs
            new, mask = _solved(kernel, grams, damp, each.keep, members, each.among == "layer")
            found.append(Solved(new, mask, jnp.full(len(kernel), damp)))
        return found

    return Solver(solve)


@functools.partial(jax.jit, static_argnames=("members", "together"))
def _solved(
    kernel: jax.Array, grams: jax.Array, damp: Any, keep: Any, members: int, together: bool
) -> tuple[jax.Array, jax.Array]:
    def one(layer: Any) -> tuple[jax.Array, jax.Array]:
        own, gram = layer
        inputs, outputs = own.shape
        with jax.default_matmul_precision("highest"):
            gram = damped(gram, damp, inputs)
            inverse = jnp.linalg.inv(gram)
            least = jnp.int32(0) if together else jnp.int32(keep)
            remove = functools.partial(_removed, inverse=inverse, keep=least, members=members)
            when, costs = lax.map(remove, own.T)
            if together:
                gone = inputs * outputs - keep
                rising = lax.cummax(costs, 1)
                [first] = selection.top([-rising], gone)
                mask = when >= jnp.sum(first, 1, dtype=jnp.int32)[:, None]
            else:
                mask = when == inputs
            new = lax.map(lambda pair: _fitted(gram, *pair), (own.T, mask))
        return new.T, mask.T

    return lax.map(one, (kernel, grams))


def _removed(
    weights: jax.Array, *, inverse: jax.Array, keep: jax.Array, members: int
) -> tuple[jax.Array, jax.Array]:
    """When each weight of an output goes, counted from 0, or `inputs`: never; and what each removal costs."""
    inputs = len(weights)

    def step(index: Any, state: Any) -> Any:
        weights, inverse, when, costs = state
        alive = when == inputs
        left = jnp.sum(alive.reshape(-1, members), 1)
        open_to = alive & jnp.repeat(left > keep, members, total_repeat_length=inputs)
        diagonal = jnp.diagonal(inverse)
        cost = jnp.where(open_to, jnp.square(weights) / jnp.where(alive, diagonal, 1), jnp.inf)
        place = jnp.argmin(cost)
        column = inverse[:, place]
        going = open_to[place]
        moved = weights - column * (weights[place] / diagonal[place])
        moved = jnp.where(alive, moved, 0).at[place].set(0)
        smaller = inverse - jnp.outer(column, column) / diagonal[place]
        smaller = smaller.at[place].set(0).at[:, place].set(0)
        return (
            jnp.where(going, moved, weights),
            jnp.where(going, smaller, inverse),
            jnp.where(going, when.at[place].set(index), when),
            jnp.where(going, costs.at[index].set(cost[place]), costs),
        )

    start = weights, inverse, jnp.full(inputs, inputs, jnp.int32), jnp.zeros_like(weights)
    _, _, when, costs = lax.fori_loop(0, inputs, step, start)
    return when, costs


def _fitted(gram: jax.Array, weights: jax.Array, mask: jax.Array) -> jax.Array:
    system = jnp.where(mask[:, None] & mask[None, :], gram, jnp.eye(len(gram), dtype=gram.dtype))
    return jax.scipy.linalg.solve(system, jnp.where(mask, gram @ weights, 0), assume_a="pos")
