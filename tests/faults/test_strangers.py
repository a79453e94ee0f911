"""Files made by hand to run code, to fill the memory, to hang or to be taken for something else."""

import io
import json
import shutil
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runs import mask_files
from jaxprune import masks as masks_lib
from jaxprune import structured
from jaxprune.data import arrays, torch_weights
from jaxprune.data.synthetic import twin
from jaxprune.storage import array_files, sealed

from .damaging import judge
from .test_flips import MASKS, PARAMS, same, two_layers
from .torch_files import VALUES, legacy, tensor, text, zipped
from .watching import hears, watched


def test_the_watch_hears(tmp_path):
    assert hears(tmp_path)
    with pytest.raises(AssertionError, match="MB of memory"), watched(1):
        np.zeros(10**7, np.uint8)


def answered(tally, case, read, path, megabytes=40, is_right=lambda _: False):
    """Counts one hostile file: refused in a sentence, nothing run or written, little memory."""
    with watched(megabytes) as heard:
        judge(tally, case, read, is_right, path)
    if heard:
        tally.silent.append(f"{case}: {heard[:3]}")


# ---- arrays in zip files


def bits_of(masks):
    """The arrays of a file of masks, and what is told of them."""
    return {
        "a/kernel:bits": np.packbits(np.asarray(masks["a"]["kernel"])),
        "a/kernel:shape": np.array([8, 6]),
        "b/kernel:bits": np.packbits(np.asarray(masks["b"]["kernel"])),
        "b/kernel:shape": np.array([6, 5]),
    }


def without(name):
    return {key: array for key, array in bits_of(MASKS).items() if key != name}


def changed(**fields):
    return bits_of(MASKS) | {name.replace("__", "/"): array for name, array in fields.items()}


CONTENT = {  # whole files, with right checksums, of wrong masks
    "a missing leaf": without("b/kernel:bits") | {},
    "a missing leaf and its shape": {k: v for k, v in bits_of(MASKS).items() if k[0] == "a"},
    "no shape": without("a/kernel:shape"),
    "too few bits": changed() | {"a/kernel:bits": np.zeros(2, np.uint8)},
    "too many bits": changed() | {"a/kernel:bits": np.zeros(200, np.uint8)},
    "a leaf of another tree": changed() | {
        "z:bits": np.zeros(1, np.uint8), "z:shape": np.array([8])},
    "a shape of 10^12": changed() | {"a/kernel:shape": np.array([10**6, 10**6])},
    "a shape that overflows": changed() | {"a/kernel:shape": np.array([2**62, 2**62])},
    "a negative shape": changed() | {"a/kernel:shape": np.array([-8, -6])},
    "a shape of floats": changed() | {"a/kernel:shape": np.array([8.0, 6.0])},
    "another shape of as many bits": changed() | {"a/kernel:shape": np.array([6, 8])},
    "bits that are numbers": changed() | {"a/kernel:bits": np.zeros(6, np.float32)},
    "nothing": {},
}  # fmt: skip


def test_masks_of_other_people(tmp_path, attack):
    tally = attack("R24", "masks.npz by hand, whole files of wrong masks", least=len(CONTENT))
    path = tmp_path / "masks.npz"
    about = {"without": ["a/bias"]}
    kinds = {"kind": mask_files._KIND, "version": mask_files._VERSION, "about": about}
    read = lambda: mask_files.load(path, PARAMS)
    array_files.write(path, bits_of(MASKS), **kinds)
    assert same(read(), MASKS)  # the way of making them is right
    for case, content in CONTENT.items():
        array_files.write(path, content, **kinds)
        answered(tally, case, read, path)
    for case, told in {"nothing said of the rest": {}, "no list": {"without": {"a": 1}}}.items():
        array_files.write(path, bits_of(MASKS), **kinds | {"about": told})
        answered(tally, case, read, path)
    array_files.write(path, bits_of(MASKS), **kinds | {"version": 3})
    answered(tally, "a version of the future", read, path)
    array_files.write(path, bits_of(MASKS), **kinds | {"kind": "jaxprune data set"})
    answered(tally, "another kind of file", read, path)


def npy(header=None, data=b"", version=1):
    if header is None:
        header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,), }"
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text + data


class Code:
    def __reduce__(self):
        return exec, ("import os; os.system('true')",)


def pickled():
    file = io.BytesIO()
    np.save(file, np.array([Code()], object), allow_pickle=True)
    return file.getvalue()


