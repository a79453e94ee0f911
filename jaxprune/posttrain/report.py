"""Report of pruning after training: a table with a row per kernel, and a line on the progress of a run."""

import datetime
from typing import NamedTuple

from jaxprune.wording import counted

__all__ = ["KernelRow", "Progress", "Recovered", "Report"]


class KernelRow(NamedTuple):
    """Figures of one kernel.

    Attributes:
      name: of the kernel.
      weights: number of its weights.
      kept: number of weights that are left.
      error: squared error of its outputs divided by the squared outputs, on the calibration data; `None` if
        no Gram matrix was gathered.
      held_error: the same on held-out batches; `None` if there were none.
      damp: largest damping of its layers, as a fraction of the mean of the Gram matrix's diagonal; 0 if there
        was no damping.
      seconds: wall time of the solve of this kernel and those that share its input.
    """

    name: str
    weights: int
    kept: int
    error: float | None
    held_error: float | None
    damp: float
    seconds: float


class Recovered(NamedTuple):
    """Errors of one block before and after it was trained.

    Attributes:
      block: its index.
      before: squared error of its outputs divided by the squared outputs, on the calibration data.
      after: the same after training.
    """

    block: int
    before: float
    after: float


class Report(NamedTuple):
    """Figures of a pruning after training; `print` shows a table.

    Attributes:
      rows: one per kernel, in the order in which they were solved.
      blocks: one per block that was recovered.
      notes: sentences on what limits the validity of the result; read them first.
      seconds: time of the whole run, without the parts of an earlier run that it resumed.
    """

    rows: tuple[KernelRow, ...]
    blocks: tuple[Recovered, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def sparsity(self) -> float:
        """Fraction of the weights removed, of all kernels together."""
        return 1 - sum(row.kept for row in self.rows) / max(
            sum(row.weights for row in self.rows), 1
        )

    def __str__(self) -> str:
        titles = f"{'weights':>12}{'sparsity':>10}{'error':>10}{'held out':>10}{'damping':>10}"
        lines = [f"{'kernel':44}{titles}"]

        for row in self.rows:
            error_columns = f"{_format_error(row.error):>10}{_format_error(row.held_error):>10}"
            sparsity = 1 - row.kept / max(row.weights, 1)
            damping_text = f"{row.damp:g}" if row.damp else ""
            lines.append(
                f"{row.name:44}{row.weights:>12,}{sparsity:>10.4f}{error_columns}{damping_text:>10}"
            )
        for recovery in self.blocks:
            lines.append(
                f"block {recovery.block}: error {recovery.before:.2e}, recovered {recovery.after:.2e}"
            )
        lines.append(
            f"sparsity {self.sparsity:.4f} of {counted(len(self.rows), 'kernel')}, {self.seconds:.1f} s"
        )
        return "\n".join([*lines, *self.notes])


def _format_error(error: float | None) -> str:
    return "" if error is None else f"{error:.2e}"


class Progress(NamedTuple):
    """State of a run after a segment; `print` shows a line.

    Attributes:
      done: number of finished segments.
      segments: number of all segments.
      kernels: names of the kernels that were solved last.
      seconds: seconds since the start.
      left: estimate of the seconds that are left, from the operations that are left.
    """

    done: int
    segments: int
    kernels: tuple[str, ...]
    seconds: float
    left: float

    def __str__(self) -> str:
        time_left = datetime.timedelta(seconds=round(self.left))
        kernel_names = f": {', '.join(self.kernels)}" if self.kernels else ""
        return f"segment {self.done} of {self.segments}, {time_left} left{kernel_names}"
