"""Image classification data: TFDS without TensorFlow as uint8 arrays, each with a synthetic twin.

`fetch` prepares a data set once, from whatever source there is; `load` gives it as arrays, in
TFDS's order. `fetch_weights` and `load_weights` do the same for the weights of trained networks,
`fetch_text` for what `jaxprune.models.text` reads.

>>> train, test, *_ = load("synthetic_mnist")
>>> train, validation = split(train, 500, seed=0)
>>> train.inputs.shape, validation.labels.shape
((1548, 28, 28, 1), (500,))
"""

from jaxprune.data.arrays import Dataset, Split, moments
from jaxprune.data.catalogue import NAMES
from jaxprune.data.prepared import fetch, load
from jaxprune.data.pretrained import fetch_weights, load_weights
from jaxprune.data.splits import k_folds, split
from jaxprune.data.texts import fetch_text

__all__ = [
    "NAMES",
    "Dataset",
    "Split",
    "fetch",
    "fetch_text",
    "fetch_weights",
    "k_folds",
    "load",
    "load_weights",
    "moments",
    "split",
]


def __dir__() -> list[str]:
    return sorted(__all__)
