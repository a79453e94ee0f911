"""Checkpoints are read without running them: made here by hand, since PyTorch is not needed for tests."""

import os
import pickle
import struct
import warnings
import zipfile

import numpy as np
import pytest
from torch_pickles import name, number, several, text

from jaxprune.data.torch_weights import MAGIC, read

VALUES = np.arange(24, dtype=np.float32) / 7
END = b"."


def storage(key="0", kind="FloatStorage", size=24, legacy=False):
    own = [text("storage"), name("torch", kind), text(key), text("cpu"), number(size)]
    return several([*own, b"N"] if legacy else own) + b"Q"


def ordered(items=()):
    content = b"".join(text(key) + value for key, value in items)
    return name("collections", "OrderedDict") + b")R(" + content + b"u"


def tensor(on, offset=0, shape=(24,), strides=(1,)):
    own = [on, number(offset), several(map(number, shape)), several(map(number, strides))]
    rebuild = name("torch._utils", "_rebuild_tensor_v2")
    return rebuild + several([*own, b"\x89", name("collections", "OrderedDict") + b")R"]) + b"R"


def parameter(of):
    rebuild = name("torch._utils", "_rebuild_parameter")
    return rebuild + several([of, b"\x88", ordered()]) + b"R"


def zipped(path, body, arrays=(VALUES,), order=b"little", **options):
    parts = {"model/data.pkl": b"\x80\x02" + body + END, "model/byteorder": order}
    parts |= {f"model/data/{i}": array.tobytes() for i, array in enumerate(arrays)}
    with zipfile.ZipFile(path, "w", **options) as file:
        for name, content in parts.items():
            entry = zipfile.ZipInfo(name)  # of 1980: the same bytes at any hour
            file.writestr(entry, content, options.get("compression"))
    return path


def legacy(path, body, arrays=(VALUES,), little=True):
    head = [MAGIC, 1001, {"protocol_version": 1001, "little_endian": little, "type_sizes": {}}]
    parts = [pickle.dumps(x, 2) for x in head] + [b"\x80\x02" + body + END]
    parts += [pickle.dumps([str(i) for i in range(len(arrays))], 2)]
    parts += [struct.pack("<q", array.size) + array.tobytes() for array in arrays]
    path.write_bytes(b"".join(parts))
    return path


FORMATS = {"zip": zipped, "legacy": legacy}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.pth"


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_come_out_as_they_went_in(form, path):
    on = storage(legacy=form == "legacy")
    counter = storage("1", "LongStorage", 1, form == "legacy")
    content = {
        "whole": tensor(on, 0, (2, 3, 4), (12, 4, 1)),
        "transposed": tensor(on, 0, (4, 6), (1, 4)),
        "part": parameter(tensor(on, 20, (4,), (1,))),
        "empty": tensor(on, 0, (0, 3), (3, 1)),
        "counter": tensor(counter, 0, (), ()),
    }
    state = ordered(content.items()) + b"}(" + text("_metadata") + ordered() + b"ub"
    body = b"}(" + text("state_dict") + state + text("epoch") + b"K\x07u"
    found = read(FORMATS[form](path, body, (VALUES, np.array([2**40]))))
    assert list(found) == ["state_dict", "epoch"]
    assert found["epoch"] == 7
    found = found["state_dict"]
    assert list(found) == list(content)
    np.testing.assert_array_equal(found["whole"], VALUES.reshape(2, 3, 4))
    np.testing.assert_array_equal(found["transposed"], VALUES.reshape(6, 4).T)
    np.testing.assert_array_equal(found["part"], VALUES[20:])
    assert found["empty"].shape == (0, 3)
    assert found["counter"] == 2**40
    assert found["counter"].shape == ()
    found["part"][0] = 100
    assert found["whole"][1, 2, 0] == 100  # memory that was shared is shared


@pytest.mark.parametrize("kind", ["Half", "BFloat16", "Double", "Int", "Char", "Byte", "Bool"])
def test_types(kind, path):
    bytes_each = {"Half": 2, "BFloat16": 2, "Double": 8, "Int": 4, "Char": 1, "Byte": 1, "Bool": 1}
    raw = np.frombuffer(bytes([0, 1] * 16), np.uint8)
    size = len(raw) // bytes_each[kind]
    found = read(zipped(path, tensor(storage("0", f"{kind}Storage", size), 0, (size,)), [raw]))
    wanted = {"half": "float16", "double": "float64", "char": "int8", "byte": "uint8"}
    kind = kind.lower()
    assert found.dtype.name == wanted.get(kind, "int32" if kind == "int" else kind)
    np.testing.assert_array_equal(found.view(np.uint8), raw)


