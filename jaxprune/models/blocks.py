"""Storage types of GGUF tensors: how many values a block has, how its bytes lie, which numbers they are.

A block of a quantised type holds small integers and one or two float16 that make numbers of them. Four-bit
integers lie two to a byte: of a run of bytes the low halves come first, then the high halves.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

__all__ = ["TYPES", "StorageType"]

CHUNK = 1 << 14  # blocks decoded at once, so that intermediate arrays stay small beside the result


class StorageType(NamedTuple):
    """A way to store numbers in blocks.

    Attributes:
      name: in GGUF's words, such as "Q4_1".
      values: numbers in a block.
      layout: dtype of a block; of plain types, of the number.
      decoded: blocks [n] -> float32 [n, values]; `None`: the numbers are stored as they are.
    """

    name: str
    values: int
    layout: np.dtype
    decoded: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the numbers that `decode` returns: float32 for quantised types, else the stored one."""
        return self.layout if self.decoded is None else np.dtype(np.float32)

    def decode(self, blocks: np.ndarray) -> np.ndarray:
        """Returns the numbers of a vector of blocks, in a new vector."""
        if self.decoded is None:
            return blocks.copy()
        numbers = np.empty((len(blocks), self.values), np.float32)
        for first_block in range(0, len(blocks), CHUNK):
            numbers[first_block : first_block + CHUNK] = self.decoded(
                blocks[first_block : first_block + CHUNK]
            )
        return numbers.reshape(-1)


def _halves(packed: np.ndarray) -> np.ndarray:
    """Returns the four-bit integers [..., 2n] of bytes [..., n], low halves first."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _column(field: np.ndarray) -> np.ndarray:
    """Returns one float16 per block as a float32 column, which broadcasts over the block's values."""
    return field.astype(np.float32)[:, None]


def _five_bits(blocks: np.ndarray) -> np.ndarray:
    """Returns five-bit integers: bit i of the four bytes `high` is the fifth bit of value i."""
    fifth_bits = np.unpackbits(blocks["high"], axis=-1, bitorder="little")
    return _halves(blocks["q"]) | fifth_bits << 4


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    return blocks["q"] * _column(blocks["scale"])


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    return (_halves(blocks["q"]) - np.float32(8)) * _column(blocks["scale"])


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    return _halves(blocks["q"]) * _column(blocks["scale"]) + _column(blocks["least"])


def _q5_0(blocks: np.ndarray) -> np.ndarray:
    return (_five_bits(blocks) - np.float32(16)) * _column(blocks["scale"])


def _q5_1(blocks: np.ndarray) -> np.ndarray:
    return _five_bits(blocks) * _column(blocks["scale"]) + _column(blocks["least"])


def _q4_k(blocks: np.ndarray) -> np.ndarray:
    """Decodes eight runs of 32, each with a scale and an offset of six bits: sixteen of them in 12 bytes."""
    low_bytes, middle_bytes, high_bytes = np.split(blocks["scales"], 3, axis=-1)
    scales = np.concatenate([low_bytes & 63, high_bytes & 15 | low_bytes >> 6 << 4], axis=-1)
    offsets = np.concatenate([middle_bytes & 63, high_bytes >> 4 | middle_bytes >> 6 << 4], axis=-1)
    scales = scales * _column(blocks["scale"])
    offsets = offsets * _column(blocks["least"])
    integers = _halves(blocks["q"].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    return (integers * scales[..., None] - offsets[..., None]).reshape(-1, 256)


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    """Decodes two halves of four runs of 32: four bits in `q`, two in `high`; one scale for 16 values."""
    # Per half, the low four bits of all runs: two runs in the low halves of 64 bytes, two in the high ones.
    low_bits = _halves(blocks["q"].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high_bits = blocks["high"].reshape(-1, 2, 1, 32) >> shifts & 3
    integers = (low_bits | high_bits << 4) - np.float32(32)
    scales = blocks["scales"] * _column(blocks["scale"])
    return (integers.reshape(-1, 16, 16) * scales[..., None]).reshape(-1, 256)


def _block(name: str, values: int, decoded: Any, *fields: tuple[Any, ...]) -> StorageType:
    return StorageType(name, values, np.dtype(list(fields)), decoded)


_SCALE = ("scale", "<f2")
_LEAST = ("least", "<f2")
_HIGH = ("high", "u1", 4)
_FOUR_BITS = ("q", "u1", 16)

# By GGUF's own indices.
TYPES: Mapping[int, StorageType] = {
    0: StorageType("F32", 1, np.dtype("<f4")),
    1: StorageType("F16", 1, np.dtype("<f2")),
    2: _block("Q4_0", 32, _q4_0, _SCALE, _FOUR_BITS),
    3: _block("Q4_1", 32, _q4_1, _SCALE, _LEAST, _FOUR_BITS),
    6: _block("Q5_0", 32, _q5_0, _SCALE, _HIGH, _FOUR_BITS),
    7: _block("Q5_1", 32, _q5_1, _SCALE, _LEAST, _HIGH, _FOUR_BITS),
    8: _block("Q8_0", 32, _q8_0, _SCALE, ("q", "i1", 32)),
    12: _block("Q4_K", 256, _q4_k, _SCALE, _LEAST, ("scales", "u1", 12), ("q", "u1", 128)),
    14: _block(
        "Q6_K", 256, _q6_k, ("q", "u1", 128), ("high", "u1", 64), ("scales", "i1", 16), _SCALE
    ),
    24: StorageType("I8", 1, np.dtype("i1")),
    25: StorageType("I16", 1, np.dtype("<i2")),
    26: StorageType("I32", 1, np.dtype("<i4")),
    27: StorageType("I64", 1, np.dtype("<i8")),
    28: StorageType("F64", 1, np.dtype("<f8")),
    30: StorageType("BF16", 1, np.dtype(ml_dtypes.bfloat16)),
}
