"""Huffman codes of small whole numbers, in canonical form: the codes follow from their lengths alone."""

import heapq
import itertools

import numpy as np

__all__ = ["code_lengths", "decode", "encode"]


def code_lengths(counts: np.ndarray) -> np.ndarray:
    """Returns the length in bits of the code of each symbol, 0 for those that do not occur.

    The lengths minimise the number of all bits (Huffman 1952); a symbol that is the only one has one bit.

    >>> code_lengths(np.array([5, 1, 2, 0])).tolist()
    [1, 2, 2, 0]
    """
    lengths = np.zeros(len(counts), np.int64)
    tie_breaker = itertools.count()
    heap = [
        (int(symbol_count), next(tie_breaker), [symbol])
        for symbol, symbol_count in enumerate(counts)
        if symbol_count > 0
    ]
    if len(heap) == 1:
        lengths[heap[0][2]] = 1
    heapq.heapify(heap)
    while len(heap) > 1:
        lower_count, _, lower_symbols = heapq.heappop(heap)
        higher_count, _, higher_symbols = heapq.heappop(heap)
        lengths[lower_symbols + higher_symbols] += 1
        heapq.heappush(
            heap, (lower_count + higher_count, next(tie_breaker), lower_symbols + higher_symbols)
        )
    return lengths


def _codes(lengths: np.ndarray) -> np.ndarray:
    """Returns the canonical codes of the symbols: ascending by length, then by symbol."""
    codes = np.zeros(len(lengths), np.int64)
    code = last_length = 0
    for symbol in sorted(np.flatnonzero(lengths), key=lambda symbol: (lengths[symbol], symbol)):
        code <<= int(lengths[symbol]) - last_length
        last_length = int(lengths[symbol])
        codes[symbol] = code
        code += 1
    return codes


def encode(symbols: np.ndarray, lengths: np.ndarray) -> bytes:
    """Returns the codes of symbols one after the other, first bit first; the last byte is padded with zeros.

    >>> lengths = code_lengths(np.array([5, 1, 2]))
    >>> encode(np.array([0, 1, 2, 0]), lengths).hex()
    '58'
    """
    codes = _codes(lengths)[symbols]
    code_widths = lengths[symbols]
    bit_ends = np.cumsum(code_widths)
    bits = np.zeros(int(bit_ends[-1]) if len(bit_ends) else 0, np.uint8)
    for bit_index in range(int(code_widths.max(initial=0))):  # counted from the end of each code
        is_longer = code_widths > bit_index
        bits[bit_ends[is_longer] - 1 - bit_index] = codes[is_longer] >> bit_index & 1
    return np.packbits(bits).tobytes()


def decode(data: bytes, lengths: np.ndarray, count: int) -> np.ndarray:
    """Returns the first symbols of what `encode` returned.

    Args:
      data: the bytes.
      lengths: length in bits of the code of each symbol.
      count: number of symbols to be read.

    Raises:
      ValueError: if the bits end before, or are no code.

    >>> lengths = code_lengths(np.array([5, 1, 2]))
    >>> decode(bytes.fromhex("58"), lengths, 4).tolist()
    [0, 1, 2, 0]
    """
    codes = _codes(lengths)
    symbol_of_code = {
        (int(lengths[symbol]), int(codes[symbol])): int(symbol)
        for symbol in np.flatnonzero(lengths)
    }
    longest_code = int(lengths.max(initial=0))
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).tolist()
    symbols = np.zeros(count, np.int64)
    bit_position = 0
    for symbol_index in range(count):
        code = code_width = 0
        while (code_width, code) not in symbol_of_code:
            if bit_position >= len(bits) or code_width > longest_code:
                raise ValueError(
                    f"huffman.decode: bit {bit_position} of {8 * len(data)} begins no code; the data are "
                    "damaged."
                )
            code = code << 1 | bits[bit_position]
            code_width += 1
            bit_position += 1
        symbols[symbol_index] = symbol_of_code[code_width, code]
    return symbols
