"""Bits flipped, files cut and removed, in every kind of file that is read again."""

import hashlib
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.runs import mask_files
from experiments.runs.checkpoint import Checkpoints
from jaxprune import masks as masks_lib
from jaxprune import structured
from jaxprune.data import arrays, pretrained, torch_weights
from jaxprune.data.sources import Archive
from jaxprune.data.synthetic import twin

from .damaging import flipped, judge, shortened
from .torch_files import VALUES, legacy, zipped

SAVED = {"w": np.arange(3000, dtype=np.float32), "m": np.arange(8) % 3 == 0, "n": np.int32(7)}
PARAMS = {
    "a": {"kernel": jnp.arange(48.0).reshape(8, 6), "bias": jnp.zeros(6)},
    "b": {"kernel": jnp.ones((6, 5))},
}
MASKS = {
    "a": {"kernel": jnp.arange(48).reshape(8, 6) % 3 == 0, "bias": None},
    "b": {"kernel": jnp.arange(30).reshape(6, 5) % 2 == 0},
}


def same(a, b):
    bits = lambda x: (str(np.asarray(x).dtype), np.shape(x), np.asarray(x).tobytes())
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        bits(x) == bits(y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@pytest.fixture
def two_steps(tmp_path):
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, SAVED)
        checkpoints.save(2, SAVED | {"w": SAVED["w"] + 1})
    return folder


def restored_rightly(folder, tally, case):
    """Step 2 exactly, or step 1 exactly and a sentence that names step 2."""
    tally.happened(True, case)
    notes = []
    try:
        with Checkpoints(folder, notify=notes.append) as checkpoints:
            step, tree, _ = checkpoints.restore(SAVED)
    except Exception as error:
        tally.foreign.append(f"{case}: {type(error).__name__}: {error}")
        return
    finally:
        if (folder / "2.damaged").exists():
            (folder / "2.damaged").rename(folder / "2")
    told = step == 2 or (len(notes) == 1 and str(folder / "2") in notes[0])
    exact = same(tree, SAVED | {"w": SAVED["w"] + (step == 2)})
    if told and exact:
        tally.survive()
    else:
        tally.silent.append(case)


