"""Reference models of the pruning literature, in Flax linen.

Each model is a function of keyword arguments that returns a Flax module. Its inputs are scaled
floating-point images (for `gpt`: tokens), its outputs are logits. The argument `train` of a module has an
effect only if the module has batch normalisation or dropout. This package also has layers that Flax lacks:
`k_winners` makes the activations of each example sparse; `SReLU` is an activation with trainable slopes.
"""

from jaxprune.nn import _flax as _flax  # isort: skip
from jaxprune.nn.activation import KWinners, activation_sparsity, k_winners, n_of_m
from jaxprune.nn.canonical_conv import conv_general_dilated
from jaxprune.nn.conv import conv_2, conv_4, conv_6
from jaxprune.nn.efficientnet import efficientnet_lite0, efficientnet_lite0_from_torch
from jaxprune.nn.gpt import gpt
from jaxprune.nn.lenet import lenet5_caffe, lenet_300_100
from jaxprune.nn.pooling import max_pool_2x2
from jaxprune.nn.resnet import resnet20, resnet56
from jaxprune.nn.set_mlp import set_mlp
from jaxprune.nn.srelu import SReLU
from jaxprune.nn.vit import vit

__all__ = [
    "KWinners",
    "SReLU",
    "activation_sparsity",
    "conv_2",
    "conv_4",
    "conv_6",
    "conv_general_dilated",
    "efficientnet_lite0",
    "efficientnet_lite0_from_torch",
    "gpt",
    "k_winners",
    "lenet5_caffe",
    "lenet_300_100",
    "max_pool_2x2",
    "n_of_m",
    "resnet20",
    "resnet56",
    "set_mlp",
    "vit",
]


def __dir__() -> list[str]:
    return sorted(__all__)
