"""What `config.branches` asks for: tickets, levels, branches, copies; checked before JAX is imported."""

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
    "tickets": {},  # label -> fields of config.lottery in which tickets differ; none: "ticket" alone
    "levels": (),  # of the tickets, from which to branch, 0 is dense; none: every other one
    "branches": {},  # label -> {"masks": ..., "kept": ..., "pruned": ..., "targets": ...}
    "copies": 1,  # trainings of each branch, each with the examples in another order
    "alphas": 30,  # points on the straight line between each two copies
    "temperature": 4.0,  # by which logits are divided where the dense network is the target
}
_TICKET_FIELDS = ("rewind", "rewind_to", "criterion")
_OTHER_MASKS = ("ticket", "shuffled", "shuffled in rows", "shuffled over layers")
AT_INIT = ("SNIP", "GraSP", "SynFlow")
# What the papers find masks on before training: one batch, examples of each class, or no data.
EXAMPLES = 100
EXAMPLES_PER_CLASS = 10
# The names of `jaxprune.lottery.CRITERIA`, which a test compares: this module does without JAX.
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
# "rewound": weights and optimizer go back to the rewinding point. The others begin with update 0.
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
    """What is trained from a level.

    Attributes:
      label: its name in tables.
      masks: one of `MASKS`. Those of a criterion keep as many weights of each layer as the ticket's, and are
        taken at once from the trained dense network. Those of `AT_INIT` are found on the initial weights, and
        keep as many in all, to a part in ten million.
      kept: one of `KEPT`: what the remaining weights begin with; "trained": what the dense network ended
        with.
      pruned: one of `PRUNED`: what pruned weights are, from beginning to end. "towards zero" is how they
        moved while the dense network was trained.
      targets: one of `TARGETS`: what outputs are compared with in training: the labels, or the outputs of
        the trained dense network.
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
    """What a run trains.

    Attributes:
      tickets: the config of the lottery run of each ticket, and the fields of its section, by label.
      levels: from which to branch.
      branches: at each of them.
      copies: of each branch, with the examples in different orders.
      alphas: points on the line between two copies.
      temperature: by which logits are divided where the dense network is the target.
    """

    tickets: Mapping[str, tuple[ConfigDict, dict[str, Any]]]
    levels: tuple[int, ...]
    branches: tuple[Branch, ...]
    copies: int
    alphas: int
    temperature: float

    def levels_of(self, branch: Branch) -> tuple[int, ...]:
        """Returns the levels from which a branch is trained.

        The dense network is one only if something else than masks and pruned weights may differ.
        """
        needs_masks = branch.masks != "ticket" or branch.pruned != "zero"
        return tuple(level for level in self.levels if level or not needs_masks)

    @property
    def training_count(self) -> int:
        """Number of trainings of branches, of one seed."""
        levels_count = sum(len(self.levels_of(branch)) for branch in self.branches)
        return len(self.tickets) * levels_count * self.copies

    def name(self, ticket: str, branch: str | None = None) -> str:
        """Returns what tables and claims call a ticket or a branch of it."""
        if branch is None:
            return ticket
        return branch if len(self.tickets) == 1 else f"{ticket}, {branch}"


def checked(cfg: ConfigDict) -> Plan:
    """Returns what `config.branches` asks for.

    Raises:
      UserError: a field, or `config.lottery`, is not what tickets and their branches can have.
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
    """Refuses masks before training of tickets with a pattern, or on more examples than there are."""
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
