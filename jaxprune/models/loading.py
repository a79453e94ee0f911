"""Models by name or from files: `load` gives apply, params, tokenizer and config."""

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.data.pretrained import WEIGHTS, verified_weights
from jaxprune.models import configs, gguf, llama, names, safetensors, tokenizer
from jaxprune.models.sink import safetensors_sink
from jaxprune.models.tokenizer import Tokenizer

__all__ = ["Model", "decoder_sink", "load", "save"]

# By `windows_sha256`, of windows of the test part of `jaxprune.models.text`.
PERPLEXITIES: Mapping[str, Mapping[str, float]] = {
    "smollm2-135m": {
        "4d0ffaff8bfe9a753e02605d688533d22cf8f9e007c7c5c6289ab2e1178663c6": 18.7791,  # 4 of 512
        "fa955b74c976d2ffcd944422ac668752448877cf704ea46c4ec6e718578db1da": 18.8327,  # 16 of 512
        "57840c783d97df08b9ec3b4d38b297254bf9db6ac9fd4fc63c417ebe62f2a449": 20.5484,  # 64 of 512
    },
}


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A language model, as a pure function `apply` and its parameters.

    Attributes:
      name: name by which the model was loaded.
      apply: (params, tokens [batch, length]) -> logits [batch, length, vocabulary].
      params: a tree of arrays, or of `LazyLeaf`.
      config: of the decoder.
      perplexities: known perplexities of the dense model, by `windows_sha256`.
      _tokenizer: function that makes `tokenizer`.
    """

    name: str
    apply: Callable[[Any, jax.Array], jax.Array]
    params: Any = dataclasses.field(repr=False)
    config: llama.Config
    perplexities: Mapping[str, float] = dataclasses.field(repr=False)
    _tokenizer: Callable[[], Tokenizer] = dataclasses.field(repr=False)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, made when it is first asked for; needs the extra `models`."""
        return self._tokenizer()


class _Parts(NamedTuple):
    """What is read from files of a model."""

    config: llama.Config
    params: Any
    tokenizer: Callable[[], Tokenizer]


def load(
    source: str | os.PathLike,
    *,
    dtype: Any = jnp.float32,
    lazy: bool = False,
    data_dir: str | os.PathLike | None = None,
) -> Model:
    """Loads a decoder of the LLaMA, Qwen2 or Qwen3 architecture.

    Args:
      source: "smollm2-135m", after `jaxprune.data.fetch_weights` has fetched it; or the path of a .gguf file;
        or of a folder with config.json, safetensors and tokenizer.json in Hugging Face's format.
      dtype: of parameters and activations, float32 or bfloat16. Quantised tensors are decoded.
      lazy: true: parameters stay in the file, as `LazyLeaf` with shape, dtype and `read()`; false: they are
        arrays on the default device.
      data_dir: the folder of fetched weights; default $JAXPRUNE_DATA, or ~/.cache/jaxprune/data.

    Returns:
      The model.

    Raises:
      ValueError: the files are damaged, or describe a model that the decoder does not compute.
      FileNotFoundError: there is no such model; says how to get it.
    """
    model_parts = _parts(source, np.dtype(dtype), data_dir)
    params = model_parts.params
    if not lazy:
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf.read()), params)
    return Model(
        name=str(source),
        apply=llama.decoder(model_parts.config, dtype=dtype),
        params=params,
        config=model_parts.config,
        perplexities=PERPLEXITIES.get(str(source), {}),
        _tokenizer=model_parts.tokenizer,
    )


def _parts(
    source: str | os.PathLike, dtype: np.dtype, data_dir: str | os.PathLike | None
) -> _Parts:
    """Reads configuration, parameters and tokenizer from a known model, a GGUF file or a folder."""
    if source in WEIGHTS and str(WEIGHTS[str(source)].filename).endswith(".gguf"):
        return _gguf(verified_weights(str(source), data_dir=data_dir), dtype, str(source))
    path = Path(source)
    if path.is_dir():
        return _folder(path, dtype)
    if path.is_file():
        return _gguf(path, dtype, None)
    known_names = [name for name, archive in WEIGHTS.items() if archive.filename.endswith(".gguf")]
    raise FileNotFoundError(
        f"models.load: {source} is no file or folder, and no known model; those are {', '.join(known_names)}."
    )


