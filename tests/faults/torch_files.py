"""Checkpoints of PyTorch made by hand: the instructions of their pickles."""

import pickle
import struct
import zipfile

import numpy as np
from torch_pickles import name, number, several, text

from jaxprune.data.torch_weights import MAGIC

VALUES = np.arange(600, dtype=np.float32) / 7


def tensor(size=600, shape=(600,), strides=(1,), with_view=False, key="0"):
    own = [text("storage"), name("torch", "FloatStorage"), text(key), text("cpu"), number(size)]
    on = several([*own, b"N"] if with_view else own) + b"Q"
    arguments = [on, number(0), several(map(number, shape)), several(map(number, strides)), b"\x89"]
    hooks = name("collections", "OrderedDict") + b")R"
    return name("torch._utils", "_rebuild_tensor_v2") + several([*arguments, hooks]) + b"R"


def zipped(path, body=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    body = b"}(" + text("w") + tensor() + b"u" if body is None else body
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", b"\x80\x02" + body + b".")
        file.writestr("model/byteorder", b"little")
        file.writestr("model/data/0", VALUES.tobytes())
    return path


def legacy(path, body=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    body = b"}(" + text("w") + tensor(with_view=True) + b"u" if body is None else body
    head = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    parts = [pickle.dumps(part, 2) for part in head] + [b"\x80\x02" + body + b"."]
    parts += [pickle.dumps(["0"], 2), struct.pack("<q", VALUES.size) + VALUES.tobytes()]
    path.write_bytes(b"".join(parts))
    return path
