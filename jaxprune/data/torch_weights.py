"""Reads PyTorch's checkpoints without PyTorch, and without running anything that is in them.

A checkpoint is a pickle, a program for a small stack machine that may call any function it names, beside
raw arrays. Here a machine of our own follows that program. It knows the instructions that tensors,
dictionaries, lists and numbers take, calls nothing, and refuses the rest.
"""

import io
import math
import mmap
import os
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

__all__ = ["read"]

DTYPES: Mapping[str, Any] = {
    "torch DoubleStorage": np.float64,
    "torch FloatStorage": np.float32,
    "torch HalfStorage": np.float16,
    "torch BFloat16Storage": ml_dtypes.bfloat16,
    "torch LongStorage": np.int64,
    "torch IntStorage": np.int32,
    "torch ShortStorage": np.int16,
    "torch CharStorage": np.int8,
    "torch ByteStorage": np.uint8,
    "torch BoolStorage": np.bool_,
}
DICTIONARY = "collections OrderedDict"
TENSORS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter")
KNOWN = {*DTYPES, *TENSORS, DICTIONARY}
MAGIC = 0x1950A86A20F9469CFC6C  # first number of a file as PyTorch wrote them before 1.6


_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}
DEEPEST = 64  # containers within containers
SHARED = 1_000_000  # entries that may come of containers that are in the tree several times


class Name(NamedTuple):
    """A function or class that a pickle names: here only its name."""

    name: str


class RefusedError(Exception):
    """A checkpoint asks for something that is not allowed; the message names it."""


def read(path: str | os.PathLike) -> Any:
    """Returns what `torch.save` wrote: tensors in dictionaries, lists and tuples, beside numbers and text.

    Both formats are read, zip files (since PyTorch 1.6) and what came before. Tensors that share memory
    share it here. Whole modules, optimizers' classes, quantised or sparse tensors are refused: save a
    `state_dict`.

    Args:
      path: of the file, usually .pt or .pth.

    Returns:
      The same tree, with a NumPy array for each tensor and parameter.

    Raises:
      ValueError: the file names anything but tensors and dictionaries, has an instruction that these do not
        need, or is damaged. Nothing in it has been run.
    """
    path = Path(path)
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\3\4"
    try:
        tree = _zip(path) if is_zip else _legacy(path)
        check_tree(tree, SHARED + path.stat().st_size)
        return tree
    except RefusedError as error:
        raise ValueError(f"torch_weights.read: {path} {error}; nothing in it was run.") from error
    except _DAMAGED as error:
        raise ValueError(
            f"torch_weights.read: {path} is not a checkpoint of PyTorch, or is damaged ({error})."
        ) from error


_DAMAGED = (
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)


def _zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        program_name = next(
            name for name in [*names, "data.pkl"] if name.split("/")[-1] == "data.pkl"
        )
        folder = program_name.removesuffix("data.pkl")
        byte_order_name = folder + "byteorder"
        _little(byte_order_name not in names or _stored(file, byte_order_name).strip() == b"little")
        storages = Storages(path.stat().st_size)
        tree = interpret(_stored(file, program_name), storages.find)
        for key, array in storages.arrays.items():
            _fill(array, _stored(file, f"{folder}data/{key}"))
    return tree


def _stored(file: zipfile.ZipFile, name: str) -> bytes:
    member = file.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:  # it might unpack to any size
        raise RefusedError(f"has a compressed part {name!r}, which PyTorch does not write")
    if member.file_size != member.compress_size or member.file_size > os.path.getsize(
        file.filename or ""
    ):
        raise ValueError(f"the part {name!r} claims to be larger than the file")
    return file.read(name)


def _legacy(path: Path) -> Any:
    """Reads the format before 1.6: pickles one after the other, then the arrays in order."""
    # A file in memory reads no further than its end, whatever length an instruction claims.
    with (
        path.open("rb") as raw_file,
        mmap.mmap(raw_file.fileno(), 0, access=mmap.ACCESS_READ) as file,
    ):
        if interpret(file) != MAGIC:
            raise ValueError("it begins otherwise")
        interpret(file)  # version of the format
        _little(interpret(file)["little_endian"])
        storages = Storages(path.stat().st_size)
        tree = interpret(file, storages.find)
        for key in interpret(file):
            array = storages.arrays[key]
            (size,) = struct.unpack("<q", file.read(8))
            if size != array.size:
                raise ValueError(f"an array of {size} numbers should have {array.size}")
            _fill(array, file.read(array.nbytes))
    return tree


