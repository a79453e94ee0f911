"""What was done to each kernel, and how far a run is."""

import datetime
from typing import NamedTuple

__all__ = ["Progress", "Recovered", "Report", "Row"]


class Row(NamedTuple):
    """What was done to one kernel.

    Attributes:
      name: of the kernel.
      weights: how many it has.
      kept: how many of them are left.
      error: squared error of its outputs as a share of their squares, on the calibration data; `None` where
        no Gram matrix was gathered.
      held_error: the same on batches that were held out; `None` where there were none.
      damp: that its factor needed, of the layer that needed most; 0 without.
      seconds: that it took, together with the kernels of the same input.
    """

    name: str
    weights: int
    kept: int
    error: float | None
    held_error: float | None
    damp: float
    seconds: float


class Recovered(NamedTuple):
    """What recovery did for one block.

    Attributes:
      block: its index.
      before: squared error of its outputs as a share of their squares, on the calibration data.
      after: the same.
    """

    block: int
    before: float
    after: float


class Report(NamedTuple):
    """What was done; `print` shows a table.

    Attributes:
      rows: one per kernel, in the order in which they were solved.
      blocks: one per block that was recovered.
      notes: what one should know before trusting it.
      seconds: of the whole run, resumed parts not counted.
    """

    rows: tuple[Row, ...]
    blocks: tuple[Recovered, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def sparsity(self) -> float:
        """Of all kernels together."""
        return 1 - sum(r.kept for r in self.rows) / max(sum(r.weights for r in self.rows), 1)

    def __str__(self) -> str:
        titles = f"{'weights':>12}{'sparsity':>10}{'error':>10}{'held out':>10}{'damping':>10}"
        lines = [f"{'kernel':44}{titles}"]
        shown = lambda error: "" if error is None else f"{error:.2e}"
        for row in self.rows:
            errors = f"{shown(row.error):>10}{shown(row.held_error):>10}"
            sparsity = 1 - row.kept / max(row.weights, 1)
            damp = f"{row.damp:g}" if row.damp else ""
            lines.append(f"{row.name:44}{row.weights:>12,}{sparsity:>10.4f}{errors}{damp:>10}")
        for each in self.blocks:
            lines.append(f"block {each.block}: error {each.before:.2e}, recovered {each.after:.2e}")
        lines.append(
            f"sparsity {self.sparsity:.4f} of {len(self.rows)} kernels, {self.seconds:.1f} s"
        )
        return "\n".join([*lines, *self.notes])


class Progress(NamedTuple):
    """How far a run is; `print` shows a line.

    Attributes:
      done: segments.
      segments: in all.
      kernels: that were solved last.
      seconds: since the start.
      left: seconds that are left, by the operations that are.
    """

    done: int
    segments: int
    kernels: tuple[str, ...]
    seconds: float
    left: float

    def __str__(self) -> str:
        left = datetime.timedelta(seconds=round(self.left))
        what = f": {', '.join(self.kernels)}" if self.kernels else ""
        return f"segment {self.done} of {self.segments}, {left} left{what}"
