"""GGUF files written byte by byte, for tests."""

import struct

import jax
import numpy as np

from jaxprune.models import names


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


def model(architecture, config, params, more=()):
    """As llama.cpp's converter would write it: float32, [outputs, inputs], pairs side by side for LLaMA."""
    stored = {}
    for path, leaf in jax.tree.flatten_with_path(params)[0]:
        parameter = path[-1].key
        table, prefix = (
            (names.OUTSIDE, "") if len(path) == 1 else (names.IN_LAYER, f"blk.{path[1].idx}.")
        )
        array = leaf.T if leaf.ndim == 2 and parameter != "embedding" else leaf
        if architecture == "llama" and parameter in ("query", "key"):
            half = config.head_dim // 2
            order = [i // 2 + half * (i % 2) for i in range(config.head_dim)]  # 0, 2, 1, 3 of four
            array = array.reshape(-1, config.head_dim, config.width)[:, order].reshape(array.shape)
        stored[prefix + table[parameter].gguf] = np.ascontiguousarray(array)
    key = f"{architecture}."
    metadata = [
        string("general.architecture", architecture),
        uint32(key + "block_count", config.layers),
        uint32(key + "embedding_length", config.width),
        uint32(key + "feed_forward_length", config.hidden),
        uint32(key + "attention.head_count", config.heads),
        uint32(key + "attention.head_count_kv", config.kv_heads),
        uint32(key + "attention.key_length", config.head_dim),
        float32(key + "attention.layer_norm_rms_epsilon", config.norm_epsilon),
        float32(key + "rope.freq_base", config.rotary_base),
    ]
    if config.rotary_factors:
        stored["rope_freqs.weight"] = np.array(config.rotary_factors, np.float32)
    lines, data = [], b""
    for name, array in stored.items():
        lines.append(tensor(name, array.shape[::-1], 0, len(data)))
        data += array.tobytes()
        data += bytes(-len(data) % 32)
    return file([*metadata, *more], lines, data)