class Evil:
    """Unpickled by Python, this runs a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"echo > {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("form", FORMATS)
def test_nothing_is_run(form, protocol, path, tmp_path):
    program = pickle.dumps(Evil(tmp_path / "trace"), protocol)
    body = program.removesuffix(END)
    with pytest.raises(ValueError, match=r"model\.pth .*; nothing in it was run"):
        read(FORMATS[form](path, body))
    assert not (tmp_path / "trace").exists()
    if form == "zip":  # the file is what it seems: Python's own pickle would have run it
        with zipfile.ZipFile(path) as file:
            pickle.loads(file.read("model/data.pkl"))
        assert (tmp_path / "trace").exists()


REFUSED = {
    "a function": (name("os", "system"), r"asks for 'os\.system'"),
    "a module's class": (name("torch.nn.modules.linear", "Linear") + b")R", "asks for 'torch.nn"),
    "a part of something known": (name("collections", "OrderedDict.update"), "asks for"),
    "a name from the stack": (text("os") + text("system") + b"\x93", "instruction STACK_GLOBAL"),
    "a class by number": (b"\x82\x01", "instruction EXT1"),
    "an instance": (b"(" + name("collections", "OrderedDict") + b"o", "instruction OBJ"),
    "a call of a type": (name("torch", "FloatStorage") + b")R", "calls torch.FloatStorage"),
    "a call of a tensor": (tensor(storage()) + b")R", "calls .*ndarray"),
    "a dictionary from arguments": (
        name("collections", "OrderedDict") + b"]\x85R",
        "calls collections.OrderedDict",
    ),
    "attributes of a tensor": (tensor(storage()) + b"}b", "attributes or items of 'ndarray'"),
    "items of a name": (name("torch", "FloatStorage") + b"NNs", "key of the type"),
    "something else outside": (
        several([text("module"), *[b"N"] * 4]) + b"Q",
        "not a plain storage",
    ),
    "an expanded tensor": (tensor(storage(), 0, (1 << 30, 1 << 30), (0, 0)), "expanded .* of 24"),
    "a view of a storage": (tensor(several([storage()[1:-2], text("v")]) + b"Q"), "storage"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_tensor_is_refused(what, path):
    body, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        read(zipped(path, body))


DAMAGED = {
    "beyond its storage": tensor(storage(), 20, (5,)),
    "beyond it by strides": tensor(storage(), 0, (5,), (6,)),
    "before it": tensor(storage(), -1, (5,)),
    "backwards": tensor(storage(), 23, (5,), (-1,)),
    "fewer strides": tensor(storage(), 0, (2, 3), (1,)),
    "larger than the file": tensor(storage(size=1 << 30)),
    "two types": several([tensor(storage()), tensor(storage(kind="IntStorage"))]),
    "not as long as it says": tensor(storage(size=23)),
    "without its array": tensor(storage("1")),
    "an unknown memory": b"h\x05",
    "an empty stack": b"R",
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_does_not_fit_is_said_to_be_damaged(what, path):
    with pytest.raises(
        ValueError, match=r"model\.pth is not a checkpoint of PyTorch, or is damaged"
    ):
        read(zipped(path, DAMAGED[what]))


def test_a_packed_zip_and_another_byte_order_are_refused(path):
    with pytest.raises(ValueError, match="compressed"):
        read(zipped(path, tensor(storage()), compression=zipfile.ZIP_DEFLATED))
    for file in (
        zipped(path, tensor(storage()), order=b"big"),
        legacy(path, tensor(storage(legacy=True)), little=False),
    ):
        with pytest.raises(ValueError, match="most significant byte first"):
            read(file)


@pytest.mark.parametrize("form", FORMATS)
def test_bytes_that_are_lost_or_changed_give_an_error_or_arrays(form, path):
    body = ordered([("w", tensor(storage(legacy=form == "legacy"), 0, (2, 12), (12, 1)))])
    whole = FORMATS[form](path, body).read_bytes()
    rng = np.random.default_rng(0)
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match="damaged"):
            read(path)
    for _ in range(300):
        changed = bytearray(whole)
        for at in rng.integers(len(whole), size=2):
            changed[at] = rng.integers(256)
        path.write_bytes(changed)
        try:
            read(path)
        except ValueError as error:
            assert "torch_weights.read" in str(error)  # noqa: PT017


@pytest.mark.parametrize("instruction", [b"S'\\\xaf'\n.", b"S'\\q'\n.", b"c\\q\nn\n."])
def test_a_text_that_is_refused_cannot_warn(instruction, path):
    """Python's own readers of these instructions undo escapes, and warn of those that they do not know."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for file in (zipped(path, instruction), legacy(path, instruction)):
            with pytest.raises(ValueError, match=r"STRING|asks for"):
                read(file)
    assert not warned


def test_other_files_are_not_checkpoints(path):
    for content in (b"", b"PK\3\4", b"GIF89a", pickle.dumps(3, 2), pickle.dumps({}, 4)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"not a checkpoint of PyTorch|instruction"):
            read(path)