def _gguf(path: Path, dtype: np.dtype, name: str | None) -> _Parts:
    """Reads a GGUF file."""
    file = gguf.read(path)
    config = configs.from_gguf(file.metadata, file.tensors)
    architecture = file.metadata["general.architecture"]
    params = names.from_gguf(file.tensors, config, architecture, dtype)
    return _Parts(config, params, lambda: tokenizer.from_gguf(file.metadata, name))


def _folder(folder: Path, dtype: np.dtype) -> _Parts:
    """Reads a folder as Hugging Face stores models."""
    try:
        description = json.loads((folder / "config.json").read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"models.load: {folder / 'config.json'} is no JSON ({error}).") from error
    if not isinstance(description, dict):
        raise ValueError(f"models.load: {folder / 'config.json'} describes no model.")
    config = configs.from_hugging_face(description)
    params = names.from_hugging_face(safetensors.read(folder), config, dtype)
    return _Parts(config, params, lambda: tokenizer.from_json(folder / "tokenizer.json"))


def save(
    folder: str | os.PathLike, params: Any, config: llama.Config, *, shard_bytes: int = 2**30
) -> None:
    """Writes a decoder as Hugging Face stores them: config.json and safetensors, with zeros where pruned.

    `load(folder)` reads it again. A tokenizer.json beside it comes from `model.tokenizer.inner.save(path)`.

    Args:
      folder: must not hold a model.
      params: a tree of arrays or lazy leaves, one of which is in memory at a time beside a file's worth.
      config: of the decoder.
      shard_bytes: size of a file, in bytes.

    Raises:
      FileExistsError: the folder holds a model already.
      ValueError: the configuration cannot be said in a config.json, or is of other parameters.
    """
    configs.to_hugging_face(config)
    leaves = _leaves_by_path(params)
    _check_shapes({path: np.shape(leaf) for path, leaf in leaves.items()}, config)
    with decoder_sink(folder, config, shard_bytes=shard_bytes) as sink:
        for path, leaf in leaves.items():
            sink(path, np.asarray(leaf))


def _leaves_by_path(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by path, keys joined by slashes."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.flatten_with_path(tree)[0]
    }


def _check_shapes(shapes: Mapping[str, Any], config: llama.Config) -> None:
    """Raises unless parameters by path are those of a configuration, which would not load otherwise."""
    expected = {path: leaf.shape for path, leaf in _leaves_by_path(llama.shapes(config)).items()}
    for path in (*shapes, *expected):
        if shapes.get(path) == expected.get(path):
            continue
        if path not in shapes:
            fault = f"the parameters have no {path!r}, which the configuration has"
        elif path not in expected:
            fault = f"the configuration has no {path!r}"
        else:
            fault = f"{path!r} has the shape {shapes[path]}, {expected[path]} by the configuration"
        raise ValueError(f"models.save: {fault}; give the configuration of these parameters.")


@contextlib.contextmanager
def decoder_sink(
    folder: str | os.PathLike,
    config: llama.Config,
    *,
    shard_bytes: int = 2**30,
    resume: bool = False,
) -> Iterator[Callable[[str, np.ndarray], None]]:
    """Opens a folder into which parameters of a decoder are written one by one, as `save` writes them all.

    For `sink=` of `jaxprune.posttrain.prune`, with parameters of `load(source, lazy=True)`.

    Args:
      folder: must not hold a model.
      config: of the decoder.
      shard_bytes: size of a file, in bytes; no more than that and one parameter is held in memory.
      resume: go on with a folder in which an earlier run was stopped; where it had ended, what is given is
        compared with the model that it wrote (see `safetensors_sink`).

    Returns:
      For `with`: a function of the path of a parameter, such as "layers/0/up", and its array. The folder is a
      model once the block has ended without an error.

    Raises:
      FileExistsError: the folder holds a model, or the beginning of one, and `resume` is false or no sink
        wrote it.
      ValueError: the configuration cannot be said in a config.json, or is not that of the model there.
    """
    description = json.dumps(configs.to_hugging_face(config), indent=1)
    config_path = Path(folder) / "config.json"
    with safetensors_sink(folder, shard_bytes=shard_bytes, resume=resume) as sink:
        if sink.complete and config_path.exists():
            _check_described(config_path, description)
        yield lambda path, array: sink(*names.hugging_face_tensor(path, array))
        config_path.write_text(description, encoding="utf-8")


def _check_described(config_path: Path, description: str) -> None:
    """Raises if a config.json describes another model."""
    if config_path.read_text(encoding="utf-8") != description:
        raise ValueError(
            f"models.decoder_sink(resume=True): {config_path} describes another model than is given now; "
            "give another folder, or remove this one."
        )
