"""Image classification data as uint8 arrays: data sets of TFDS, read without TensorFlow, and synthetic twins.

`fetch` prepares a data set once, from the first source that has it. `load` returns it as arrays, in the
order of TFDS. `fetch_weights` and `load_weights` do the same for the weights of trained networks.
`fetch_text` fetches the text that `jaxprune.models.text` reads.

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
