"""Values that run through a program with nothing but additions on their way, as residual streams do."""

from collections.abc import Iterable, Sequence

from jaxprune.structured.rules import Step

__all__ = ["SUMS", "runs_through"]

SUMS = ("add", "add_any")
_UNCHANGED = ("copy", "copy_p", "optimization_barrier", "reshard", "sharding_constraint")


def runs_through(
    steps: Sequence[Step], start: int, end: int | None, sources: Iterable[int]
) -> bool:
    """Whether a value comes out as it went in, plus branches that some of the other inputs bring about.

    Args:
      steps: of the program.
      start, end: numbers of what goes in and comes out.
      sources: numbers of the inputs of which each branch must read one.
    """
    writer = {number: step for step in steps for number in step.writes}
    fed = set(sources)
    for step in steps:
        if not fed.isdisjoint(step.reads):
            fed.update(step.writes)
    open_, seen = [end], set()
    while open_:
        number = open_.pop()
        if number == start:
            return True
        if number in seen or number not in writer:
            continue
        seen.add(number)
        step = writer[number]
        name, reads = step.equation.primitive.name, step.reads
        if name in SUMS and None not in reads:
            a, b = ([len(axis) for axis in axes] for axes in step.inputs)
            if a == b:
                open_ += [x for x, branch in (reads, reads[::-1]) if branch in fed]
        elif name in _UNCHANGED and len(reads) == 1:
            open_.append(reads[0])
    return False
