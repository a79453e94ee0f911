"""EfficientNet-Lite0: inverted residuals without squeeze-and-excitation, for ImageNet.

References:
  M. Tan, Q. Le. EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks. 2019.
  Table 1. M. Sandler, A. Howard, M. Zhu, A. Zhmoginov, L. Chen. MobileNetV2: Inverted Residuals and
  Linear Bottlenecks. 2018. The Lite variants are described in TensorFlow's repository of models: ReLU6
  for swish, no squeeze-and-excitation, stem and head that are never scaled.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxprune.nn.canonical_conv import conv_for_backend
from jaxprune.nn.initializers import he_normal
from jaxprune.wording import counted

HE_NORMAL = he_normal()


class Stage(NamedTuple):
    """Blocks of one width: the first has the stride, the others add to their input.

    Attributes:
      blocks: number of blocks.
      kernel: side of the depthwise kernels.
      stride: of the first block.
      expansion: channels inside a block per channel that enters it.
      filters: channels that leave a block.
    """

    blocks: int
    kernel: int
    stride: int
    expansion: int
    filters: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def efficientnet_lite0(
    *,
    num_classes: int = 1000,
    dtype: Any = None,
    kernel_init: nn.initializers.Initializer = HE_NORMAL,
) -> nn.Module:
    """Returns EfficientNet-Lite0 for images of 224x224: 4,652,008 parameters (published: 4.7M).

    Padding is TensorFlow's "SAME": with stride 2 it adds one more pixel at the bottom and on the right. The
    published weights were trained with this padding (see `efficientnet_lite0_from_torch`). Departure: no
    dropout and no stochastic depth in training.

    Args:
      num_classes: number of outputs.
      dtype: dtype of the computation; None: that of inputs and parameters.
      kernel_init: initialiser of every kernel; the last layer's bias starts at zero.

    Returns:
      A module with layers stem, stem_bn, stage1_block1 (its layers are expand, depthwise and project,
      each with its _bn), ..., head, head_bn, fc. `model.apply(variables, x)` gives logits; with
      `train=True, mutable=["batch_stats"]` batch statistics are used and their averages updated.
    """
    return EfficientNet(STAGES, 32, 1280, num_classes, dtype, kernel_init)


def efficientnet_lite0_from_torch(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the variables of `efficientnet_lite0` from a checkpoint of its PyTorch port.

    Args:
      tensors: name in the checkpoint, such as "_blocks.0._depthwise_conv.weight" -> array, from
        `jaxprune.data.load_weights("efficientnet_lite0")`.

    Returns:
      The collections "params" and "batch_stats". PyTorch's count of batches ("num_batches_tracked") is
      left out, because Flax has none.

    Raises:
      ValueError: a tensor is missing, or one is left over.
    """
    remaining_tensors = {
        tensor_name: np.asarray(tensor)
        for tensor_name, tensor in tensors.items()
        if not tensor_name.endswith("num_batches_tracked")
    }
    params: dict[str, Any] = {}
    statistics: dict[str, Any] = {}
    for (*block, layer), name in _torch_names():
        block_params = params
        block_statistics = statistics
        for block_name in block:
            block_params = block_params.setdefault(block_name, {})
            block_statistics = block_statistics.setdefault(block_name, {})
        take_tensor = partial(_take, remaining_tensors, name)
        if layer.endswith("bn"):
            block_params[layer] = {"scale": take_tensor("weight"), "bias": take_tensor("bias")}
            block_statistics[layer] = {
                "mean": take_tensor("running_mean"),
                "var": take_tensor("running_var"),
            }
        elif layer == "fc":
            block_params[layer] = {"kernel": take_tensor("weight").T, "bias": take_tensor("bias")}
        else:  # outputs, inputs, height, width: in PyTorch also where each channel is on its own
            block_params[layer] = {"kernel": take_tensor("weight").transpose(2, 3, 1, 0)}
    if remaining_tensors:
        raise ValueError(
            "efficientnet_lite0_from_torch: "
            f"{counted(len(remaining_tensors), 'tensor has', 'tensors have')} no place in "
            f"EfficientNet-Lite0, such as {next(iter(remaining_tensors))!r}; is this the checkpoint of "
            "another model?"
        )
    return {"params": params, "batch_stats": statistics}