def _little(yes: bool) -> None:
    if not yes:
        raise RefusedError("was written with the most significant byte first")


class Storages:
    """Arrays that tensors look into: made when a pickle first names them, filled afterwards."""

    def __init__(self, limit: int):
        self.arrays: dict[str, np.ndarray] = {}
        self.left = limit  # bytes; no more can come than the file has

    def find(self, name: Any) -> np.ndarray:
        """Returns the storage that a pickle refers to by its kind, type, key, place and size."""
        reference_kind, storage_type, key, _, size, *view_metadata = name
        if reference_kind != "storage" or not isinstance(storage_type, Name) or any(view_metadata):
            raise RefusedError("refers to something outside that is not a plain storage")
        dtype = np.dtype(DTYPES[storage_type.name])
        if not isinstance(key, str) or not isinstance(size, int) or size < 0:
            raise ValueError("a storage without a name or a size")
        if key not in self.arrays:
            self.left -= size * dtype.itemsize
            if self.left < 0:
                raise ValueError("its tensors are larger than the file")
            self.arrays[key] = np.zeros(size, dtype)
        storage = self.arrays[key]
        if storage.dtype != dtype or storage.size != size:
            raise ValueError(f"storage {key!r} has two types or sizes")
        return storage


def _fill(array: np.ndarray, data: bytes) -> None:
    if len(data) != array.nbytes:
        raise ValueError(f"an array of {array.nbytes} bytes has {len(data)}")
    array.view(np.uint8)[:] = np.frombuffer(data, np.uint8)


