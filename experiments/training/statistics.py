"""Statistics of BatchNorm measured anew, for weights that were not trained with them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from experiments.config import UserError
from experiments.training.task import Scaling, Task, scale

__all__ = ["measured"]

_STATISTICS = "batch_stats"


def measured(model: Any, params: Any, rest: Any, task: Task, batch_count: int = 20) -> Any:
    """Returns a model's other variables with the means, over training batches, of each batch's statistics.

    Args:
      model: a linen module.
      params: its parameters.
      rest: its other variables, of which the shapes are read; there may be none.
      task: gives the training batches, the first ones.
      batch_count: number of batches, as many as there are at most.

    Raises:
      UserError: the model has variables that are no statistics of BatchNorm.
    """
    if not rest:
        return rest
    if set(rest) != {_STATISTICS}:
        raise UserError(
            f"config.model: the variables {sorted(rest)} cannot be measured anew between two networks; "
            f"choose a model whose other variables are {_STATISTICS!r} alone."
        )
    available_count = min(batch_count, len(task.labels) // task.batch_size)
    rows = jnp.arange(available_count * task.batch_size).reshape(available_count, task.batch_size)
    return _measure(model)(params, rest, task.inputs, task.scaling, rows)


@functools.cache
def _measure(model: Any) -> Any:
    """Returns the compiled function that measures the statistics of a model."""

    def measure(
        params: Any, rest: Any, inputs: jax.Array, scaling: Scaling | None, rows: jax.Array
    ) -> Any:
        def mean_after_update(before: Any) -> Any:
            def update(example_rows: jax.Array) -> Any:
                images = scale(inputs[example_rows], scaling)
                variables = {"params": params, **before}
                rngs = {"dropout": jax.random.key(0)}
                return model.apply(variables, images, train=True, mutable=list(before), rngs=rngs)[
                    1
                ]

            return jax.tree.map(lambda x: x.mean(0), jax.lax.map(update, rows))

        # An update takes s to d s + (1 - d) b, where b is of the batch: from s = 0 and 1 follow both d and b.
        from_zero = mean_after_update(jax.tree.map(jnp.zeros_like, rest))
        from_one = mean_after_update(jax.tree.map(jnp.ones_like, rest))
        return jax.tree.map(lambda low, high: low / (1 - (high - low)), from_zero, from_one)

    return jax.jit(measure)
