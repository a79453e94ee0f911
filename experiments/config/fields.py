"""The fields of configs and their defaults; the tables of studies and of ways to become sparse."""

from typing import Any, NamedTuple

__all__ = ["DEFAULTS", "DENSE", "STUDIES", "WAYS", "Way"]

DENSE = "dense"  # the label of what stays unpruned, and of the baseline of every comparison


class Way(NamedTuple):
    """A way to become sparse, as configs name it; what it does is in `experiments/ways`, by its field's name.

    Attributes:
      kind: of the part that says how (`experiments.config.parts`).
      plural: the field of `config.compare` that holds several by label.
      words: what a report says before the part.
      has_strength: whether a comparison may give strengths instead of sparsities.
      leaves_masks: whether a training ends with masks that a control can take over.
    """

    kind: str
    plural: str
    words: str = ""
    has_strength: bool = False
    leaves_masks: bool = True


# A study is a file of `experiments/studies`; "train" has no section in a config, all others have one.
STUDIES = ("train", "lottery", "branches", "compare", "sensitivity", "posttrain")
# Field of a config -> way. The last two take the same parts: proximal steps of a penalty, or its subgradient.
WAYS = {
    "method": Way("method", "methods"),
    "gate": Way("gate", "gates", "gate", has_strength=True),
    "penalty": Way("penalty", "penalties", "proximal steps of", has_strength=True),
    "subgradient": Way(
        "penalty", "subgradients", "subgradient of", has_strength=True, leaves_masks=False
    ),
}

# The fields of every config. A run folder is named after those that differ from these values, so a
# default never changes in place; a new field comes with the value under which old runs were made.
DEFAULTS: dict[str, Any] = {
    "data": None,  # part: a data set of `jaxprune.data`, its batch_size, and augment ("crop_flip")
    "normalize": False,  # True: inputs standardised by the training split's moments, not only in [0, 1]
    "model": None,  # part: a model of `jaxprune.nn`
    "optimizer": None,  # part: an optimizer of optax; its learning_rate may be a part too
    **dict.fromkeys(WAYS),  # part: how the model becomes sparse, one at most; none: it stays dense
    "preconditioner": None,  # part of `jaxprune.preconditioners`: for proximal steps per coordinate
    "gate_optimizer": None,  # part: an optimizer for the gates alone; None: that of the weights
    "ema": 0.0,  # decay of the average of weights and gates that is evaluated; 0: there is none
    "pretraining": {},  # of a comparison's networks on other data: see experiments/config/pretraining.py
    "prunable": "",  # regular expression, searched in the paths of leaves; "": all but biases and statistics
    "steps": 10_000,  # updates; per level for a lottery ticket
    "seeds": (0,),  # one run each: initial weights, order of examples, validation split
    "validation": 5_000,  # training examples held out, 0 for none
    "k_folds": 0,  # at least 2: cross-validation over this many folds instead of one hold-out
    "early_stop": 0,  # evaluations without a lower validation loss after which to stop; 0: never
    "eval_every": 200,  # steps between two evaluations on the validation data
    "save_every": 1_000,  # steps between two checkpoints
    "log_every": 100,  # steps between two rows of training metrics
    "writers": ("csv",),  # CSV and JSON lines always, "tb" and "wandb" if asked for
    **{study: {} for study in STUDIES if study != "train"},  # sections: see experiments/studies
    # citation, table, number, departures, against; accept: claims, see `experiments.reports.claims`
    "paper": {},
}
