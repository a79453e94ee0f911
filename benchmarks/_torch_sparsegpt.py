"""SparseGPT as published, in PyTorch: run by the interpreter that has it, for `benchmarks.sparsegpt`.

It reads kernel.npy `[inputs, outputs]` and gram.npy from a folder, writes the new kernel of each pattern
there, and prints processor seconds as JSON.

Run: python -m benchmarks._torch_sparsegpt FOLDER ROUNDS
"""
# pyright: reportMissingImports=false

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks._published_sparsegpt import PATTERNS

BLOCK = 128
DAMP = 0.01


def sparsegpt(
    kernel: torch.Tensor, gram: torch.Tensor, sparsity: float, pattern: tuple[int, int] | None
) -> torch.Tensor:
    """Returns the new kernel: columns from left to right, with the upper factor of the inverse.

    Args:
      kernel: `[outputs, inputs]`.
      gram: of the inputs.
      sparsity: fraction removed.
      pattern: (n, m): n of m neighbouring inputs go; None: the weights of a block compete.
    """
    kernel, gram = kernel.clone(), gram.clone()
    is_dead = torch.diag(gram) == 0
    gram[is_dead, is_dead] = 1
    kernel[:, is_dead] = 0
    diagonal_indices = torch.arange(len(gram))
    gram[diagonal_indices, diagonal_indices] += DAMP * torch.mean(torch.diag(gram))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    factor = torch.linalg.cholesky(inverse, upper=True)
    for begin in range(0, len(gram), BLOCK):
        end = min(begin + BLOCK, len(gram))
        weights = kernel[:, begin:end].clone()
        new_weights, errors = torch.zeros_like(weights), torch.zeros_like(weights)
        block_factor = factor[begin:end, begin:end]
        diagonal = torch.diag(block_factor)
        if pattern is None:
            scores = weights**2 / diagonal.reshape(1, -1) ** 2
            threshold = torch.sort(scores.flatten())[0][int(scores.numel() * sparsity)]
            is_removed = scores <= threshold
        else:
            is_removed = torch.zeros_like(weights, dtype=torch.bool)
        for column in range(end - begin):
            if pattern is not None and column % pattern[1] == 0:
                group = slice(column, column + pattern[1])
                scores = weights[:, group] ** 2 / diagonal[group].reshape(1, -1) ** 2
                lowest = torch.topk(scores, pattern[0], dim=1, largest=False)[1]
                is_removed.scatter_(1, column + lowest, True)
            old = weights[:, column]
            new = torch.where(is_removed[:, column], 0.0, old)
            new_weights[:, column] = new
            error = (old - new) / diagonal[column]
            weights[:, column:] -= error.unsqueeze(1) @ block_factor[column, column:].unsqueeze(0)
            errors[:, column] = error
        kernel[:, begin:end] = new_weights
        kernel[:, end:] -= errors @ factor[begin:end, end:]
    return kernel


def main() -> None:
    folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    kernel = torch.from_numpy(np.load(folder / "kernel.npy").T.copy())
    gram = torch.from_numpy(np.load(folder / "gram.npy"))
    seconds = {}
    for index, (name, (sparsity, pattern)) in enumerate(PATTERNS.items()):
        times = []
        for _ in range(rounds):
            start = time.process_time()
            new_kernel = sparsegpt(kernel, gram, sparsity, pattern)
            times.append(time.process_time() - start)
        seconds[name] = min(times)
        np.save(folder / f"new_{index}.npy", new_kernel.numpy().T)
    print(json.dumps({"seconds": seconds, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
