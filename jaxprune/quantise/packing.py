"""What a pruned and quantised network needs in a file, written to the byte and read back."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import trees
from jaxprune.quantise import huffman
from jaxprune.quantise.codebooks import Codebook, books_of
from jaxprune.types import Params

__all__ = ["Packed", "pack", "report", "unpack"]

_MOST_GAP_BITS = 8
_FLOAT = 4  # bytes
_LENGTH = 1  # byte of a code's length


class Packed(NamedTuple):
    """A leaf of few values and many zeros.

    Its entries are the surviving weights in the order of the flattened leaf, and zeros that fill gaps too
    long for one number: each has an index into `values` and the distance from the entry before.

    Attributes:
      shape: of the leaf.
      entries: how many there are.
      values: float32.
      bits: of an index.
      gap_bits: of a distance.
      index_lengths: lengths of the Huffman codes of indices.
      gap_lengths: lengths of those of distances.
      indices: coded.
      gaps: coded.
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
        """Bytes with Huffman codes: of the data, the values, and one for the length of each code."""
        tables = _LENGTH * (len(self.index_lengths) + len(self.gap_lengths))
        return len(self.indices) + len(self.gaps) + tables + _FLOAT * (len(self.values) - 1)


def pack(codebook: Codebook, *, gap_bits: int = 5) -> Packed:
    """Returns a leaf as Deep Compression stores it.

    Args:
      codebook: of the leaf.
      gap_bits: of the distance between two entries, from 1 to 8; longer gaps are filled with zeros.

    References:
      Han, Mao & Dally, "Deep Compression", ICLR 2016, figure 2 and section 4.

    >>> book = Codebook(jnp.array([0, 1, 0, 0, 0, 2], jnp.uint8), jnp.array([0.0, -1.0, 2.0, 3.0]))
    >>> packed = pack(book, gap_bits=1)
    >>> packed.entries, packed.fixed_bytes  # two weights and one zero between them
    (3, 13.125)
    >>> unpack(packed).tolist()
    [0.0, -1.0, 0.0, 0.0, 0.0, 2.0]
    """
    if not 1 <= gap_bits <= _MOST_GAP_BITS:
        raise ValueError(
            f"quantise.pack(gap_bits={gap_bits}): a number from 1 to {_MOST_GAP_BITS} is needed."
        )
    flat = np.asarray(codebook.indices).ravel()
    positions = np.flatnonzero(flat)
    distances = np.diff(positions, prepend=-1)
    reach = 2**gap_bits
    fillers = (distances - 1) // reach
    ends = np.cumsum(fillers + 1) - 1  # of each weight among the entries
    entries = int(ends[-1]) + 1 if len(ends) else 0
    indices = np.zeros(entries, np.int64)
    indices[ends] = flat[positions]
    gaps = np.full(entries, reach - 1)
    gaps[ends] = distances - fillers * reach - 1
    index_lengths = huffman.code_lengths(np.bincount(indices, minlength=len(codebook.values)))
    gap_lengths = huffman.code_lengths(np.bincount(gaps, minlength=reach))
    return Packed(
        tuple(codebook.indices.shape),
        entries,
        np.asarray(codebook.values, np.float32),
        codebook.bits,
        gap_bits,
        index_lengths,
        gap_lengths,
        huffman.encode(indices, index_lengths),
        huffman.encode(gaps, gap_lengths),
    )


def unpack(packed: Packed) -> np.ndarray:
    """Returns the leaf, float32, from nothing but what was stored."""
    gaps = huffman.decode(packed.gaps, packed.gap_lengths, packed.entries)
    indices = huffman.decode(packed.indices, packed.index_lengths, packed.entries)
    flat = np.zeros(int(np.prod(packed.shape)), np.float32)
    flat[np.cumsum(gaps + 1) - 1] = packed.values[indices]
    return flat.reshape(packed.shape)


def report(params: Params, codebooks: Any, *, gap_bits: int = 5) -> list[dict[str, Any]]:
    """Bytes of each leaf, and of all, at each stage of Deep Compression.

    Args:
      params: tree of arrays.
      codebooks: tree like it of `Codebook`s; leaves without one (`None`) are stored as they are.
      gap_bits: of the distance between two entries.

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
        size = int(jnp.size(leaf))
        row: dict[str, Any] = {"leaf": path, "weights": size, "kept": size, "filled": 0}
        row |= dict.fromkeys(("dense", "pruned", "quantised", "coded"), _FLOAT * size)
        if book is not None:
            packed = pack(book, gap_bits=gap_bits)
            kept = int(np.count_nonzero(book.indices))
            row |= {"kept": kept, "filled": packed.entries - kept}
            row |= {"pruned": packed.entries * (_FLOAT + gap_bits / 8)}
            row |= {"quantised": packed.fixed_bytes, "coded": packed.coded_bytes}
        rows.append(row)
    return [*rows, _sum(rows)]


def _sum(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = itertools.islice(rows[0], 1, None) if rows else ()
    total: dict[str, Any] = {
        "leaf": "all",
        **{name: sum(row[name] for row in rows) for name in names},
    }
    return total | {
        "ratio_quantised": total["dense"] / total["quantised"],
        "ratio": total["dense"] / total["coded"],
    }
