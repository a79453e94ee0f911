"""The fields of a config with their defaults, the studies, and the ways in which a network becomes sparse."""

from typing import Any, NamedTuple

__all__ = ["DEFAULTS", "DENSE", "STUDIES", "WAYS", "Way"]

DENSE = "dense"  # label of the unpruned network, the baseline of every comparison


class Way(NamedTuple):
    """A way in which a network becomes sparse: a field of the config, implemented in `experiments/ways`.

    Attributes:
      kind: the kind of part that the field holds (`experiments.config.parts`).
      plural: the field of `config.compare` that holds a dict of such parts, by label.
      words: the words that a report puts before the part's name.
      has_strength: whether a comparison may vary a strength instead of the sparsity.
      leaves_masks: whether the training ends with masks, on which a control can train.
    """

    kind: str
    plural: str
    words: str = ""
    has_strength: bool = False
    leaves_masks: bool = True


# Each study is a file in `experiments/studies`. Each has a section in a config, except "train".
STUDIES = ("train", "lottery", "branches", "compare", "sensitivity", "posttrain")
# Field of a config -> way. "penalty" and "subgradient" take the same parts, the functions of
# `jaxprune.penalties`: the first takes proximal steps, the second adds the subgradient to the gradient.
WAYS = {
    "method": Way("method", "methods"),
    "gate": Way("gate", "gates", "gate", has_strength=True),
    "penalty": Way("penalty", "penalties", "proximal steps of", has_strength=True),
    "subgradient": Way(
        "penalty", "subgradients", "subgradient of", has_strength=True, leaves_masks=False
    ),
}

# The fields of every config. A "part" is `part(name, **arguments)`: a public function and its arguments.
# One step is one update of the weights. A run folder is named after the fields that differ from these
# defaults, so a default must never change. The default of a new field is the value that old runs had.
DEFAULTS: dict[str, Any] = {
    # part: a data set of `jaxprune.data`, with the arguments batch_size and augment ("crop_flip", or "" for
    # no augmentation)
    "data": None,
    # False: inputs in [0, 1]. True: each channel is standardised by its mean and standard deviation over
    # the training split
    "normalize": False,
    "model": None,  # part: a model of `jaxprune.nn`
    "optimizer": None,  # part: an optimizer of optax; its learning_rate: a number, or a part (a schedule)
    # method, gate, penalty, subgradient: how the model becomes sparse. At most one is set, to a part. If all
    # are None, the model stays dense.
    **dict.fromkeys(WAYS),
    # part: a function of `jaxprune.preconditioners`; with penalty, it scales the proximal step of each weight
    "preconditioner": None,
    "gate_optimizer": None,  # part: an optimizer for the gates alone; None: `optimizer`
    # decay per step of a moving average of weights and gates. The average is evaluated in their place. 0: no
    # average.
    "ema": 0.0,
    "pretraining": {},  # training on other data before a comparison: see experiments/config/pretraining.py
    # regular expression, searched in the path of each parameter: parameters that match may be pruned; "":
    # all kernels
    "prunable": "",
    "steps": 10_000,  # number of updates; for a lottery ticket, the number per level
    # one run for each seed, which sets initial weights, order of examples and validation split
    "seeds": (0,),
    "validation": 5_000,  # number of training examples held out as validation data; 0: none
    "k_folds": 0,  # at least 2: cross-validation over this many folds, in place of `validation`; 0: none
    # training stops after this many evaluations in a row without a new least validation loss; 0: never
    "early_stop": 0,
    "eval_every": 200,  # steps between two evaluations on the validation data
    "save_every": 1_000,  # steps between two checkpoints
    "log_every": 100,  # steps between two rows of training metrics
    # of "csv", "tb" (TensorBoard) and "wandb" (Weights & Biases); CSV and JSON lines are always written
    "writers": ("csv",),
    # one section for each study; its fields are FIELDS of that study in experiments/studies (for compare in
    # contestants.py, for branches in branch_plan.py)
    **{study: {} for study in STUDIES if study != "train"},
    # the published result: citation, table, number, departures, against; and accept: a list of claims. The
    # report shows them and checks the claims (see `experiments.reports.claims`).
    "paper": {},
}
