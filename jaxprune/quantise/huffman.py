"""Huffman codes of small whole numbers, in canonical form: their lengths alone say what they are."""

import heapq
import itertools

import numpy as np

__all__ = ["code_lengths", "decode", "encode"]


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Returns the length in bits of the code of each symbol, 0 for those that do not occur.

    The lengths minimise the bits in all (Huffman 1952); a symbol that stands alone has one bit.

    >>> code_lengths(np.array([5, 1, 2, 0])).tolist()
    [1, 2, 2, 0]
    """
    lengths = np.zeros(len(counts), np.int64)
    order = itertools.count()
    heap = [(int(n), next(order), [symbol]) for symbol, n in enumerate(counts) if n > 0]
    if len(heap) == 1:
        lengths[heap[0][2]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        few, _, one = heapq.heappop(heap)
        more, _, other = heapq.heappop(heap)
        lengths[one + other] += 1
        heapq.heappush(heap, (few + more, next(order), one + other))
    return lengths


def _codes(lengths: np.ndarray) -> np.ndarray:
    """Canonical codes: ascending by length, then by symbol."""
    codes = np.zeros(len(lengths), np.int64)
    code = last = 0
    for symbol in sorted(np.flatnonzero(lengths), key=lambda s: (lengths[s], s)):
        code <<= int(lengths[symbol]) - last
        last = int(lengths[symbol])
        codes[symbol] = code
        code += 1
    return codes


def encode(symbols: np.ndarray, lengths: np.ndarray) -> bytes:
    """Writes symbols by the codes of these lengths, first bit first; the last byte is filled with zeros.

    >>> lengths = code_lengths(np.array([5, 1, 2]))
    >>> encode(np.array([0, 1, 2, 0]), lengths).hex()
    '58'
    """
    codes, widths = _codes(lengths)[symbols], lengths[symbols]
    ends = np.cumsum(widths)
    bits = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    for place in range(int(widths.max(initial=0))):  # counted from the end of each code
        own = widths > place
        bits[ends[own] - 1 - place] = codes[own] >> place & 1
    return np.packbits(bits).tobytes()


def decode(data: bytes, lengths: np.ndarray, count: int) -> np.ndarray:
    """Reads so many symbols that `encode` wrote.

    Raises:
      ValueError: if the bits end before, or are no code.

    >>> lengths = code_lengths(np.array([5, 1, 2]))
    >>> decode(bytes.fromhex("58"), lengths, 4).tolist()
    [0, 1, 2, 0]
    """
    codes = _codes(lengths)
    known = {(int(lengths[s]), int(codes[s])): int(s) for s in np.flatnonzero(lengths)}
    longest = int(lengths.max(initial=0))
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).tolist()
    found = np.zeros(count, np.int64)
    at = 0
    for i in range(count):
        code = width = 0
        while (width, code) not in known:
            if at >= len(bits) or width > longest:
                raise ValueError(
                    f"huffman.decode: bit {at} of {8 * len(data)} begins no code; the data are damaged."
                )
            code = code << 1 | bits[at]
            width += 1
            at += 1
        found[i] = known[width, code]
    return found
