"""The data sets by name, with the properties of each that are known before anything is read.

Pure Python without imports from this package: `experiments.data` runs this file by itself to answer
`--help` and misspelt names without importing JAX.
"""

import difflib
from typing import NamedTuple


class Entry(NamedTuple):
    """Properties that a data set must have once it is prepared.

    Attributes:
      version: the version of its TFDS builder, which also names its folder.
      input_shape: height, width, channels.
      train: training examples per class.
      test: test examples per class.
      sha256: of the training and test inputs in TFDS order, where that is known for certain.
    """

    version: str
    input_shape: tuple[int, int, int]
    train: tuple[int, ...]
    test: tuple[int, ...]
    sha256: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.train)


REAL = {
    "mnist": Entry(
        "3.0.1",
        (28, 28, 1),
        (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
        (
            "56caaeeaff351787c01c928a4885892b15f66fbcf5a7df686f7e4c382df6b95a",
            "9c7ad0d62005ebe681db29a38c1a273ec1873936a2ad81576895a0c2ab72e300",
        ),
    ),
    "fashion_mnist": Entry(
        "3.0.1",
        (28, 28, 1),
        (6000,) * 10,
        (1000,) * 10,
        (
            "4a23f17290c87b03100e1a6d2ef2cd0eeb238fdeb06880e8741a964f1e3b5ced",
            "244fff00b1eae69d6fcc611c3132006f665ef834d5e5fa1e04c2860232da2c37",
        ),
    ),
    "cifar10": Entry("3.0.2", (32, 32, 3), (5000,) * 10, (1000,) * 10),
    "cifar10_jpeg75": Entry("1.0.0", (32, 32, 3), (5000,) * 10, (1000,) * 10),
}
PREFIX = "synthetic_"
NAMES = (*REAL, *(PREFIX + name for name in REAL))
WEIGHTS = ("efficientnet_lite0", "smollm2-135m")  # of trained networks, see `pretrained`
TEXTS = ("wikipedia",)  # see `texts`


def find(name: str) -> Entry:
    """Returns the entry of a data set, or of the one that a synthetic twin imitates.

    Args:
      name: one of `NAMES`.

    Raises:
      ValueError: the name is unknown; the message gives the nearest known one.

    >>> find("synthetic_mnist").input_shape
    (28, 28, 1)
    >>> find("mnits")
    Traceback (most recent call last):
    ValueError: unknown data set 'mnits', did you mean 'mnist'? Known: mnist, fashion_mnist, ...
    """
    if name not in NAMES:
        nearest = difflib.get_close_matches(str(name), NAMES, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"unknown data set {name!r}, did you mean {nearest!r}? Known: {', '.join(NAMES)}."
        )
    return REAL[name.removeprefix(PREFIX)]
