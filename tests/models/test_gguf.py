"""GGUF is read as it is specified, and refused where it is damaged."""

import struct
import tracemalloc

import gguf_bytes as make
import numpy as np
import pytest

from jaxprune.models import gguf

HALF = struct.pack("<e", 0.5)
TWO = struct.pack("<e", 2.0)
# Byte i of sixteen: value i in its low half, value 16 + i in its high half.
NIBBLES = bytes(i | (15 - i) << 4 for i in range(16))
INTEGERS = np.array([*range(16), *range(15, -1, -1)], np.float32)
# Fifth bits: of the values 0 and 31.
HIGH = bytes([1, 0, 0, 128])
FIFTH = np.zeros(32, np.float32)
FIFTH[[0, 31]] = 16


def written(tmp_path, content):
    (tmp_path / "model.gguf").write_bytes(content)
    return tmp_path / "model.gguf"


def one(tmp_path, kind, block, values):
    table = [make.tensor("w", [values], kind, 0)]
    return gguf.read(written(tmp_path, make.file(table=table, data=block)))


@pytest.mark.parametrize(
    ("kind", "block", "expected"),
    [
        (0, struct.pack("<2f", 1.5, -2), [1.5, -2]),
        (1, struct.pack("<2e", 1.5, -2), [1.5, -2]),
        (30, bytes([0xC0, 0x3F, 0x00, 0xC0]), [1.5, -2]),
        (8, HALF + bytes(range(31)) + b"\x80", [*(i / 2 for i in range(31)), -64]),
        (2, HALF + NIBBLES, (INTEGERS - 8) / 2),
        (3, HALF + TWO + NIBBLES, INTEGERS / 2 + 2),
        (6, HALF + HIGH + NIBBLES, (INTEGERS + FIFTH - 16) / 2),
        (7, HALF + TWO + HIGH + NIBBLES, (INTEGERS + FIFTH) / 2 + 2),
    ],
    ids=["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"],
)
def test_each_type_on_a_block_written_by_hand(tmp_path, kind, block, expected):
    found = one(tmp_path, kind, block, len(expected))
    numbers = found.tensors["w"].read()
    assert numbers.dtype == found.tensors["w"].dtype
    np.testing.assert_array_equal(numbers.astype(np.float32), expected)


def test_q4_k(tmp_path):
    """Scales 1..8 and offsets 33..40 of six bits in twelve bytes; value i of a run is i % 16."""
    scales, offsets = list(range(1, 9)), [*range(33, 37), *range(61, 65)]
    offsets = [min(m, 63) for m in offsets]
    packed = [scales[j] | scales[4 + j] >> 4 << 6 for j in range(4)]
    packed += [offsets[j] | offsets[4 + j] >> 4 << 6 for j in range(4)]
    packed += [scales[4 + j] & 15 | (offsets[4 + j] & 15) << 4 for j in range(4)]
    run = bytes(i % 16 | (i % 16) << 4 for i in range(32))
    numbers = one(tmp_path, 12, HALF + TWO + bytes(packed) + run * 4, 256).tensors["w"].read()
    expected = [
        s / 2 * (i % 16) - 2 * m for s, m in zip(scales, offsets, strict=True) for i in range(32)
    ]
    np.testing.assert_array_equal(numbers, expected)


