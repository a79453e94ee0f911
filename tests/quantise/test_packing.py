"""What is stored comes back to the bit, and is as small as said."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import quantise
from jaxprune.quantise import huffman


def book(shape, kept, bits=4, seed=0):
    rng = np.random.default_rng(seed)
    indices = rng.integers(1, 2**bits, shape) * (rng.random(shape) < kept)
    values = np.concatenate([[0], rng.normal(size=2**bits - 1)])
    return quantise.Codebook(jnp.asarray(indices, jnp.uint8), jnp.asarray(values, jnp.float32))


@pytest.mark.parametrize("gap_bits", [1, 3, 5, 8])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.1, 0.9, 1.0])
def test_round_trip(kept, gap_bits):
    codebook = book((37, 23), kept)
    packed = quantise.pack(codebook, gap_bits=gap_bits)
    np.testing.assert_array_equal(
        quantise.unpack(packed), np.asarray(codebook.values)[np.asarray(codebook.indices)]
    )
    assert packed.coded_bytes >= len(packed.indices) + len(packed.gaps)


def test_a_gap_of_exactly_the_reach_needs_no_filler():
    for distance, entries in ((8, 1), (9, 2), (16, 2), (17, 3)):
        indices = np.zeros(20, np.uint8)
        indices[distance - 1] = 1
        codebook = quantise.Codebook(jnp.asarray(indices), jnp.array([0.0, 1.0]))
        assert quantise.pack(codebook, gap_bits=3).entries == entries, distance


def test_huffman_is_within_a_bit_of_the_entropy_and_beats_fixed_width():
    counts = np.array([50, 25, 12, 6, 3, 2, 1, 1])
    lengths = huffman.code_lengths(counts)
    share = counts / counts.sum()
    mean, entropy = (share * lengths).sum(), -(share * np.log2(share)).sum()
    assert entropy <= mean < entropy + 1
    assert mean < 3
    assert (2.0**-lengths).sum() == 1  # Kraft: no bit is wasted


def test_powers_of_two_meet_the_entropy():
    assert huffman.code_lengths(np.array([8, 4, 2, 1, 1])).tolist() == [1, 2, 3, 4, 4]


@pytest.mark.parametrize("symbols", [[], [3], [3, 3, 3], [0, 1] * 9, list(range(16)) * 3])
def test_any_symbols_come_back(symbols):
    symbols = np.array(symbols, np.int64)
    lengths = huffman.code_lengths(np.bincount(symbols, minlength=16))
    data = huffman.encode(symbols, lengths)
    assert huffman.decode(data, lengths, len(symbols)).tolist() == symbols.tolist()


def test_data_that_end_too_soon_are_refused():
    symbols = np.arange(16)
    lengths = huffman.code_lengths(np.bincount(symbols))
    data = huffman.encode(symbols, lengths)
    with pytest.raises(ValueError, match="damaged"):
        huffman.decode(data[:-1], lengths, 16)


def test_the_report_adds_up_to_what_is_stored():
    books = {"a": book((300, 100), 0.09, 6), "bias": None}
    params = {"a": jnp.ones((300, 100)), "bias": jnp.ones(100)}
    *rows, total = quantise.report(params, books)
    packed = quantise.pack(books["a"])
    assert rows[0]["coded"] == packed.coded_bytes
    assert rows[0]["kept"] == int(np.count_nonzero(books["a"].indices))
    assert rows[1]["coded"] == rows[1]["dense"] == 400
    assert total["dense"] == 4 * 30_100
    assert total["coded"] == packed.coded_bytes + 400
    assert total["dense"] > total["pruned"] > total["quantised"]
    assert total["ratio"] == total["dense"] / total["coded"]


def test_a_report_of_nothing_has_no_bytes():
    for params, books in (({}, {}), ({"empty": jnp.zeros((0, 3))}, {"empty": None})):
        total = quantise.report(params, books)[-1]
        assert (total["dense"], total["coded"], total["ratio"]) == (0, 0, 1.0)


def test_gap_bits_out_of_range():
    with pytest.raises(ValueError, match="from 1 to 8"):
        quantise.pack(book((3, 3), 0.5), gap_bits=0)
    with pytest.raises(ValueError, match="whole number from 1 to 8"):
        quantise.pack(book((3, 3), 0.5), gap_bits=2.5)
