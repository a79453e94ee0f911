"""What is public says what its arguments mean, what it raises and, for a method, when to use it."""

import ast
import inspect
import re
import textwrap

import pytest

import jaxprune as jp

WITHOUT_MEANING = {"self", "_", "args", "kwargs"}


def public():
    """All public functions and classes, by the name under which users reach them."""
    seen, waiting = {}, [("jp", jp)]
    while waiting:
        path, module = waiting.pop()
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.ismodule(value):
                waiting.append((f"{path}.{name}", value))
            elif inspect.isfunction(value) or inspect.isclass(value):
                seen.setdefault(value, f"{path}.{name}")
    return {path: value for value, path in seen.items()}


PUBLIC = public()


def parameters(thing):
    if inspect.isclass(thing):
        return [*getattr(thing, "_fields", getattr(thing, "__dataclass_fields__", ()))]
    return [*inspect.signature(thing).parameters]


@pytest.mark.parametrize("path", PUBLIC)
def test_every_parameter_is_explained(path):
    thing = PUBLIC[path]
    text = inspect.getdoc(thing) or ""
    missing = [
        name
        for name in parameters(thing)
        if name.strip("_") and name not in WITHOUT_MEANING and not re.search(rf"\b{name}\b", text)
    ]
    assert not missing, f"{path}: the docstring does not name {missing}"


def raises(function):
    """Whether the function's own body, not one within it, raises."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    waiting = list(ast.iter_child_nodes(tree))
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Raise):
            return True
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)
    return False


FUNCTIONS = [path for path, thing in PUBLIC.items() if inspect.isfunction(thing)]


@pytest.mark.parametrize("path", FUNCTIONS)
def test_errors_are_announced(path):
    function = inspect.unwrap(PUBLIC[path])
    if raises(function):
        assert "Raises:" in inspect.getdoc(function), f"{path} raises and does not say so"


@pytest.mark.parametrize("name", jp.methods.__all__)
def test_a_method_says_when_to_use_it(name):
    text = inspect.getdoc(getattr(jp.methods, name))
    for section in ("Use it when", "Args:", "Returns:", "References:", ">>>"):
        assert section in text, f"jp.methods.{name} has no {section!r}"
