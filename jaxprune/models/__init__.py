"""Language models from files: what is read from them, as plain trees and functions.

`gguf` and `safetensors` give the tensors of a file as `LazyLeaf`, read when they are asked for;
`safetensors_sink` writes tensors as they come.
"""

from jaxprune.models import gguf, safetensors
from jaxprune.models.leaves import LazyLeaf, read_leaves
from jaxprune.models.sink import SafetensorsSink, safetensors_sink

__all__ = ["LazyLeaf", "SafetensorsSink", "gguf", "read_leaves", "safetensors", "safetensors_sink"]
