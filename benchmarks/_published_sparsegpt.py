"""SparseGPT as its authors write it, in NumPy: the inverse, its factor, columns from left to right."""

import numpy as np

PATTERNS = {"50 %": (0.5, None), "80 %": (0.8, None), "2:4": (0.5, (2, 4)), "4:8": (0.5, (4, 8))}
"""Name -> (fraction removed, (n, m) of n:m or None for the whole block of inputs)."""


def sparsegpt(kernel, gram, sparsity, pattern=None, damp=0.01, block=128, dtype=np.float64):
    """Returns the new kernel `[inputs, outputs]`.

    `pattern` is `(n, m)`: n of m neighbouring inputs go; `None`: the whole block of inputs competes.
    """
    rows = np.array(kernel.T, dtype, order="C")
    gram = np.array(gram, dtype)
    is_dead = np.diag(gram) == 0
    gram[is_dead, is_dead] = 1
    rows[:, is_dead] = 0
    gram += damp * np.mean(np.diag(gram)) * np.eye(len(gram), dtype=dtype)
    factor = np.linalg.cholesky(np.linalg.inv(gram)).T
    for begin in range(0, len(gram), block):
        end = min(begin + block, len(gram))
        block_rows = rows[:, begin:end].copy()
        errors = np.zeros_like(block_rows)
        block_factor = factor[begin:end, begin:end]
        scores = block_rows**2 / np.diag(block_factor) ** 2
        if pattern is None:
            threshold_index = int(scores.size * sparsity)
            threshold = np.partition(scores.reshape(-1), threshold_index)[threshold_index]
            is_removed = scores <= threshold
        else:
            is_removed = np.zeros(block_rows.shape, bool)
        for column in range(end - begin):
            if pattern is not None and column % pattern[1] == 0:
                group = slice(column, column + pattern[1])
                group_scores = block_rows[:, group] ** 2 / np.diag(block_factor)[group] ** 2
                lowest_indices = np.argsort(group_scores, 1, kind="stable")[:, : pattern[0]]
                np.put_along_axis(is_removed[:, group], lowest_indices, True, 1)
            new_column = np.where(is_removed[:, column], 0, block_rows[:, column])
            errors[:, column] = (block_rows[:, column] - new_column) / block_factor[column, column]
            block_rows[:, column:] -= errors[:, [column]] * block_factor[column, column:]
            block_rows[:, column] = new_column
        rows[:, begin:end] = block_rows
        rows[:, end:] -= errors @ factor[begin:end, end:]
    return rows.T


def layer(inputs, outputs, tokens, seed=0):
    """A kernel, and the Gram matrix of inputs with a spectrum that falls and some large channels."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.normal(size=(inputs, inputs)))[0] * np.arange(1, inputs + 1) ** -0.4
    activations = rng.normal(size=(tokens, inputs)) @ mixing.T
    activations[:, :: max(inputs // 4, 1)] *= 10
    kernel = rng.normal(size=(inputs, outputs)) * np.exp(rng.normal(size=outputs) / 2)
    return kernel, activations.T @ activations / tokens


def error(kernel, new, gram):
    """The squared error of the outputs, as a share of their squares."""
    change = np.asarray(kernel, np.float64) - np.asarray(new, np.float64)
    return np.sum(change * (gram @ change)) / np.sum(kernel * (gram @ kernel))
