"""Parts are found through faces: what is behind a face may move."""

import importlib
import sys

import pytest

from experiments.config import parts
from experiments.config.signatures import defining_file, signature, signatures


def write(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


SOURCE = "def {name}(*, size: int, rate: float = 0.5) -> Model:\n    raise SystemExit\n"
FLAT = {
    "flat_face/__init__.py": "from flat_face.inner import small as small\n__all__ = ['small']",
    "flat_face/inner.py": SOURCE.format(name="small") + SOURCE.format(name="hidden"),
}
DEEP = {
    "deep_face/__init__.py": "from deep_face.models import small as small\n__all__ = ['small']",
    "deep_face/models/__init__.py": "from deep_face.models.tiny import _tiny as small",
    "deep_face/models/tiny.py": SOURCE.format(name="_tiny"),
}


@pytest.mark.parametrize("files", [FLAT, DEEP], ids=["flat", "deep"])
def test_a_face_is_followed_to_where_a_function_is_defined(files, tmp_path, monkeypatch):
    write(tmp_path, files)
    monkeypatch.syspath_prepend(tmp_path)
    face = next(iter(files)).split("/")[0]
    found = dict(signatures(face, "Model"))
    assert list(found) == ["small"]
    assert found["small"].types == {"size": "int", "rate": "float"}
    assert found["small"].required == ("size",)
    assert signature(face, "hidden") is None
    assert defining_file(face, "small") == tmp_path / list(files)[-1]
    assert face not in sys.modules


@pytest.mark.parametrize("kind", parts._KINDS)
def test_whatever_a_config_can_name_is_in_its_face(kind):
    count = 0
    for face in parts._KINDS[kind].faces:
        module = importlib.import_module(face)
        for name, _ in signatures(face, parts._KINDS[kind].returns):
            assert callable(getattr(module, name))
            count += 1
    assert count


def test_no_module_is_named_by_its_path():
    for meant in parts._KINDS.values():
        assert not [face for face in meant.faces if "/" in face or face.endswith(".py")]
