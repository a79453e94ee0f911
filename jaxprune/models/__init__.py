"""Language models from files, without network access: pure functions, trees of parameters, and test text.

`load` returns a model by name, from a GGUF file, or from a folder of safetensors. `text.windows` returns
tokens for calibration and tests, `perplexity` evaluates a model on them, and `save` writes a pruned model.

    model = jp.models.load("smollm2-135m")                           # Model(apply, params, tokenizer, config)
    windows = jp.models.text.windows(model.tokenizer, "test", count=16)
    jp.models.perplexity(model.apply, model.params, windows)

Lower-level parts: `gguf` and `safetensors` return tensors as `LazyLeaf`, which are read on request;
`safetensors_sink` writes tensors one by one; `llama` is the decoder of LLaMA, Qwen2 and Qwen3; `configs`
and `names` read its configuration and its parameters from files. `from_nnx` splits an NNX module into a pure
function and parameters. The tokenizer needs the extra `models`.
"""

from jaxprune.models import configs, gguf, llama, names, safetensors, text, tokenizer, wikitext
from jaxprune.models.evaluation import dense_perplexity, perplexity, windows_sha256
from jaxprune.models.leaves import LazyLeaf, read_leaves
from jaxprune.models.loading import Model, decoder_sink, load, save
from jaxprune.models.modules import Functional, from_nnx
from jaxprune.models.sink import SafetensorsSink, safetensors_sink
from jaxprune.models.tokenizer import Tokenizer

__all__ = [
    "Functional",
    "LazyLeaf",
    "Model",
    "SafetensorsSink",
    "Tokenizer",
    "configs",
    "decoder_sink",
    "dense_perplexity",
    "from_nnx",
    "gguf",
    "llama",
    "load",
    "names",
    "perplexity",
    "read_leaves",
    "safetensors",
    "safetensors_sink",
    "save",
    "text",
    "tokenizer",
    "wikitext",
    "windows_sha256",
]


def __dir__() -> list[str]:
    return sorted(__all__)