HEADERS = {
    "10^12 elements": npy(),
    "a type that is code": npy("{'descr': __import__('os').system('true'), 'shape': ()}"),
    "a pickle": pickled(),
    "a header of lists": npy("[" * 60 + "]" * 60),
    "a type that is a structure": npy(
        "{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,)}", b"1234"),
    "a type of no bytes": npy("{'descr': '|S0', 'fortran_order': False, 'shape': (10**12,)}"),
    "a shape of text": npy("{'descr': '|u1', 'fortran_order': False, 'shape': 'abc'}"),
    "an axis of no elements and one of 10^30": npy(
        "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 1000000000000000000000000000000)}"),
    "no header": b"\x93NUMPY\x01\x00",
    "a header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
    "another version": npy(version=9),
    "text": b"hello",
    "nothing": b"",
}  # fmt: skip


def zip_of(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)


def test_zip_files_of_other_people(tmp_path, attack, amount):
    tally = attack("R24", "masks.npz and arrays.npz, tricks of zip and npy", least=40)
    masks, data = tmp_path / "masks.npz", tmp_path / "arrays.npz"
    mask_files.save(masks, MASKS)
    arrays.write(data, twin("mnist", train=20, test=10))
    whole = {masks: masks.read_bytes(), data: data.read_bytes()}
    readers = {
        masks: lambda: mask_files.load(masks, PARAMS),
        data: lambda: arrays.read(data),
    }
    data_set = arrays.read(data)
    exact = {  # of a field that nobody needs
        masks: lambda found: same(found, MASKS),
        data: lambda found: found is None or same(found, data_set),
    }
    for path, read in readers.items():
        right = lambda found, path=path: found is None and path == data
        parts = {}
        with zipfile.ZipFile(path) as file:
            parts = {name: file.read(name) for name in file.namelist()}
        first = next(name for name in parts if "manifest" not in name)
        for target in (first, "manifest.npy"):
            for case, content in HEADERS.items():
                zip_of(path, parts | {target: content})
                answered(tally, f"{path.name}, {target}: {case}", read, path, is_right=right)
        zip_of(path, parts, zipfile.ZIP_DEFLATED)
        answered(tally, f"{path.name}: compressed", read, path, is_right=right)
        size = amount(10**8, 10**9)
        bomb = npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({size},)}}", bytes(size))
        zip_of(path, parts | {first: bomb}, zipfile.ZIP_DEFLATED)
        assert path.stat().st_size < 2 * 10**6
        answered(tally, f"{path.name}: a bomb", read, path, is_right=right)
        zip_of(
            path,
            parts
            | {"extra.npy": npy("{'descr': '|u1', 'fortran_order': False, 'shape': ()}", b"1")},
        )
        answered(tally, f"{path.name}: one more member", read, path, is_right=right)
        zip_of(path, parts | {"../../out.txt": b"x"})
        answered(tally, f"{path.name}: a name that leads out", read, path, is_right=right)
        zip_of(path, {name: part for name, part in parts.items() if name != "manifest.npy"})
        answered(tally, f"{path.name}: no manifest", read, path, is_right=right)
        path.write_bytes(parts[first])
        answered(tally, f"{path.name}: a bare .npy", read, path, is_right=right)
        before = whole[path]
        central = before.index(b"PK\x01\x02")
        tricks = {
            "encrypted": [(6, b"\1"), (central + 8, b"\1")],
            "another compression": [(8, b"\x0c"), (central + 10, b"\x0c")],
            "an unknown compression": [(8, b"\x61"), (central + 10, b"\x61")],
            "a size of 4 GB": [(central + 24, b"\xf0\xff\xff\xff")],
            "both sizes of 4 GB": [(central + 20, b"\xf0\xff\xff\xff" * 2)],
            "an offset of 4 GB": [(central + 42, b"\xf0\xff\xff\xff")],
            "a name of 60 kB": [(central + 28, b"\xff\xef")],
            "a record for multiple disks": [(len(before) - 18, b"\1\0")],
        }
        for case, changes in tricks.items():
            damaged = bytearray(before)
            for at, new in changes:
                damaged[at : at + len(new)] = new
            assert damaged != before
            path.write_bytes(damaged)
            answered(tally, f"{path.name}: {case}", read, path, is_right=exact[path])
        path.write_bytes(before)
        assert read() is not None


