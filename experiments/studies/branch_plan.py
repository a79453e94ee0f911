"""The section `config.branches`: tickets, levels, branches, copies; checked before JAX is imported."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.config import UserError, check_type, training_examples, unknown
from experiments.config.ranges import MOST_STEPS
from experiments.config.sections import check_integer, check_sequence, section_of
from experiments.runs.labels import check_label
from experiments.studies import lottery

__all__ = [
    "AT_INIT",
    "EXAMPLES",
    "EXAMPLES_PER_CLASS",
    "FIELDS",
    "KEPT",
    "MASKS",
    "PRUNED",
    "TARGETS",
    "Branch",
    "Plan",
    "checked",
]

FIELDS: dict[str, Any] = {
    # label -> dict of the fields of config.lottery that this ticket replaces: rewind, rewind_to, criterion;
    # {}: one ticket with the label "ticket", as config.lottery says
    "tickets": {},
    # indices of the tickets' levels from which branches are trained, 0 is dense; (): all levels but 0
    "levels": (),
    "branches": {},  # label -> {"masks": ..., "kept": ..., "pruned": ..., "targets": ...}: see `Branch`
    "copies": 1,  # trainings of each branch, each with another order of the examples
    "alphas": 30,  # points on the straight line between two copies' weights, at which the error is measured
    "temperature": 4.0,  # divides the logits of branches with the targets "dense network"
}
_TICKET_FIELDS = ("rewind", "rewind_to", "criterion")
_OTHER_MASKS = ("ticket", "shuffled", "shuffled in rows", "shuffled over layers")
AT_INIT = ("SNIP", "GraSP", "SynFlow")
# Examples on which the papers find these masks: SNIP one batch, GraSP some of each class, SynFlow no data.
EXAMPLES = 100
EXAMPLES_PER_CLASS = 10
# The names of `jaxprune.lottery.CRITERIA`, copied so that JAX is not imported here; a test compares them.
_CRITERIA = (
    "large_final",
    "small_final",
    "large_init",
    "small_init",
    "large_init_large_final",
    "small_init_small_final",
    "magnitude_increase",
    "movement",
    "large_final_same_sign",
    "random",
)
MASKS = (*_OTHER_MASKS, *AT_INIT, *_CRITERIA)
# "rewound": weights and optimizer go back to the rewinding point. All others begin at update 0.
KEPT = (
    "rewound",
    "reinit",
    "reinit, same sign",
    "reshuffle",
    "reshuffle, same sign",
    "constant, random sign",
    "constant, same sign",
    "trained",
)
PRUNED = ("zero", "initial", "zero if towards zero")
TARGETS = ("labels", "dense network")
_DENSE = "dense"


class Branch(NamedTuple):
    """A branch: a training that starts from a level of a ticket.

    Attributes:
      label: its name in tables.
      masks: one of `MASKS`. The masks of a criterion are taken from the trained dense network in one cut,
        and keep as many weights in each layer as the ticket's masks. The masks of `AT_INIT` are found on the
        initial weights, and keep as many weights in all layers together, to a part in ten million.
      kept: one of `KEPT`: the values with which the remaining weights begin; "trained": the final values of
        the dense network.
      pruned: one of `PRUNED`: the values of the pruned weights, constant during training. "zero if towards
        zero": zero if the weight moved towards zero while the dense network was trained, otherwise its
        initial value.
      targets: one of `TARGETS`: what the loss compares the outputs with: the labels, or the outputs of the
        trained dense network.
    """

    label: str
    masks: str = "ticket"
    kept: str = "rewound"
    pruned: str = "zero"
    targets: str = "labels"

    def __str__(self) -> str:
        return (
            f"masks {self.masks}; kept weights {self.kept}; pruned weights {self.pruned}; "
            f"targets {self.targets}"
        )


class Plan(NamedTuple):
    """The trainings of a run.

    Attributes:
      tickets: label -> (config of the ticket's lottery run, its `config.lottery` with defaults).
      levels: indices of the levels from which branches are trained, ascending.
      branches: the branches that are trained from each level.
      copies: number of trainings of each branch, with different orders of the examples.
      alphas: number of points on the line between two copies.
      temperature: divides the logits where the dense network is the target.
    """

    tickets: Mapping[str, tuple[ConfigDict, dict[str, Any]]]
    levels: tuple[int, ...]
    branches: tuple[Branch, ...]
    copies: int
    alphas: int
    temperature: float

    def levels_of(self, branch: Branch) -> tuple[int, ...]:
        """Returns the levels from which a branch is trained.

        Level 0 is left out if the branch changes masks or pruned weights, since nothing is pruned there.
        """
        needs_masks = branch.masks != "ticket" or branch.pruned != "zero"
        return tuple(level for level in self.levels if level or not needs_masks)

    @property
    def training_count(self) -> int:
        """Number of branch trainings for one seed."""
        levels_count = sum(len(self.levels_of(branch)) for branch in self.branches)
        return len(self.tickets) * levels_count * self.copies

    def name(self, ticket: str, branch: str | None = None) -> str:
        """Returns the name of a ticket, or of one of its branches, in tables and claims."""
        if branch is None:
            return ticket
        return branch if len(self.tickets) == 1 else f"{ticket}, {branch}"


def checked(cfg: ConfigDict) -> Plan:
    """Returns the plan of `config.branches`, checked.

    Raises:
      UserError: a field of `config.branches` or `config.lottery` is not valid for tickets and branches.
    """
    section = section_of(cfg, "branches", FIELDS)
    where = "config.branches"
    check_integer(section["copies"], f"{where}.copies", least=1)
    check_integer(section["alphas"], f"{where}.alphas", least=2)
    check_type("float", section["temperature"], f"{where}.temperature")
    if not 0.01 <= section["temperature"] <= 1000:
        raise UserError(
            f"{where}.temperature={section['temperature']}: a number from 0.01 to 1000 is needed."
        )
    tickets = {
        label: _ticket(cfg, changes, f"{where}.tickets.{label}")
        for label, changes in _labelled(section["tickets"] or {"ticket": {}}, f"{where}.tickets")
    }
    rounds = lottery.checked(cfg)["rounds"]
    levels = tuple(_levels(section["levels"], rounds)) or tuple(range(1, rounds + 1))
    branches = tuple(
        _branch(label, spec, f"{where}.branches.{label}")
        for label, spec in _labelled(section["branches"], f"{where}.branches")
    )
    plan = Plan(
        tickets, levels, branches, section["copies"], section["alphas"], section["temperature"]
    )
    names = [_DENSE, *tickets]
    names += [plan.name(ticket, branch.label) for ticket in tickets for branch in branches]
    taken = next((name for name in names if names.count(name) > 1), None)
    if taken is not None:
        raise UserError(f"{where}: the label {taken!r} is taken; choose another.")
    folders = [label.casefold() for label in (*tickets, *(branch.label for branch in branches))]
    if len(set(folders)) < len(folders):
        raise UserError(f"{where}: two labels are one folder where letters' case does not count.")
    _check_at_init(cfg, branches, where)
    is_distilled = any(branch.targets == "dense network" for branch in branches)
    if "temperature" in cfg.branches and not is_distilled:
        raise UserError(
            f'{where}.temperature: no branch has "targets": "dense network"; leave it out.'
        )
    for branch in branches:
        if not plan.levels_of(branch):
            raise UserError(
                f"{where}.branches.{branch.label}: at level 0 nothing is pruned; add a later one to "
                f"{where}.levels."
            )
    if cfg.steps * plan.training_count > MOST_STEPS:
        raise UserError(f"config.steps={cfg.steps}: more than {MOST_STEPS} updates in all.")
    return plan


def _check_at_init(cfg: ConfigDict, branches: Sequence[Branch], where: str) -> None:
    """Refuses masks of `AT_INIT` if the method has a pattern, or too few training examples exist."""
    found = [branch for branch in branches if branch.masks in AT_INIT]
    if not found:
        return
    place = f"{where}.branches.{found[0].label}.masks={found[0].masks!r}"
    if cfg.method and cfg.method.get("pattern"):
        raise UserError(
            f"{place}: these masks choose weights one by one, but config.method has a pattern; leave "
            "this branch out."
        )
    known = training_examples(cfg.data.name)
    if known is not None and known - cfg.validation < EXAMPLES:
        raise UserError(
            f"{place}: {EXAMPLES} examples are needed, and there are {known - cfg.validation} in training."
        )


def _ticket(cfg: ConfigDict, changes: Any, where: str) -> tuple[ConfigDict, dict[str, Any]]:
    """Returns the config of a ticket's own lottery run, and its section."""
    if not hasattr(changes, "items"):
        raise UserError(f"{where}={changes!r}: a dict of fields of config.lottery is needed.")
    for name in changes:
        if name not in _TICKET_FIELDS:
            raise UserError(
                unknown(f"{where}: tickets cannot differ in", name, _TICKET_FIELDS, "They can in")
            )
    own = cfg.copy_and_resolve_references()
    with own.unlocked():
        own.branches = ConfigDict()
        own.paper = ConfigDict()
        own.lottery = ConfigDict({**cfg.lottery.to_dict(), **dict(changes)})
    return own, lottery.checked(own)


def _levels(levels: Any, rounds: int) -> tuple[int, ...]:
    where = "config.branches.levels"
    check_sequence(levels, where)
    for level in levels:
        check_integer(level, where, least=0)
        if level > rounds:
            raise UserError(
                f"{where}={tuple(levels)}: the last level is {rounds}, config.lottery.rounds."
            )
    if len(set(levels)) < len(levels):
        raise UserError(f"{where}={tuple(levels)}: each level once.")
    return tuple(sorted(levels))


def _labelled(section: Any, where: str) -> list[tuple[str, Any]]:
    if not hasattr(section, "items"):
        raise UserError(f"{where}={section!r}: a dict of label -> fields is needed.")
    for label in section:
        check_label(label, where)
    return list(section.items())


def _branch(label: str, spec: Any, where: str) -> Branch:
    if not hasattr(spec, "items"):
        raise UserError(f"{where}={spec!r}: a dict of {', '.join(_KNOWN)} is needed.")
    for name, value in spec.items():
        if name not in _KNOWN:
            raise UserError(unknown(f"{where}: no field", name, _KNOWN, "Fields"))
        if value not in _KNOWN[name]:
            raise UserError(unknown(f"{where}.{name}: there is no", value, _KNOWN[name], "Known"))
    return Branch(label, **dict(spec))


_KNOWN = {"masks": MASKS, "kept": KEPT, "pruned": PRUNED, "targets": TARGETS}
