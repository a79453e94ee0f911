"""Roles of leaves by their names, as Flax, Haiku, Equinox, Keras and ports of PyTorch models use them.

One table for all who must guess from names because no program is at hand. Where one is, `jaxprune.axes` says
how each leaf is used.
"""

import re
from collections.abc import Collection, Sequence
from typing import Literal

__all__ = ["Role", "by_name", "siblings"]

Role = Literal["kernel", "bias", "scale", "statistic", "table", "adapter"]

# What is looked up, in names such as `position_embedding`, `tok_emb` and `relative_position_bias_table`.
_LOOKED_UP = (
    r"pos|(relative_)?position|positional|tok|token|token_type|word|type|segment|absolute|relative"
)
# Names of the leaf itself.
_LEAF: dict[Role, str] = {
    "bias": r"bias|biases|beta|offset|bias_(ih|hh|n|[0-9]+)",
    "scale": r"scale|scales|gamma|gain|weight_g|layer_scale.*",
    "statistic": r"mean|var|variance|std|(running|moving|pop)_.*",
    "table": r"embeddings?|embedding_table|input_embeddings?|wte|wpe|probe|pos_?emb(ed)?"
    rf"|({_LOOKED_UP})_(emb|embed|embeddings?|encodings?|table|embedding_table|bias_table)"
    r"|(cls|class|mask|sep|register|dist|distillation)(_?tokens?)?|tokens?",
    "adapter": r"lora(_?(a|b|up|down))?|.*_lora_[ab]",
}
# Short names of the leaf, of Haiku and weight normalisation, where one of the others stands beside it.
_BESIDE: dict[str, tuple[Role, Collection[str]]] = {
    "b": ("bias", ("w",)),
    "g": ("scale", ("v", "w", "layer", "weight")),
}
# Names of the module, for leaves of names that kernels have elsewhere. A `kernel` in an embedding is a
# projection, and so is the `weight` of what else is embedded: patches, images, times.
_MODULE: dict[Role, tuple[str, Collection[str]]] = {
    "scale": (
        r"(.*_)?(layer|batch|group|instance|rms)?_?norm(alization)?(_?[0-9]+)?|(ln|bn|gn)(_?[0-9]+|_f)?",
        ("kernel", "w", "weight"),
    ),
    "statistic": (r"(mean|var)_ema", ("average", "hidden")),
    "table": (
        rf"(({_LOOKED_UP})?_?embed(ding)?s?|({_LOOKED_UP})_emb(edding_table)?)(_?[0-9]+)?"
        r"|embed_(in|tokens|positions)|relative_attention_bias|wte|wpe",
        ("w", "weight"),
    ),
}
_KERNELS = ("kernel", "w", "weight", "weights")
# Fields of nodes that hold one array and the names of its axes.
_WRAPPERS = ("array", "value", "raw_value")


def by_name(path: str, shape: Sequence[int], beside: Collection[str] = ()) -> Role:
    """Returns the role of a leaf by its name; a kernel if the name says nothing else.

    A leaf of three or more axes of which all but the last have length 1 is a token or a bias, unless its name
    is a kernel's.

    Args:
      path: of the leaf, its keys joined by slashes; dots in a key join names as well.
      shape: of the leaf.
      beside: names that stand in the same module (`siblings`).

    >>> by_name("layers/norm/weight", (6, 16)), by_name("block/attention/query/kernel", (16, 4, 4))
    ('scale', 'kernel')
    >>> by_name("linear/b", (4, 8)), by_name("linear/b", (4, 8), beside={"w", "b"})
    ('kernel', 'bias')
    """
    *modules, name = _unwrapped(path)
    for role, pattern in _LEAF.items():
        if re.fullmatch(pattern, name, re.IGNORECASE):
            return role
    role, partners = _BESIDE.get(name, ("kernel", ()))
    if any(partner in beside for partner in partners):
        return role
    if any(re.fullmatch(_LEAF["adapter"], module, re.IGNORECASE) for module in modules):
        return "adapter"
    module_name = modules[-1] if modules else ""
    for role, (pattern, kernel_names) in _MODULE.items():
        if name.lower() in kernel_names and re.fullmatch(pattern, module_name, re.IGNORECASE):
            return role
    if len(shape) >= 3 and max(shape[:-1]) == 1 and name.lower() not in _KERNELS:
        return "table"
    return "kernel"


def siblings(paths: Sequence[str]) -> list[set[str]]:
    """Returns, for each path, the names of all that its module holds.

    Args:
      paths: of all leaves of a tree.

    >>> siblings(["linear/b", "linear/w"])[0] == {"b", "w"}
    True
    """
    names_by_module: dict[str, set[str]] = {}
    for path in paths:
        names = _unwrapped(path)
        for depth, name in enumerate(names):
            names_by_module.setdefault("/".join(names[:depth]), set()).add(name)
    return [names_by_module["/".join(_unwrapped(path)[:-1])] for path in paths]


def _unwrapped(path: str) -> list[str]:
    """Returns the names of a path, without those of wrappers around the array.

    Ports of PyTorch models that keep one flat dict have dots in its keys, as in "transformer.wte.weight".
    """
    names = re.split(r"[/.]", path)
    while len(names) > 1 and names[-1] in _WRAPPERS:
        names.pop()
    return names