def test_masks_to_share_of_other_people(tmp_path, attack):
    numpy_files = pytest.importorskip("safetensors.numpy")
    tally = attack("R24", "masks.safetensors by hand, with right checksums", least=10)
    path = tmp_path / "masks.safetensors"
    from jaxprune.masks import files

    bits = {"a/kernel": np.zeros(6, np.uint8)}
    cases = {
        "10^12 weights": ('{"a/kernel": [1000000, 1000000]}', bits),
        "too few bits": ('{"a/kernel": [100]}', bits),
        "a missing leaf": ('{"a/kernel": [48], "b": [3]}', bits),
        "a leaf that is not listed": ("{}", bits),
        "a shape of text": ('{"a/kernel": "48"}', bits),
        "a negative shape": ('{"a/kernel": [-48]}', bits),
        "a shape of a bool": ('{"a/kernel": [true, 48]}', bits),
        "a list": ("[]", {}),
        "deep": ("[" * 100_000, {}),
        "a name twice": ('{"a/kernel": [48], "a/kernel": [48]}', bits),
        "a leaf with leaves": ('{"a": null, "a/kernel": [48]}', bits),
        "leaves that are a leaf": ('{"a/kernel": [48], "a": null}', bits),
    }
    for case, (told, content) in cases.items():
        metadata = {"format": files._FORMAT, "version": files._VERSION, "leaves": told}
        metadata["sha256"] = files._checksum(told, content)
        path.write_bytes(numpy_files.save(content, metadata))
        names = (
            path if case not in ("a leaf with leaves", "leaves that are a leaf") else "masks.load"
        )
        answered(tally, case, lambda: masks_lib.load(path), names)


# ---- JSON


DEEP = b"[" * 200_000
JSON = {
    "nothing": b"",
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe{}",
    "deep": DEEP + b"]" * 200_000,
    "deep and open": DEEP,
    "deep objects": b'{"a":' * 100_000,
    "a list": b"[]",
    "null": b"null",
    "a number": b"3",
    "a text": b'"x"',
    "an object": b"{}",
    "keys twice": b'{"format": 2, "format": 2}',
    "a long number": b'{"format": ' + b"9" * 10_000 + b"}",
    "not a number": b'{"format": NaN}',
}


def test_plans_of_other_people(tmp_path, attack):
    tally = attack("R24", "plan.json by hand", least=30)
    path = tmp_path / "plan.json"
    read = lambda: structured.Plan.load(path)
    for case, content in JSON.items():
        path.write_bytes(content)
        answered(tally, case, read, path, 100)
    good = {"shape": [4, 6], "kept": {"1": [0, 2]}}
    leaves = {
        "leaves that are a list": [],
        "a leaf that is none": {"a": 3},
        "no shape": {"a": {"kept": {}}},
        "more than shape and kept": {"a": good | {"x": 1}},
        "a shape of text": {"a": good | {"shape": "46"}},
        "a shape of bools": {"a": good | {"shape": [True, 6]}},
        "a negative shape": {"a": good | {"shape": [-4, 6]}},
        "an axis that is not there": {"a": good | {"kept": {"2": [0]}}},
        "an axis from the end": {"a": good | {"kept": {"-1": [0]}}},
        "an axis written otherwise": {"a": good | {"kept": {"01": [0]}}},
        "indices twice": {"a": good | {"kept": {"1": [0, 0]}}},
        "indices that fall": {"a": good | {"kept": {"1": [2, 0]}}},
        "an index beyond": {"a": good | {"kept": {"1": [6]}}},
        "indices of bools": {"a": good | {"kept": {"1": [False, True]}}},
        "indices of floats": {"a": good | {"kept": {"1": [0.0, 1.0]}}},
        "kept that is a list": {"a": good | {"kept": [[0]]}},
    }
    for case, told in leaves.items():
        digest = sealed.digest(sealed.canonical({"format": 2, "leaves": told}))
        path.write_text(json.dumps({"format": 2, "hash": digest, "leaves": told}), encoding="utf-8")
        answered(tally, case, read, path)
    digest = sealed.digest(sealed.canonical({"format": 2, "leaves": {"a": good}}))
    whole = {"format": 2, "hash": digest, "leaves": {"a": good}}
    path.write_text(json.dumps(whole), encoding="utf-8")
    assert read().kept == {"a": {1: [0, 2]}}  # the way of making them is right
    for format in (1, 3, None, "2"):
        path.write_text(json.dumps(whole | {"format": format}), encoding="utf-8")
        answered(tally, f"format {format}", read, path)


