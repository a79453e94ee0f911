"""The fields of configs and their defaults."""

from typing import Any

__all__ = ["DEFAULTS", "DENSE", "SECTIONS"]

DENSE = "dense"  # the label of what stays unpruned, and of the baseline of every comparison

# The fields of every config. A run folder is named after those that differ from these values, so a
# default never changes in place; a new field comes with the value under which old runs were made.
DEFAULTS: dict[str, Any] = {
    "data": None,  # part: a data set of `jaxprune.data`, its batch_size, and augment ("crop_flip")
    "model": None,  # part: a model of `jaxprune.nn`
    "optimizer": None,  # part: an optimizer of optax; its learning_rate may be a part too
    "method": None,  # part: a method of `jaxprune.methods`; None trains the dense model
    "gate": None,  # part: instead of a method, a gate of `jaxprune.gates`
    "penalty": None,  # part: instead, a penalty of `jaxprune.penalties`, in proximal steps
    "subgradient": None,  # part: instead, a penalty whose subgradient is added to the gradients
    "preconditioner": None,  # part of `jaxprune.preconditioners`: for proximal steps per coordinate
    "gate_optimizer": None,  # part: an optimizer for the gates alone; None: that of the weights
    "ema": 0.0,  # decay of the average of weights and gates that is evaluated; 0: there is none
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
    "lottery": {},  # levels, rewinding and controls of `experiments.lottery`: see SECTIONS
    "compare": {},  # who is compared by `experiments.compare`, and where: see SECTIONS
    "sensitivity": {},  # what `experiments.sensitivity` measures and searches: see SECTIONS
    "posttrain": {},  # what `experiments.posttrain` does to a trained model: see SECTIONS
    "paper": {},  # citation, table, number; accept: claims for `experiments.report` to check
}

# The fields of what belongs to one binary. A config holds those that it sets.
SECTIONS: dict[str, dict[str, Any]] = {
    "lottery": {
        "rounds": 12,  # how often the network is pruned
        "rewind_to": 0,  # updates to the rewinding point; 0 is the initialisation
        "rewind": "weights",  # or "learning_rate", "finetune"
        "controls": ("reinit",),  # and "shuffled"
        "repeats": 1,  # of each control at each level
    },
    "compare": {
        "sparsities": (0.5, 0.75, 0.875, 0.9375, 0.96875),  # 2, 4, ..., 32 times fewer weights
        "methods": {},  # label -> part: a method of `jaxprune.methods` without its sparsity
        "gates": {},  # label -> part: a gate of `jaxprune.gates` without its sparsity or strength
        "penalties": {},  # label -> part: a penalty without its strength, in proximal steps
        "subgradients": {},  # label -> part: likewise, added to the gradients
        "strengths": {},  # label -> the strengths of a gate or penalty, instead of sparsities
        "criteria": (),  # names, or "path/to/file.py:function"; or label -> one of those, a part, or a dict
        "pipeline": {},  # what all criteria share: see `experiments.ways.pipeline`
        "controls": (),  # of everybody's masks, trained anew: "retrained", "shuffled", "reinit"
    },
    "sensitivity": {
        "criterion": "magnitude",  # name, part, or "path/to/file.py:function"
        "pattern": None,  # part
        "sparsities": (
            0.2,
            0.4,
            0.6,
            0.7,
            0.8,
            0.85,
            0.9,
            0.925,
            0.95,
            0.97,
            0.98,
            0.99,
        ),  # of each leaf
        "cost": "flops",  # or "weights": what the budget is counted in
        "keep": (0.2, 0.1, 0.05),  # targets: fractions of the cost that may be left
        "tolerance": 0.01,  # of validation accuracy, for one more search; 0: none
        "examples": 1_000,  # training examples that the criterion's signals are gathered on
    },
    "posttrain": {
        "model": "smollm2-135m",  # of `jaxprune.models`, a file, a folder, or "path/to/file.py:function"
        "rows": {},  # label -> dict(solver=part, pattern=part, rates=fraction or part, recover=part)
        "calibration": 16,  # windows
        "validation": 4,  # windows, for the errors of layers; 0: these are not measured
        "test": 16,  # windows
        "length": 512,  # tokens of a window
        "batch": 2,  # windows at a time
        "prunable": "",  # regular expression, searched in paths; "": all kernels of products
        "exclude": "embed|head",  # the same, of those that are left alone; "": none
    },
}
