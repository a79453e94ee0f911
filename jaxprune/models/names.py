"""The table of tensors' names in files by parameter of `llama`, and trees of lazy leaves made by it.

In files a linear layer's weight is [outputs, inputs]; kernels here are [inputs, outputs]. GGUF files of the
architecture "llama" hold the query and key channels of a head with the two of a rotary pair side by side
(0, 32, 1, 33, ... of 64); they are put back into the order of halves. GGUF files of "qwen2" and "qwen3" and
all files of Hugging Face have halves already.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxprune.models.leaves import LazyLeaf
from jaxprune.models.llama import Config, shapes

__all__ = [
    "INTERLEAVED",
    "from_gguf",
    "from_hugging_face",
    "hugging_face_tensor",
    "to_hugging_face",
]


def __dir__() -> list[str]:
    return sorted(__all__)


INTERLEAVED = ("llama",)  # architectures whose GGUF files have rotary pairs side by side
IGNORED = ("rotary_emb.inv_freq", "rope_freqs.weight")  # not parameters: the configuration has them


class Stored(NamedTuple):
    """A parameter's names in files, without the prefix that says in which layer it is."""

    gguf: str
    hugging_face: str


OUTSIDE: Mapping[str, Stored] = {
    "embedding": Stored("token_embd.weight", "model.embed_tokens.weight"),
    "norm": Stored("output_norm.weight", "model.norm.weight"),
    "head": Stored("output.weight", "lm_head.weight"),
}
IN_LAYER: Mapping[str, Stored] = {
    "attention_norm": Stored("attn_norm.weight", "input_layernorm.weight"),
    "query": Stored("attn_q.weight", "self_attn.q_proj.weight"),
    "key": Stored("attn_k.weight", "self_attn.k_proj.weight"),
    "value": Stored("attn_v.weight", "self_attn.v_proj.weight"),
    "output": Stored("attn_output.weight", "self_attn.o_proj.weight"),
    "query_bias": Stored("attn_q.bias", "self_attn.q_proj.bias"),
    "key_bias": Stored("attn_k.bias", "self_attn.k_proj.bias"),
    "value_bias": Stored("attn_v.bias", "self_attn.v_proj.bias"),
    "query_norm": Stored("attn_q_norm.weight", "self_attn.q_norm.weight"),
    "key_norm": Stored("attn_k_norm.weight", "self_attn.k_norm.weight"),
    "feed_forward_norm": Stored("ffn_norm.weight", "post_attention_layernorm.weight"),
    "gate": Stored("ffn_gate.weight", "mlp.gate_proj.weight"),
    "up": Stored("ffn_up.weight", "mlp.up_proj.weight"),
    "down": Stored("ffn_down.weight", "mlp.down_proj.weight"),
}
ROTATED = ("query", "key", "query_bias", "key_bias")


def from_gguf(
    tensors: Mapping[str, LazyLeaf], config: Config, architecture: str, dtype: Any = np.float32
) -> Any:
    """Returns the parameters of `llama.decoder(config)` as lazy leaves of a GGUF file's tensors.

    Args:
      tensors: by name, `gguf.read(path).tensors`.
      config: of the model.
      architecture: "llama", "qwen2" or "qwen3"; the order of rotary pairs depends on it.
      dtype: of the parameters.

    Returns:
      A tree like `llama.shapes(config)`, of `LazyLeaf`.

    Raises:
      ValueError: a tensor is missing, has another shape than the configuration asks for, or is none of the
        model's.
    """

    def name(parameter: str, layer: int | None) -> str:
        base_name = OUTSIDE[parameter].gguf if layer is None else IN_LAYER[parameter].gguf
        return base_name if layer is None else f"blk.{layer}.{base_name}"

    interleaved = architecture in INTERLEAVED
    return _tree(tensors, config, name, dtype, interleaved)


def from_hugging_face(
    tensors: Mapping[str, LazyLeaf], config: Config, dtype: Any = np.float32
) -> Any:
    """Returns the parameters of `llama.decoder(config)` as lazy leaves of a folder's safetensors.

    Where the embedding is tied, a head that the files hold too is left out, as their own library does.

    Args:
      tensors: by name, `safetensors.read(folder)`.
      config: of the model.
      dtype: of the parameters.

    Returns:
      A tree like `llama.shapes(config)`, of `LazyLeaf`.

    Raises:
      ValueError: as `from_gguf`.
    """
    if config.tied:
        tensors = {name: leaf for name, leaf in tensors.items() if name != "lm_head.weight"}
    return _tree(tensors, config, _hugging_face_name, dtype, interleaved=False)


