"""Deep Compression's file format of a pruned and quantised leaf: written, read back, and counted in bytes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import checks, trees
from jaxprune.quantise import huffman
from jaxprune.quantise.codebooks import Codebook, books_of
from jaxprune.types import Params

__all__ = ["Packed", "pack", "report", "unpack"]

_MOST_GAP_BITS = 8
_FLOAT = 4  # bytes
_LENGTH = 1  # byte of a code's length
_NUMBERS = ("weights", "kept", "filled")  # columns of the report
_BYTES = ("dense", "pruned", "quantised", "coded")


class Packed(NamedTuple):
    """A leaf of few values and many zeros, as it is stored.

    Its entries are the surviving weights in the order of the flattened leaf, and zeros that fill gaps too
    long for one number: each has an index into `values` and the distance from the entry before.

    Attributes:
      shape: of the leaf.
      entries: number of entries.
      values: float32, the first of them 0.
      bits: number of bits of an index, before Huffman coding.
      gap_bits: number of bits of a distance, before Huffman coding.
      index_lengths: lengths of the Huffman codes of indices, in bits.
      gap_lengths: lengths of those of distances.
      indices: Huffman codes of the indices.
      gaps: Huffman codes of the distances less one.
    """

    shape: tuple[int, ...]
    entries: int
    values: np.ndarray
    bits: int
    gap_bits: int
    index_lengths: np.ndarray
    gap_lengths: np.ndarray
    indices: bytes
    gaps: bytes

    @property
    def fixed_bytes(self) -> float:
        """Bytes with indices and distances of fixed width, before Huffman coding."""
        return self.entries * (self.bits + self.gap_bits) / 8 + _FLOAT * (len(self.values) - 1)

    @property
    def coded_bytes(self) -> int:
        """Bytes with Huffman codes: data, values, and one byte for the length of each code."""
        tables = _LENGTH * (len(self.index_lengths) + len(self.gap_lengths))
        return len(self.indices) + len(self.gaps) + tables + _FLOAT * (len(self.values) - 1)


def pack(codebook: Codebook, *, gap_bits: int = 5) -> Packed:
    """Returns a leaf as Deep Compression stores it.

    Args:
      codebook: of the leaf.
      gap_bits: number of bits of the distance between two entries, from 1 to 8; longer gaps are filled with
        zeros.

    Returns:
      A `Packed`, from which `unpack` gives the leaf.

    Raises:
      ValueError: if `gap_bits` is no whole number or out of its range.

    References:
      Han, Mao & Dally, "Deep Compression", ICLR 2016, figure 2 and section 4.

    >>> book = Codebook(jnp.array([0, 1, 0, 0, 0, 2], jnp.uint8), jnp.array([0.0, -1.0, 2.0, 3.0]))
    >>> packed = pack(book, gap_bits=1)
    >>> packed.entries, packed.fixed_bytes  # two weights and one zero between them
    (3, 13.125)
    >>> unpack(packed).tolist()
    [0.0, -1.0, 0.0, 0.0, 0.0, 2.0]
    """
    if not checks.INTEGER.fits(gap_bits) or not 1 <= gap_bits <= _MOST_GAP_BITS:
        raise ValueError(
            f"quantise.pack(gap_bits={gap_bits}): a whole number from 1 to {_MOST_GAP_BITS} is needed."
        )
    flat_indices = np.asarray(codebook.indices).ravel()
    positions = np.flatnonzero(flat_indices)
    distances = np.diff(positions, prepend=-1)
    longest_gap = 2**gap_bits
    filler_counts = (distances - 1) // longest_gap
    entry_indices = np.cumsum(filler_counts + 1) - 1  # of each weight among the entries
    entry_count = int(entry_indices[-1]) + 1 if len(entry_indices) else 0
    value_indices = np.zeros(entry_count, np.int64)
    value_indices[entry_indices] = flat_indices[positions]
    entry_gaps = np.full(entry_count, longest_gap - 1)
    entry_gaps[entry_indices] = distances - filler_counts * longest_gap - 1
    index_lengths = huffman.code_lengths(np.bincount(value_indices, minlength=len(codebook.values)))
    gap_lengths = huffman.code_lengths(np.bincount(entry_gaps, minlength=longest_gap))
    return Packed(
        tuple(codebook.indices.shape),
        entry_count,
        np.asarray(codebook.values, np.float32),
        codebook.bits,
        gap_bits,
        index_lengths,
        gap_lengths,
        huffman.encode(value_indices, index_lengths),
        huffman.encode(entry_gaps, gap_lengths),
    )


def unpack(packed: Packed) -> np.ndarray:
    """Returns the leaf from its stored form.

    Args:
      packed: from `jaxprune.quantise.pack`.

    Returns:
      float32, in the shape of the leaf.

    >>> book = Codebook(jnp.array([2, 0, 1], jnp.uint8), jnp.array([0.0, -1.0, 2.0, 3.0]))
    >>> unpack(pack(book)).tolist()
    [2.0, 0.0, -1.0]
    """
    gaps = huffman.decode(packed.gaps, packed.gap_lengths, packed.entries)
    indices = huffman.decode(packed.indices, packed.index_lengths, packed.entries)
    flat_leaf = np.zeros(int(np.prod(packed.shape)), np.float32)
    flat_leaf[np.cumsum(gaps + 1) - 1] = packed.values[indices]
    return flat_leaf.reshape(packed.shape)


def report(params: Params, codebooks: Any, *, gap_bits: int = 5) -> list[dict[str, Any]]:
    """Returns the bytes of each leaf, and of all, at each stage of Deep Compression.

    Args:
      params: tree of arrays.
      codebooks: tree like it of `Codebook`s; leaves without one (`None`) are stored as they are.
      gap_bits: number of bits of the distance between two entries, from 1 to 8.

    Returns:
      Rows with "leaf", "weights", "kept", "filled" (zeros stored in long gaps), and bytes: "dense" (float32),
      "pruned" (float32 values and distances), "quantised" (indices of fixed width) and "coded" (Huffman); the
      last row is the sum, with "ratio" and "ratio_quantised": dense bytes over coded and quantised ones.

    >>> book = Codebook(jnp.array([[1, 0], [0, 1]], jnp.uint8), jnp.array([0.0, 2.0]))
    >>> report({"w": jnp.ones((2, 2))}, {"w": book})[-1]["dense"]
    16
    """
    rows = []
    books = books_of(params, codebooks)
    for path, leaf, book in zip(trees.paths(params), jax.tree.leaves(params), books, strict=True):
        weight_count = int(jnp.size(leaf))
        row: dict[str, Any] = {
            "leaf": path,
            "weights": weight_count,
            "kept": weight_count,
            "filled": 0,
        }
        row |= dict.fromkeys(_BYTES, _FLOAT * weight_count)
        if book is not None:
            packed = pack(book, gap_bits=gap_bits)
            kept_count = int(np.count_nonzero(book.indices))
            row |= {"kept": kept_count, "filled": packed.entries - kept_count}
            row |= {"pruned": packed.entries * (_FLOAT + gap_bits / 8)}
            row |= {"quantised": packed.fixed_bytes, "coded": packed.coded_bytes}
        rows.append(row)
    return [*rows, _sum_row(rows)]


def _sum_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the last row of the report: sums over all leaves, and the ratios."""
    totals: dict[str, Any] = {
        "leaf": "all",
        **{name: sum(row[name] for row in rows) for name in (*_NUMBERS, *_BYTES)},
    }

    def ratio(name: str) -> float:
        return (
            totals["dense"] / totals[name] if totals[name] else 1.0
        )  # nothing is as small as nothing

    return totals | {"ratio_quantised": ratio("quantised"), "ratio": ratio("coded")}