def interpret(program: Any, storage: Callable[[Any], Any] | None = None) -> Any:
    """Follows a pickle to its end and returns what it builds; calls nothing.

    Args:
      program: bytes, or a binary file, read from where it stands to the end of the pickle.
      storage: what stands for a reference to something outside the pickle; None: there may be none.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop_since_mark() -> list[Any]:
        start = marks.pop()
        result = stack[start:]
        del stack[start:]
        return result

    for instruction, argument in _instructions(program):
        match instruction:
            case "PROTO":
                pass
            case "STOP":
                (result,) = stack
                return result
            case "MARK":
                marks.append(len(stack))
            case "POP":
                stack.pop()
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(instruction == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(pop_since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(instruction[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "APPEND":
                value = stack.pop()
                _list(stack[-1]).append(value)
            case "APPENDS":
                values = pop_since_mark()
                _list(stack[-1]).extend(values)
            case "SETITEM":
                key = stack.pop(-2)
                value = stack.pop()
                _set(stack[-1], [key, value])
            case "SETITEMS":
                values = pop_since_mark()
                _set(stack[-1], values)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_known(argument))
            case "BINPERSID":
                if storage is None:
                    raise RefusedError("refers to something outside where there should be nothing")
                stack.append(storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_rebuilt(stack.pop(), arguments))
            case "BUILD":
                stack.pop()  # attributes, which PyTorch gives its dictionaries of tensors
                _dict(stack[-1])
            case name:
                raise RefusedError(_unneeded(name))
    raise EOFError("it has no end")


def _instructions(program: Any) -> Iterator[tuple[str, Any]]:
    """Yields the name and the argument of each instruction of a pickle.

    Arguments that are lines of text belong to old instructions, which tensors do not need, but for GLOBAL.
    They are not read: the standard library undoes their escapes, and warns of those that it does not know.
    """
    file = io.BytesIO(program) if isinstance(program, bytes) else program
    while code := file.read(1):
        opcode = _OPCODES[code.decode("latin-1")]
        if opcode.name == "GLOBAL":
            yield opcode.name, f"{_line(file)} {_line(file)}"
        elif opcode.arg is None:
            yield opcode.name, None
        elif opcode.arg.n == pickletools.UP_TO_NEWLINE:
            raise RefusedError(_unneeded(opcode.name))
        else:
            yield opcode.name, opcode.arg.reader(file)


def _unneeded(instruction: str) -> str:
    return f"has the instruction {instruction}, which tensors do not need"


def _line(file: BinaryIO) -> str:
    line = file.readline()
    if not line.endswith(b"\n"):
        raise ValueError("a name has no end")
    return line[:-1].decode("ascii")


def check_tree(tree: Any, most: int) -> None:
    """Raises an error if a walk through a tree would not end, or take too long or too deep a recursion.

    Args:
      tree: of dictionaries, lists and tuples, which a pickle can put into themselves, into each other many
        times, or to any depth.
      most: number of entries that are allowed, those of a container counted wherever it is.
    """
    sizes: dict[int, int] = {}  # entries within a container, once they are counted
    open_containers: set[int] = set()
    nodes_to_visit: list[tuple[Any, bool]] = [(tree, False)]
    while nodes_to_visit:
        node, entered = nodes_to_visit.pop()
        entries = list(node.values()) if isinstance(node, dict) else node
        if not isinstance(entries, list | tuple) or isinstance(node, Name) or id(node) in sizes:
            continue
        if entered:
            open_containers.discard(id(node))
            sizes[id(node)] = len(entries) + sum(sizes.get(id(entry), 0) for entry in entries)
            if sizes[id(node)] > most:
                raise RefusedError("repeats its containers in each other many times over")
            continue
        if id(node) in open_containers:
            raise RefusedError("has a container that contains itself")
        open_containers.add(id(node))
        if len(open_containers) > DEEPEST:
            raise RefusedError(f"is nested more than {DEEPEST} containers deep")
        nodes_to_visit.append((node, True))
        nodes_to_visit.extend((entry, False) for entry in entries)


def _known(name: str) -> Name:
    if name not in KNOWN:
        raise RefusedError(f"asks for {name.replace(' ', '.')!r}, which is no tensor or dictionary")
    return Name(name)


def _rebuilt(function: Any, arguments: Any) -> Any:
    """Returns the result that a call would have, for the calls that are known."""
    if isinstance(function, Name) and isinstance(arguments, tuple):
        if function.name == DICTIONARY and not arguments:
            return {}
        if function.name == TENSORS[0]:
            return _tensor(*arguments[:4])
        if function.name == TENSORS[1] and isinstance(arguments[0], np.ndarray):
            return arguments[0]
    called_name = function.name.replace(" ", ".") if isinstance(function, Name) else type(function)
    raise RefusedError(f"calls {called_name} in a way that tensors do not need")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> np.ndarray:
    all_integers = [offset, *shape, *strides]
    if not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise RefusedError("builds a tensor on something that is no storage")
    if len(shape) != len(strides) or not all(
        isinstance(integer, int) and integer >= 0 for integer in all_integers
    ):
        raise ValueError("a tensor without a proper shape, strides or offset")
    end_index = (
        offset
        + sum((integer - 1) * stride for integer, stride in zip(shape, strides, strict=True))
        + 1
    )
    if 0 in shape:
        return np.zeros(shape, storage.dtype)
    if end_index > storage.size:
        raise ValueError(f"a tensor of shape {shape} reaches beyond its {storage.size} numbers")
    if math.prod(shape) > storage.size:  # however small the file, a copy might fill the memory
        raise RefusedError(
            f"has an expanded tensor, {shape} of {storage.size} numbers; save a copy"
        )
    byte_strides = [integer * storage.itemsize for integer in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, byte_strides)


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise RefusedError(f"appends to {type(value).__name__!r}, not to a list")
    return value


def _dict(value: Any) -> dict[Any, Any]:
    if type(value) is not dict:
        raise RefusedError(
            f"sets attributes or items of {type(value).__name__!r}, not of a dictionary"
        )
    return value


def _set(target: Any, values: list[Any]) -> None:
    if len(values) % 2:
        raise ValueError("a key without a value")
    for key, value in zip(values[::2], values[1::2], strict=True):
        if not isinstance(key, str | int):
            raise RefusedError(
                f"has a key of the type {type(key).__name__!r}, not text or a number"
            )
        _dict(target)[key] = value