def _take(tensors: dict[str, np.ndarray], name: str, array_name: str) -> np.ndarray:
    if (name := f"{name}.{array_name}") not in tensors:
        raise ValueError(
            f"efficientnet_lite0_from_torch: no tensor {name!r} among those that are left; is this the "
            "checkpoint of another model?"
        )
    return tensors.pop(name)


def _torch_names() -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields each layer's path in Flax, and its name in PyTorch, where blocks are numbered through."""
    yield ("stem",), "_conv_stem"
    yield ("stem_bn",), "_bn0"
    block_index = 0
    for stage_index, stage in enumerate(STAGES, 1):
        for block_in_stage in range(1, stage.blocks + 1):
            flax_block = f"stage{stage_index}_block{block_in_stage}"
            torch_block = f"_blocks.{block_index}"
            for norm_index, layer in enumerate(("expand", "depthwise", "project")):
                if layer != "expand" or stage.expansion > 1:
                    yield (flax_block, layer), f"{torch_block}._{layer}_conv"
                    yield (flax_block, f"{layer}_bn"), f"{torch_block}._bn{norm_index}"
            block_index += 1
    yield ("head",), "_conv_head"
    yield ("head_bn",), "_bn1"
    yield ("fc",), "_fc"


class EfficientNet(nn.Module):
    """A convolution, stages of inverted residuals, a 1x1 convolution, the mean over pixels, a classifier."""

    stages: tuple[Stage, ...]
    stem: int
    head: int
    num_classes: int
    dtype: Any
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images to logits; in training, by batch statistics, whose averages it updates."""
        layer_options = {"dtype": self.dtype, "kernel_init": self.kernel_init}
        convolution = partial(
            nn.Conv, use_bias=False, conv_general_dilated=conv_for_backend, **layer_options
        )
        batch_norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            momentum=0.99,
            epsilon=1e-3,
            dtype=self.dtype,
        )
        x = convolution(self.stem, (3, 3), (2, 2), name="stem")(x)
        x = nn.relu6(batch_norm(name="stem_bn")(x))
        for stage_index, stage in enumerate(self.stages, 1):
            for block_index in range(1, stage.blocks + 1):
                block_stage = stage if block_index == 1 else stage._replace(stride=1)
                x = InvertedResidual(
                    block_stage,
                    convolution,
                    batch_norm,
                    name=f"stage{stage_index}_block{block_index}",
                )(x)
        x = nn.relu6(batch_norm(name="head_bn")(convolution(self.head, (1, 1), name="head")(x)))
        return nn.Dense(self.num_classes, name="fc", **layer_options)(x.mean((1, 2)))


class InvertedResidual(nn.Module):
    """Widens, filters each channel by itself, narrows without an activation, and adds where shapes allow."""

    stage: Stage
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the block."""
        _, kernel, stride, expansion, filters = self.stage
        inner_channels = x.shape[-1] * expansion
        branch = x
        if expansion > 1:
            branch = self.conv(inner_channels, (1, 1), name="expand")(branch)
            branch = nn.relu6(self.norm(name="expand_bn")(branch))
        window_shape = (kernel, kernel)
        strides = (stride, stride)
        branch = self.conv(
            inner_channels,
            window_shape,
            strides,
            feature_group_count=inner_channels,
            name="depthwise",
        )(branch)
        branch = nn.relu6(self.norm(name="depthwise_bn")(branch))
        branch = self.norm(name="project_bn")(self.conv(filters, (1, 1), name="project")(branch))
        return x + branch if x.shape == branch.shape else branch