def to_hugging_face(params: Any) -> Iterator[tuple[str, np.ndarray]]:
    """Yields name and array, as `from_hugging_face` reads them, of each parameter in turn.

    For a sink: `for name, array in to_hugging_face(params): sink(name, array)`.

    Args:
      params: a tree of arrays or lazy leaves, of which one is in memory at a time.

    >>> [name for name, _ in to_hugging_face({"norm": np.ones(2), "layers": [{"up": np.ones((2, 3))}]})]
    ['model.layers.0.mlp.up_proj.weight', 'model.norm.weight']
    """
    for path, leaf in jax.tree.flatten_with_path(params)[0]:
        keys = jax.tree_util.keystr(path, simple=True, separator="/")
        yield hugging_face_tensor(keys, np.asarray(leaf))


def hugging_face_tensor(path: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Returns name and array of a parameter as `from_hugging_face` reads them.

    Args:
      path: of the parameter, keys joined by slashes.
      array: its numbers.

    >>> name, array = hugging_face_tensor("layers/0/up", np.ones((2, 3)))
    >>> name, array.shape
    ('model.layers.0.mlp.up_proj.weight', (3, 2))
    """
    *in_layer, parameter = path.split("/")
    layer = int(in_layer[-1]) if in_layer else None
    return _hugging_face_name(parameter, layer), _transposed(parameter, array)


def _hugging_face_name(parameter: str, layer: int | None) -> str:
    if layer is None:
        return OUTSIDE[parameter].hugging_face
    return f"model.layers.{layer}.{IN_LAYER[parameter].hugging_face}"


def _name_and_layer(path: Any) -> tuple[str, int | None]:
    """Returns a parameter's name and the index of its layer, `None` outside the layers."""
    return path[-1].key, path[1].idx if len(path) == 3 else None


def _transposed(parameter: str, array: np.ndarray) -> np.ndarray:
    """Returns [inputs, outputs] of [outputs, inputs], or back; embeddings are [vocabulary, width] in both."""
    return array.T if array.ndim == 2 and parameter != "embedding" else array


def _tree(
    tensors: Mapping[str, LazyLeaf],
    config: Config,
    name: Callable[[str, int | None], str],
    dtype: Any,
    interleaved: bool,
) -> Any:
    """Returns the tree of lazy leaves, after checking that files and configuration agree.

    Args:
      tensors: by name.
      config: of the model.
      name: (parameter, layer index or `None`) -> name in the files.
      dtype: of the parameters.
      interleaved: whether queries and keys hold rotary pairs side by side.
    """
    if config.layers > len(tensors):
        raise ValueError(
            f"names: the model has {config.layers:,} layers, its files only {len(tensors):,} tensors."
        )
    unused_names = {name for name in tensors if not name.endswith(IGNORED)}

    def leaf(path: Any, expected: jax.ShapeDtypeStruct) -> LazyLeaf:
        parameter, layer = _name_and_layer(path)
        stored_name = name(parameter, layer)
        if stored_name not in tensors:
            raise ValueError(f"names: the tensor {stored_name!r} is missing; the model needs it.")
        unused_names.discard(stored_name)
        stored_leaf = tensors[stored_name]
        stored_shape = _transposed(parameter, np.broadcast_to(0, expected.shape)).shape
        if stored_leaf.shape != stored_shape:
            raise ValueError(
                f"names: the tensor {stored_name!r} has the shape {stored_leaf.shape}; its "
                f"configuration asks for {stored_shape}."
            )
        is_rotated = interleaved and parameter in ROTATED

        def load() -> np.ndarray:
            array = stored_leaf.read().astype(dtype, copy=False)
            array = _halves(array, config.head_dim) if is_rotated else array
            return _transposed(parameter, array)

        return LazyLeaf(expected.shape, np.dtype(dtype), load)

    tree = jax.tree.map_with_path(leaf, shapes(config))
    if unused_names:
        raise ValueError(
            f"names: the tensor {min(unused_names)!r} is none of the model's ({len(unused_names)} such); a "
            "decoder that leaves it out would compute something else."
        )
    return tree


def _halves(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Returns rows of heads, in order of pairs side by side, in the order of first halves, second halves."""
    pairs = rows.reshape(-1, head_dim // 2, 2, *rows.shape[1:])
    return pairs.swapaxes(1, 2).reshape(rows.shape)