# ---- saved functions


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    pytest.importorskip("flatbuffers")
    params = {"a": jnp.ones((3, 8)), "b": jnp.ones((8, 2))}
    graph = structured.trace(two_layers, params, jnp.ones((1, 3)))
    small = structured.shrink(graph, params, structured.prune(graph, params, sparsity=0.5))
    folder = tmp_path_factory.mktemp("saved") / "small"
    structured.save(folder, small, jnp.ones((1, 3)))
    return folder


def sealed_again(folder, name, content):
    """Puts another file in a saved function, with right checksums."""
    from jaxprune.structured.shrinking import saved

    (folder / name).write_bytes(content)
    names = (saved._PARAMS, saved._PLAN, saved._PROGRAM)
    told = {"files": {n: sealed.digest((folder / n).read_bytes()) for n in names}, "platforms": []}
    (folder / saved._MANIFEST).write_bytes(sealed.manifest(saved._KIND, saved._VERSION, told))


def calling(target):
    """A program of the parameters and inputs that calls something by name."""
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)

    def program(params, x):
        y = jax.ffi.ffi_call(target, shape(4, 2))(x, index=np.uint64(12345))
        return y + params["b"].sum() + params["a"].sum()

    allowed = [jax.export.DisabledSafetyCheck.custom_call(target)]
    made = jax.export.export(jax.jit(program), platforms=["cpu"], disabled_checks=allowed)
    return made({"a": shape(3, 4), "b": shape(4, 2)}, shape(4, 3)).serialize()


TARGETS = (
    "xla_ffi_python_cpu_callback",
    "xla_python_cpu_callback",
    "xla_ffi_partitioned_python_cpu_callback",
    "os.system",
    "a name with blanks",
    'a name with "quotes"',
    "stablehlo.custom_call",
)


def test_programs_that_call_what_is_not_guaranteed(saved, tmp_path, attack):
    tally = attack("R24", "StableHLO with calls into the process", least=len(TARGETS))
    folder = shutil.copytree(saved, tmp_path / "small")
    whole = (folder / "program.stablehlo").read_bytes()
    structured.load(folder)  # once, so that imports are done
    for target in TARGETS:
        sealed_again(folder, "program.stablehlo", calling(target))
        read = lambda: structured.load(folder)
        answered(tally, target, read, folder, 100)
        with pytest.raises(ValueError, match="trusted=True"):
            read()
        assert callable(structured.load(folder, trusted=True).apply)
    sealed_again(folder, "program.stablehlo", whole)
    found = structured.load(folder)
    assert found.apply(found.params, jnp.ones((4, 3))).shape == (4, 2)


