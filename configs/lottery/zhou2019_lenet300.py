"""Which part of a ticket makes it accurate: masks, signs, or zeros of pruned weights; LeNet-300-100, MNIST.

Paper: Zhou, Lan, Liu & Yosinski, "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask" (2019).
Remaining weights may begin with any values of the right sign, even constants. Without the signs they train
like a random reinitialisation. It is better to set pruned weights to zero than to freeze them at their
initial values, and best to set to zero only those that moved towards zero. Masks of large final weights, or
of weights that grew, are good masks. Without training, masks of large weights that kept their sign reach at
most about 86 %.
Protocol: that of `lenet300_mnist.py`; a finished run of its `:one_reinit` in the work folder, with its levels
kept, is used again: 50,000 updates of 60 examples, Adam 1.2e-3, 5 tickets. `actions`: from 21.1 and 3.6 % of
the weights, each action alone is changed; masks by other criteria are taken in one cut from the trained dense
network, with the ticket's number of weights in each layer. `criteria`: a ticket of its own for each
criterion, pruned in 15 rounds like the paper's.
Departures: ties are not broken at random; whether a pruned weight moved towards zero is judged by the
training of the dense network; constants are the measured standard deviation of a layer's initial weights.

Ours, `actions`, five seeds (1.9 CPU-hours, after 1.5 for the tickets). With 3.6 % of the weights (ticket
98.12 %, dense 98.14): signs kept, with new values 97.97, shuffled values 98.02, constants 98.01; signs lost,
in the same order 97.03, 97.11, 96.96. Pruned weights frozen at their initial values 97.87. Masks taken in one
cut: large_final 96.89, magnitude_increase 96.97, movement 96.79, random 95.99, small_init_small_final 94.06.
At 21.1 % all are closer: five claims hold, six are open. Without training, large_final_same_sign reaches
79.3 % at 21.1 %.
Cost, estimated: criteria 5 seeds x 9 tickets x 16 levels x 50,000 updates x 0.7 ms, 7 hours on one core.

Run: python -m experiments.branches --config=configs/lottery/zhou2019_lenet300.py   actions
     python -m experiments.branches --config=configs/lottery/zhou2019_lenet300.py:criteria  criteria
"""

import runpy
from pathlib import Path

REMAINING = 0.211
KEPT = (
    "reinit",
    "reinit, same sign",
    "reshuffle",
    "reshuffle, same sign",
    "constant, random sign",
    "constant, same sign",
)
CRITERIA = {  # of the paper -> of `jaxprune.criteria`
    "large_final": "magnitude",
    "small_final": "small_final",
    "large_init": "large_init",
    "small_init": "small_init",
    "large_init_large_final": "large_init_large_final",
    "small_init_small_final": "small_init_small_final",
    "magnitude_increase": "magnitude_increase",
    "movement": "weight_change",
    "random": "random",
}


def get_config(what="actions"):
    faithful = runpy.run_path(str(Path(__file__).with_name("lenet300_mnist.py")))
    cfg = faithful["get_config"]("one_reinit")
    section, claims = {"actions": _actions, "criteria": _criteria}[what]()
    with cfg.unlocked():
        if what == "criteria":
            cfg.lottery = {"rounds": 15, "controls": ()}
        cfg.branches = section
        cfg.paper = {"citation": "Zhou et al. 2019", "against": "order", "accept": claims}
    return cfg


def _actions():
    branches = {kept: {"kept": kept} for kept in KEPT}
    branches |= {name: {"masks": name} for name in (*CRITERIA, "large_final_same_sign")}
    branches |= {
        "pruned at init": {"pruned": "initial"},
        "pruned, zero if towards zero": {"pruned": "zero if towards zero"},
        "shuffled in rows": {"masks": "shuffled in rows"},
    }
    same_sign = [
        _better(kept, "ticket", -0.001, "the sign is all that is needed")
        for kept in KEPT
        if kept.endswith("same sign")
    ]
    claims = [
        *same_sign,
        _better("ticket", "constant, random sign", 0.0, "without signs no better than reinit"),
        _better("reinit, same sign", "reinit", 0.0, "signs matter"),
        _better("ticket", "pruned at init", 0.0, "frozen pruned weights are worse than zeros"),
        _better("pruned, zero if towards zero", "ticket", -0.001, "zeros where weights went there"),
        _better("large_final", "random", 0.0, "large final weights make good masks"),
        _better("large_final", "small_final", 0.0, "large final weights make good masks"),
        _better("magnitude_increase", "large_final", -0.001, "as good as large_final"),
        {
            **_better("large_final_same_sign", "random", 0.0, "86 % untrained, at its best"),
            "name": "large_final_same_sign beats random before training",
            "metric": "untrained_accuracy",
        },
    ]
    return {"levels": (7, 15), "branches": branches}, claims


def _criteria():
    claims = [
        _better("large_final", "random", 0.0, "large final weights make good masks"),
        _better("large_final", "small_final", 0.0, "large final weights make good masks"),
        _better("large_final", "large_init", 0.0, "large final weights make good masks"),
        _better("magnitude_increase", "large_final", -0.001, "as good as large_final"),
        _better("movement", "random", 0.0, "better than chance"),
    ]
    tickets = {name: {"criterion": criterion} for name, criterion in CRITERIA.items()}
    return {"tickets": tickets}, claims


def _better(a, b, bound, published):
    relation = "beats" if bound >= 0 else "is no worse than"
    return {
        "name": f"{a} {relation} {b} at 21.1 %",
        "kind": "lower_bound",
        "a": a,
        "b": b,
        "remaining": REMAINING,
        "metric": "test_final",
        "bound": bound,
        "published": published,
    }
