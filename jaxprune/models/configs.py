"""Configurations of decoders from files: GGUF's metadata, Hugging Face's config.json.

Models with parts that the decoder does not compute (experts, sliding windows, other activations) are refused.
"""

import math
from collections.abc import Mapping
from typing import Any

from jaxprune.models.leaves import LazyLeaf
from jaxprune.models.llama import Config

__all__ = ["from_gguf", "from_hugging_face", "to_hugging_face"]


def __dir__() -> list[str]:
    return sorted(__all__)


# Channels of a head: a hostile file may claim any number, and memory is allocated for it.
_LARGEST_HEAD = 2**16

ARCHITECTURES: Mapping[str, dict[str, bool]] = {
    "llama": {},
    "qwen2": {"attention_bias": True},
    "qwen3": {"head_norm": True},
}


def from_gguf(metadata: Mapping[str, Any], tensors: Mapping[str, LazyLeaf]) -> Config:
    """Returns the configuration of a GGUF file's model.

    Args:
      metadata: of the file.
      tensors: of the file; from them come the vocabulary's size, whether the head is tied, and LLaMA 3's
        rotary factors.

    Returns:
      The decoder's configuration.

    Raises:
      ValueError: the architecture is not known, a key is missing, or the model has what the decoder lacks.
    """
    architecture = metadata.get("general.architecture")
    flags = _flags(architecture)

    def value(key: str, default: Any = None) -> Any:
        entry = metadata.get(f"{architecture}.{key}", default)
        if entry is None:
            raise ValueError(f"configs: the file's metadata lack '{architecture}.{key}'.")
        return entry

    if "token_embd.weight" not in tensors:
        raise ValueError("configs: the tensor 'token_embd.weight' is missing; the model needs it.")

    def count(key: str, default: Any = None) -> int:
        return _count(f"{architecture}.{key}", value(key, default))

    heads = count("attention.head_count")
    width = count("embedding_length")
    head_dim = count("attention.key_length", width // heads)
    supported_values = {
        "expert_count": (value("expert_count", 0), 0),
        "attention.value_length": (value("attention.value_length", head_dim), head_dim),
        "rope.dimension_count": (value("rope.dimension_count", head_dim), head_dim),
        "attention.sliding_window": (value("attention.sliding_window", 0), 0),
        "attention.causal": (value("attention.causal", True), True),
        # What older files call the factor.
        "rope.scale_linear": (value("rope.scale_linear", 1.0), 1.0),
    }
    _refuse(supported_values)
    scaling = {
        "rope_type": value("rope.scaling.type", "none"),
        "factor": metadata.get(f"{architecture}.rope.scaling.factor", 1.0),
    }
    rotary_base = float(value("rope.freq_base", 10_000.0))
    rotary_factors = _rotary_factors(scaling, rotary_base, head_dim)
    if "rope_freqs.weight" in tensors:
        rotary_factors = tuple(tensors["rope_freqs.weight"].read().tolist())
    return Config(
        vocabulary=tensors["token_embd.weight"].shape[0],
        width=width,
        hidden=count("feed_forward_length"),
        layers=count("block_count"),
        heads=heads,
        kv_heads=count("attention.head_count_kv", heads),
        head_dim=head_dim,
        norm_epsilon=float(value("attention.layer_norm_rms_epsilon")),
        rotary_base=rotary_base,
        rotary_factors=rotary_factors,
        max_length=metadata.get(f"{architecture}.context_length"),
        tied="output.weight" not in tensors,
        **flags,
    )


def from_hugging_face(config: Mapping[str, Any]) -> Config:
    """Returns the configuration that a config.json describes.

    Args:
      config: the parsed config.json.

    Returns:
      The decoder's configuration.

    Raises:
      ValueError: as `from_gguf`.
    """
    flags = _flags(config.get("model_type"))

    def value(key: str, default: Any = None) -> Any:
        entry = config.get(key)
        entry = default if entry is None else entry
        if entry is None:
            raise ValueError(f"configs: config.json lacks {key!r}.")
        return entry

    _refuse(
        {
            "hidden_act": (value("hidden_act", "silu"), "silu"),
            "mlp_bias": (value("mlp_bias", False), False),
            "use_sliding_window": (value("use_sliding_window", False), False),
            "partial_rotary_factor": (value("partial_rotary_factor", 1), 1),
        }
    )
    if config.get("attention_bias") and not flags.get("attention_bias"):
        _refuse({"attention_bias": (True, False)})  # it would include a bias of the output
    scaling = value("rope_parameters", value("rope_scaling", {}))
    if not isinstance(scaling, Mapping):
        raise ValueError(f"configs: rope_scaling is {scaling!r}; a dict is needed.")
    rotary_base = float(scaling.get("rope_theta", value("rope_theta", 10_000.0)))

    def count(key: str, default: Any = None) -> int:
        return _count(key, value(key, default))

    heads = count("num_attention_heads")
    width = count("hidden_size")
    head_dim = count("head_dim", width // heads)
    return Config(
        vocabulary=count("vocab_size"),
        width=width,
        hidden=count("intermediate_size"),
        layers=count("num_hidden_layers"),
        heads=heads,
        kv_heads=count("num_key_value_heads", heads),
        head_dim=head_dim,
        norm_epsilon=float(value("rms_norm_eps")),
        rotary_base=rotary_base,
        rotary_factors=_rotary_factors(scaling, rotary_base, head_dim),
        max_length=config.get("max_position_embeddings"),
        tied=value("tie_word_embeddings", False),
        **flags,
    )


def to_hugging_face(config: Config) -> dict[str, Any]:
    """Returns the config.json that `from_hugging_face` reads as this configuration.

    Args:
      config: of the decoder.

    Returns:
      The content of a config.json.

    Raises:
      ValueError: no architecture has both biases and norms of heads, or a rotary factor per pair.

    >>> from jaxprune.models.llama import Config
    >>> config = Config(vocabulary=5, width=4, hidden=8, layers=1, heads=2, kv_heads=1, head_dim=2)
    >>> from_hugging_face(to_hugging_face(config)) == config
    True
    """
    flags = {name: True for name in ("attention_bias", "head_norm") if getattr(config, name)}
    architectures = [
        name for name, architecture_flags in ARCHITECTURES.items() if architecture_flags == flags
    ]
    factors = config.rotary_factors
    if not architectures or (factors is not None and len(set(factors)) > 1):
        raise ValueError(
            "configs.to_hugging_face: no config.json says this configuration, which has rotary_factors "
            "that differ, or attention_bias and head_norm; write the parameters alone, by "
            "names.to_hugging_face."
        )
    description = {
        "architectures": [f"{architectures[0].capitalize()}ForCausalLM"],
        "model_type": architectures[0],
        "vocab_size": config.vocabulary,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rotary_base,
        "max_position_embeddings": config.max_length,
        "tie_word_embeddings": config.tied,
    }
    if factors is not None:
        description["rope_scaling"] = {"rope_type": "linear", "factor": factors[0]}
    return description


def _flags(architecture: Any) -> dict[str, Any]:
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ValueError(
            f"configs: the architecture {architecture!r} is not known; {', '.join(ARCHITECTURES)} are."
        )
    return dict(ARCHITECTURES[architecture])


def _positive(scaling: Mapping[str, Any], key: str) -> float:
    value: Any = scaling.get(key)
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ValueError(
            f"configs: {key} of rope_scaling is {value!r}; a positive number is needed."
        )
    return float(value)


def _count(key: str, value: Any) -> int:
    if type(value) is not int or value < 1:  # a list would be a number per layer
        raise ValueError(f"configs: {key} is {value!r}; one positive integer is needed.")
    return value


def _refuse(unlike: Mapping[str, tuple[Any, Any]]) -> None:
    for key, (claimed, computed) in unlike.items():
        if claimed != computed:
            raise ValueError(
                f"configs: {key} is {claimed!r}; the decoder computes {computed!r} only."
            )


def _rotary_factors(
    scaling: Mapping[str, Any], base: float, head_dim: int
) -> tuple[float, ...] | None:
    """Returns the divisor of each rotary pair's angle; in LLaMA 3, 1 for the pairs that rotate fast."""
    scaling_kind = scaling.get("rope_type", scaling.get("type", "default"))
    if scaling_kind in ("default", "none"):
        return None
    if head_dim > _LARGEST_HEAD:
        raise ValueError(
            f"configs: heads of {head_dim:,} channels; at most {_LARGEST_HEAD:,} are read."
        )
    pair_count = head_dim // 2
    factor = _positive(scaling, "factor")
    if scaling_kind == "linear":
        return (factor,) * pair_count
    if scaling_kind != "llama3":
        raise ValueError(
            f"configs: rotary positions are scaled by {scaling_kind!r}; default, linear and llama3 are "
            "computed."
        )
    slow_rotations = _positive(scaling, "low_freq_factor")
    fast_rotations = _positive(scaling, "high_freq_factor")
    original_length = _positive(scaling, "original_max_position_embeddings")
    factors = []
    for pair in range(pair_count):
        rotations = original_length * base ** (-pair / pair_count) / (2 * math.pi)
        # Between slow and fast pairs, the share of the angle that is not divided rises from 0 to 1.
        spared_share = (rotations - slow_rotations) / (fast_rotations - slow_rotations)
        spared_share = min(max(spared_share, 0.0), 1.0)
        factors.append(1 / ((1 - spared_share) / factor + spared_share))
    return tuple(factors)