def test_q6_k(tmp_path):
    """Run r of each half has the integer 20 + 10 r, of which 63 is the largest; scales are -8..7."""
    runs = [20, 30, 40, 50]
    low = bytes(
        [runs[0] & 15 | (runs[2] & 15) << 4] * 32 + [runs[1] & 15 | (runs[3] & 15) << 4] * 32
    )
    high = bytes([sum((run >> 4) << 2 * r for r, run in enumerate(runs))] * 32)
    scales = struct.pack("16b", *range(-8, 8))
    numbers = one(tmp_path, 14, low * 2 + high * 2 + scales + HALF, 256).tensors["w"].read()
    expected = [
        (scale - 8) / 2 * (runs[scale // 2 % 4] - 32) for scale in range(16) for _ in range(16)
    ]
    np.testing.assert_array_equal(numbers, expected)


METADATA = [
    make.string("general.architecture", "llama"),
    make.uint32("llama.block_count", 30),
    make.float32("llama.rope.freq_base", 1e5),
    make.strings("tokenizer.ggml.tokens", ["a", "", "Ġö"]),
    make.strings("tokenizer.ggml.merges", ["a b"]),
    make.int32s("tokenizer.ggml.token_type", [3, 1, 1]),
    make.text("general.flag") + struct.pack("<IB", 7, 1),
]
TABLE = [make.tensor("a", [3, 2], 0, 0), make.tensor("b", [32], 8, 32)]
DATA = struct.pack("<6f", *range(6)) + bytes(8) + HALF + bytes(32)
WHOLE = make.file(METADATA, TABLE, DATA)


def test_metadata_and_axes(tmp_path):
    found = gguf.read(written(tmp_path, WHOLE))
    metadata = found.metadata
    assert metadata["general.architecture"] == "llama"
    assert metadata["llama.block_count"] == 30
    assert metadata["llama.rope.freq_base"] == 1e5
    assert metadata["tokenizer.ggml.tokens"] == ["a", "", "Ġö"]
    assert metadata["tokenizer.ggml.merges"] == ["a b"]
    assert metadata["tokenizer.ggml.token_type"].tolist() == [3, 1, 1]
    assert metadata["general.flag"] is True
    assert found.tensors["a"].read().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found.tensors["b"].shape == (32,)
    assert found.types == {"a": "F32", "b": "Q8_0"}
    own = found.tensors["a"].read()
    own[:] = 7  # and not the file's
    assert found.tensors["a"].read().max() == 5


HUGE = 2**62
BAD = {
    "empty": (b"", "is empty"),
    "another format": (b"PK\3\4" + bytes(40), "is not a GGUF file"),
    "the other byte order": (make.file(version=3 << 24), "bytes are in the other order"),
    "version 1": (make.file(version=1), "version 1"),
    "many tensors": (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), "claims .* items"),
    "many keys": (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), "claims .* items"),
    "long key": (make.file([struct.pack("<Q", HUGE) + bytes(64)]), "claims .* items"),
    "long list": (make.file([make.text("k") + struct.pack("<IIQ", 9, 0, HUGE)]), "claims .* items"),
    "long list of text": (
        make.file([make.text("k") + struct.pack("<IIQ", 9, 8, 2**40)]),
        "claims .* items",
    ),
    "lists in a list": (
        make.file([make.text("k") + struct.pack("<IIQ", 9, 9, 1) + bytes(64)]),
        "list of values of type 9",
    ),
    "unknown value": (make.file([make.text("k") + struct.pack("<I", 99)]), "unknown type 99"),
    "not text": (make.file([struct.pack("<Q", 2) + b"\xff\xfe" + bytes(64)]), "not UTF-8"),
    "a key twice": (make.file([make.uint32("k", 1)] * 2), "the key 'k' twice"),
    "a tensor twice": (make.file(table=[make.tensor("w", [8], 0, 0)] * 2), "tensor 'w' twice"),
    "no alignment": (make.file([make.uint32("general.alignment", 0)]), "alignment is 0"),
    "no axes": (make.file(table=[make.tensor("w", [], 0, 0)], data=bytes(64)), "has 0 axes"),
    "many axes": (
        make.file(table=[make.tensor("w", [2] * 5, 0, 0)], data=bytes(256)),
        "has 5 axes",
    ),
    "an empty axis": (make.file(table=[make.tensor("w", [0, 2], 0, 0)]), "has no numbers"),
    "unknown storage": (make.file(table=[make.tensor("w", [256], 16, 0)]), "storage type 16"),
    "half a block": (
        make.file(table=[make.tensor("w", [48], 8, 0)], data=bytes(99)),
        "no whole bl",
    ),
    "a large tensor": (make.file(table=[make.tensor("w", [HUGE, HUGE], 0, 0)]), "ends at byte"),
    "beyond the end": (make.file(table=[make.tensor("w", [8], 0, 2**40)]), "ends at byte"),
    "an odd place": (
        make.file(table=[make.tensor("w", [8], 0, 4)], data=bytes(99)),
        "multiple of 32",
    ),
    "one in the other": (
        make.file(
            table=[make.tensor("v", [16], 0, 0), make.tensor("w", [8], 0, 32)], data=bytes(99)
        ),
        "inside another one",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_damaged_is_refused_in_a_sentence(tmp_path, name):
    content, reason = BAD[name]
    path = written(tmp_path, content)
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"^gguf.read: .*model.gguf .*{reason}.*\.$"):
        gguf.read(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_every_shorter_file_is_refused(tmp_path):
    for length in range(len(WHOLE)):
        with pytest.raises(ValueError, match=r"gguf.read: .*\.$"):
            gguf.read(written(tmp_path, WHOLE[:length]))


def test_any_byte_may_be_wrong(tmp_path):
    """It is read or refused in words, and never takes more than little memory."""
    refused = []
    rng = np.random.default_rng(0)
    tracemalloc.start()
    for place in range(len(WHOLE) - len(DATA)):
        content = bytearray(WHOLE)
        content[place] ^= int(rng.integers(1, 256))
        try:
            for leaf in gguf.read(written(tmp_path, bytes(content))).tensors.values():
                leaf.read()
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(error.startswith("gguf.read: ") for error in refused)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