# Orbax leaves coroutines behind where it meets damage.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "unsealed"])
def test_checkpoints(sealed, two_steps, attack, amount):
    kind = "sealed" if sealed else "not sealed, as after a kill"
    flips = attack("R4", f"checkpoint, {kind}: bit flips", least=amount(8, 100))
    cuts = attack("R5", f"checkpoint, {kind}: cut or removed", least=amount(4, 40))
    if not sealed:
        (two_steps / "2" / "files.json").unlink()
    files = sorted(path for path in (two_steps / "2").rglob("*") if path.is_file())
    each = amount(1, -(-110 // len(files)))
    for index, path in enumerate(files):
        for case in flipped(path, each, seed=index):
            restored_rightly(two_steps, flips, case)
    for path in files[:: amount(5, 1)]:
        for case in shortened(path):
            restored_rightly(two_steps, cuts, case)


def test_masks_of_runs(tmp_path, attack, amount):
    path = tmp_path / "seed_0" / "masks.npz"
    mask_files.save(path, MASKS)
    read = lambda: mask_files.load(path, PARAMS)
    assert same(read(), MASKS)
    flips = attack("R4", "masks.npz: bit flips", least=amount(60, 300))
    for case in flipped(path, amount(60, 300)):
        judge(flips, case, read, lambda found: same(found, MASKS), path)
    cuts = attack("R5", "masks.npz: cut or removed", least=5)
    for case in shortened(path):
        judge(cuts, case, read, lambda found: same(found, MASKS), path)


def test_masks_to_share(tmp_path, attack, amount):
    pytest.importorskip("safetensors")
    path = tmp_path / "masks.safetensors"
    masks_lib.save(path, MASKS)
    read = lambda: masks_lib.load(path, PARAMS)
    flips = attack("R4", "masks.safetensors: bit flips", least=amount(60, 300))
    for case in flipped(path, amount(60, 300)):
        judge(flips, case, read, lambda found: same(found, MASKS), path)
    cuts = attack("R5", "masks.safetensors: cut or removed", least=5)
    for case in shortened(path):
        judge(cuts, case, read, lambda found: same(found, MASKS), path)


def two_layers(params, x):
    return jax.nn.relu(x @ params["a"]) @ params["b"]


@pytest.fixture(scope="module")
def small():
    draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
    params = {"a": draw(0, 256, 512), "b": draw(1, 512, 3)}
    graph = structured.trace(two_layers, params, draw(2, 2, 256))
    found = structured.shrink(graph, params, structured.prune(graph, params, sparsity=0.5))
    assert found.params["a"].shape == (256, 256)
    return found


def test_plans(tmp_path, attack, amount):
    plan = structured.Plan(
        {"a/kernel": (8, 6), "a/bias": (6,), "b/kernel": (6, 2)},
        {"a/kernel": {1: [0, 1, 4]}, "a/bias": {0: [0, 1, 4]}, "b/kernel": {0: [0, 1, 4]}},
    )
    path = tmp_path / "plan.json"
    plan.save(path)
    flips = attack("R4", "plan.json: bit flips, every bit", least=amount(300, 3_000))
    for case in flipped(path, amount(300, 10**9)):
        judge(flips, case, lambda: structured.Plan.load(path), lambda found: found == plan, path)
    cuts = attack("R5", "plan.json: cut or removed", least=5)
    for case in shortened(path):
        judge(cuts, case, lambda: structured.Plan.load(path), lambda found: found == plan, path)


def test_saved_functions(small, tmp_path, attack, amount):
    pytest.importorskip("flatbuffers")
    folder = tmp_path / "small"
    structured.save(folder, small, jnp.ones((2, 256)))
    program_of = lambda found: found.apply.__self__.mlir_module_serialized
    program = program_of(structured.load(folder))

    def right(found):
        whole = (
            same(found.params, small.params) and found.plan == small.plan
        )  # paths are names here
        return whole and program_of(found) == program

    assert right(structured.load(folder))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    largest = max(files, key=lambda path: path.stat().st_size)
    assert largest.stat().st_size > 200_000  # the parameters
    flips = attack("R4", "saved function, parameters: bit flips", least=amount(20, 120))
    for case in flipped(largest, amount(20, 120)):
        judge(flips, case, lambda: structured.load(folder), right, folder)
    flips = attack("R4", "saved function, other files: bit flips", least=amount(20, 100))
    each = amount(7, -(-120 // (len(files) - 1)))
    for index, path in enumerate(path for path in files if path != largest):
        for case in flipped(path, each, seed=index):
            judge(flips, case, lambda: structured.load(folder), right, folder)
    cuts = attack("R5", "saved function: cut or removed", least=20)
    for path in files:
        for case in shortened(path):
            judge(cuts, case, lambda: structured.load(folder), right, folder)


def test_a_saved_function_is_whole_or_not_there(small, tmp_path, monkeypatch):
    pytest.importorskip("flatbuffers")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            structured.save(tmp_path / "small", small, jnp.ones((2, 256)))
    assert list(tmp_path.iterdir()) == []
    structured.save(tmp_path / "small", small, jnp.ones((2, 256)))
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_prepared_data(tmp_path, attack, amount):
    path = tmp_path / "arrays.npz"
    data = twin("mnist", train=20, test=10)
    arrays.write(path, data)
    right = lambda found: found is None or same(found, data)  # None: decoded anew from the records
    assert same(arrays.read(path), data)
    flips = attack("R4", "arrays.npz of a data set: bit flips", least=amount(60, 400))
    for case in flipped(path, amount(60, 400)):
        judge(flips, case, lambda: arrays.read(path), right, path)
    cuts = attack("R5", "arrays.npz of a data set: cut or removed", least=5)
    for case in shortened(path):
        judge(cuts, case, lambda: arrays.read(path), right, path)


@pytest.mark.parametrize("form", [zipped, legacy])
def test_weights_of_pytorch(form, tmp_path, attack, amount):
    path = form(tmp_path / "model.pth")
    read = lambda: torch_weights.read(path)
    right = lambda found: list(found) == ["w"] and same(found["w"], VALUES)
    assert right(read())
    if form is zipped:
        flips = attack("R4", "PyTorch weights, zip: bit flips", least=amount(60, 400))
        for case in flipped(path, amount(60, 400)):
            judge(flips, case, read, right, path)
        return
    # The old format has no checksum: a changed number is read as another. Structure is never another.
    told = (
        "PyTorch weights, legacy: bit flips (no checksum in the format; changed numbers are read)"
    )
    flips = attack("R4", told, least=amount(60, 300))
    changed = 0
    for case in flipped(path, amount(60, 300)):
        judge(flips, case, read, lambda found: isinstance(found, dict), path)
        changed += _reads_other_numbers(read)
    assert changed


def _reads_other_numbers(read):
    try:
        return not np.array_equal(read()["w"], VALUES)
    except Exception:
        return False


def test_weights_of_pytorch_with_their_sha256(tmp_path, attack, amount, monkeypatch):
    path = legacy(tmp_path / "weights" / "net.pth")
    archive = Archive("net.pth", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(pretrained, "WEIGHTS", {"net": archive})
    read = lambda: pretrained.load_weights("net", data_dir=tmp_path)
    right = lambda found: same(found["w"], VALUES)
    assert right(read())
    flips = attack("R4", "PyTorch weights, legacy, with SHA-256: bit flips", least=amount(60, 300))
    for case in flipped(path, amount(60, 300)):
        judge(flips, case, read, right, path)


def test_what_was_flipped_is_put_back(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    seen = [path.read_bytes() for _ in flipped(path, 5)]
    assert len(set(seen)) == 5
    assert b"abc" not in seen
    assert path.read_bytes() == b"abc"
