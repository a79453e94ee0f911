"""Language models from files: what is read from them, as plain trees and functions.

`gguf` and `safetensors` give the tensors of a file as `LazyLeaf`, read when they are asked for;
`safetensors_sink` writes tensors as they come. `llama` is the decoder of LLaMA, Qwen2 and Qwen3; `configs`
and `names` tell what files say of it.
"""

from jaxprune.models import configs, gguf, llama, names, safetensors
from jaxprune.models.leaves import LazyLeaf, read_leaves
from jaxprune.models.sink import SafetensorsSink, safetensors_sink

__all__ = [
    "LazyLeaf",
    "SafetensorsSink",
    "configs",
    "gguf",
    "llama",
    "names",
    "read_leaves",
    "safetensors",
    "safetensors_sink",
]