def test_programs_that_are_none(saved, tmp_path, attack, amount):
    tally = attack("R24", "StableHLO by hand, with right checksums", least=5)
    folder = shutil.copytree(saved, tmp_path / "small")
    whole = (folder / "program.stablehlo").read_bytes()
    structured.load(folder)
    programs = {
        "nothing": b"",
        "text": b"module {}" * 100,
        "zeros": bytes(10_000),
        "ones": b"\xff" * 10_000,
        "half": whole[: len(whole) // 2],
        "a quarter of it twice": whole[: len(whole) // 4] * 2,
    }
    for case, content in programs.items():
        sealed_again(folder, "program.stablehlo", content)
        answered(tally, case, lambda: structured.load(folder), folder, 100)


ONE = np.ones((3, 4), np.float32)
PARAMETERS = {  # of a saved function, with right checksums: arrays, and path and kind of each
    "keys of an unknown kind": ([ONE], [["a", "nonsense"]]),
    "keys of floats": ([ONE], [["a", "threefry2x32"]]),
    "words": ([np.array(["abcd"])], [["a", ""]]),
    "dates": ([np.zeros(3, "M8[s]")], [["a", ""]]),
    "bytes without a type": ([np.zeros(3, "V4")], [["a", ""]]),
    "numbers in the other order": ([ONE.astype(">f4")], [["a", ""]]),
    "a path twice": ([ONE, ONE], [["a", ""], ["a", ""]]),
    "of another network": ([ONE], [["z", ""]]),
    "of another shape": ([ONE.T, np.ones((4, 2), np.float32)], [["a", ""], ["b", ""]]),
    "a missing one": ([ONE], [["a", ""]]),
    "a path that is a number": ([ONE], [[3, ""]]),
}


def test_parameters_of_other_people(saved, tmp_path, attack):
    from jaxprune.structured.shrinking import saved as saved_lib

    tally = attack("R24", "saved function: parameters by hand", least=len(PARAMETERS))
    folder = shutil.copytree(saved, tmp_path / "small")
    read = lambda: structured.load(folder)
    read()
    path = folder / "params.npz"
    for case, (content, leaves) in PARAMETERS.items():
        by_index = {str(index): array for index, array in enumerate(content)}
        kinds = {"kind": saved_lib._KIND_OF_PARAMS, "version": saved_lib._VERSION}
        array_files.write(path, by_index, **kinds, about={"leaves": leaves})
        sealed_again(folder, "params.npz", path.read_bytes())
        answered(tally, case, read, folder, 100)


def test_folders_of_other_people(saved, tmp_path, attack):
    tally = attack("R24", "saved function: JSON and arrays by hand", least=2 * len(JSON))
    folder = shutil.copytree(saved, tmp_path / "small")
    read = lambda: structured.load(folder)
    read()
    for case, content in JSON.items():
        sealed_again(folder, "plan.json", content)
        answered(tally, f"plan.json: {case}", read, folder, 100)
    shutil.copy(saved / "plan.json", folder)
    for case, content in HEADERS.items():
        sealed_again(folder, "params.npz", content)
        answered(tally, f"params.npz: {case}", read, folder)
    shutil.copy(saved / "params.npz", folder)
    for case, content in JSON.items():
        (folder / "manifest.json").write_bytes(content)
        answered(tally, f"manifest.json: {case}", read, folder, 100)
    for name in ("/etc/passwd", "../out", "plan.json/../../out"):
        files = {name: "0", "params.npz": "0", "plan.json": "0", "program.stablehlo": "0"}
        text = sealed.manifest("jaxprune small function", 2, {"files": files})
        (folder / "manifest.json").write_bytes(text)
        answered(tally, f"a file {name}", read, folder)


# ---- weights of PyTorch


SHARED = [b"](h%ch%ceq%c0" % (i, i, i + 1) for i in range(40)]  # each list holds the last one twice
PICKLES = {  # what "w" is, and why it is refused
    "a tuple of 300,000 tuples": (b")" + b"\x85" * 300_000, "nested more than"),
    "a list that contains itself": (b"]q\x05h\x05a", "contains itself"),
    "a dictionary that contains itself": (b"}q\x05" + text("w") + b"h\x05s", "contains itself"),
    "lists that contain each other": (b"]q\1]q\2h\1ah\1h\2a00", "contains itself"),
    "2^40 entries in shared lists": (
        b"]q\0" + b"0" + b"".join(SHARED) + b"h\x28",
        "many times over",
    ),
    "tensors larger than the file": (tensor(2**31 - 1, (1,), key="1"), "larger than the file"),
    "an expanded tensor": (tensor(shape=(2**30, 2**30), strides=(0, 0)), "an expanded tensor"),
    "a text of 4 GB": (b"X\xff\xff\xff\xff", "expected 4294967295 bytes"),
    "a name to import": (b"cos\nsystem\n" + text("true") + b"\x85R", "asks for 'os.system'"),
    "marks alone": (b"(" * 100_000, "is damaged"),
    "memory that is not there": (b"h\x77", "is damaged"),
}


def beside_a_tensor(value, form):
    """A pickle whose tensor is right, so that nothing else is there to be refused."""
    if form is legacy:  # its storages have one field more
        value = value.replace(b"tQ", b"NtQ")
    return b"}(" + text("t") + tensor(with_view=form is legacy) + text("w") + value + b"u"


@pytest.mark.parametrize("form", [zipped, legacy])
def test_weights_of_other_people(form, tmp_path, attack, amount):
    tally = attack("R24", f"PyTorch weights by hand, {form.__name__}", least=len(PICKLES))
    path = tmp_path / "model.pth"
    read = lambda: torch_weights.read(path)
    for case, (value, message) in PICKLES.items():
        short = value[: amount(30_000, len(value))]
        form(path, beside_a_tensor(short, form))
        answered(tally, case, read, path)
        with pytest.raises(ValueError, match=message):
            read()


@pytest.mark.parametrize("form", [zipped, legacy])
def test_trees_as_people_make_them_are_read(form, tmp_path):
    deep = b")" + b"\x85" * 20
    often = b"]q\0" + b"0](" + b"h\0" * 1000 + b"e"
    nothing = tensor(shape=(10**9, 10**9, 0), strides=(1, 1, 1))
    for value in (deep, often, nothing):
        form(tmp_path / "m.pth", beside_a_tensor(value, form))
        found = torch_weights.read(tmp_path / "m.pth")
        np.testing.assert_array_equal(found["t"], VALUES)
