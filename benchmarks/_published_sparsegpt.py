"""SparseGPT as its authors write it, in NumPy: the inverse, its factor, columns from left to right."""

import numpy as np


def sparsegpt(kernel, gram, sparsity, pattern=None, damp=0.01, block=128, dtype=np.float64):
    """Returns the new kernel `[inputs, outputs]`.

    `pattern` is `(n, m)`: n of m neighbouring inputs go; `None`: the whole block of inputs competes.
    """
    rows = np.array(kernel.T, dtype, order="C")
    gram = np.array(gram, dtype)
    dead = np.diag(gram) == 0
    gram[dead, dead] = 1
    rows[:, dead] = 0
    gram += damp * np.mean(np.diag(gram)) * np.eye(len(gram), dtype=dtype)
    factor = np.linalg.cholesky(np.linalg.inv(gram)).T
    for begin in range(0, len(gram), block):
        end = min(begin + block, len(gram))
        part = rows[:, begin:end].copy()
        errors = np.zeros_like(part)
        inner = factor[begin:end, begin:end]
        scores = part**2 / np.diag(inner) ** 2
        if pattern is None:
            place = int(scores.size * sparsity)
            limit = np.partition(scores.reshape(-1), place)[place]
            gone = scores <= limit
        else:
            gone = np.zeros(part.shape, bool)
        for i in range(end - begin):
            if pattern is not None and i % pattern[1] == 0:
                own = slice(i, i + pattern[1])
                worth = part[:, own] ** 2 / np.diag(inner)[own] ** 2
                least = np.argsort(worth, 1, kind="stable")[:, : pattern[0]]
                np.put_along_axis(gone[:, own], least, True, 1)
            new = np.where(gone[:, i], 0, part[:, i])
            errors[:, i] = (part[:, i] - new) / inner[i, i]
            part[:, i:] -= errors[:, [i]] * inner[i, i:]
            part[:, i] = new
        rows[:, begin:end] = part
        rows[:, end:] -= errors @ factor[begin:end, end:]
    return rows.T


def layer(inputs, outputs, tokens, seed=0):
    """A kernel, and the Gram matrix of inputs with a spectrum that falls and some large channels."""
    draw = np.random.default_rng(seed)
    mixing = np.linalg.qr(draw.normal(size=(inputs, inputs)))[0] * np.arange(1, inputs + 1) ** -0.4
    x = draw.normal(size=(tokens, inputs)) @ mixing.T
    x[:, :: max(inputs // 4, 1)] *= 10
    kernel = draw.normal(size=(inputs, outputs)) * np.exp(draw.normal(size=outputs) / 2)
    return kernel, x.T @ x / tokens


def error(kernel, new, gram):
    """The squared error of the outputs, as a share of their squares."""
    change = np.asarray(kernel, np.float64) - np.asarray(new, np.float64)
    return np.sum(change * (gram @ change)) / np.sum(kernel * (gram @ kernel))
