"""GGUF files written byte by byte, for tests."""

import struct


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def uint32(key, value):
    return text(key) + struct.pack("<II", 4, value)


def float32(key, value):
    return text(key) + struct.pack("<If", 6, value)


def string(key, value):
    return text(key) + struct.pack("<I", 8) + text(value)


def strings(key, values):
    return text(key) + struct.pack("<IIQ", 9, 8, len(values)) + b"".join(map(text, values))


def int32s(key, values):
    return text(key) + struct.pack(f"<IIQ{len(values)}i", 9, 5, len(values), *values)


def tensor(name, dims, kind, offset):
    """A line of the table; the fastest axis comes first."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def file(metadata=(), table=(), data=b"", version=3, magic=b"GGUF"):
    head = magic + struct.pack("<IQQ", version, len(table), len(metadata))
    head += b"".join(metadata) + b"".join(table)
    return head + bytes(-len(head) % 32) + data
