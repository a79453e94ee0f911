"""A criterion of one's own: how much of its row and of its column a weight is.

A small weight that is most of what a unit has is kept, so no unit is cut off. It is the data-free half of
RIA (Zhang, Bai, Lin, Zhao, Hou & Cannistraci, "Plug-and-Play: An Efficient Post-training Pruning Method for
Large Language Models", 2024).
"""

import jax
import jax.numpy as jnp


def relative_importance(params, **_):
    """Scores kernels of two axes: |w| / (sum over its row) + |w| / (sum over its column)."""

    def score(w):
        size = jnp.abs(w)
        if w.ndim != 2:
            return size
        rows = size.sum(1, keepdims=True) + 1e-12  # all of a row may be gone already
        columns = size.sum(0, keepdims=True) + 1e-12
        return size / rows + size / columns

    return jax.tree.map(score, params)
