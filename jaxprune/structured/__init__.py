"""Structured pruning of any JAX function: groups from its program, masks of whole units, smaller arrays."""

from jaxprune.structured.costs import flops as flops
from jaxprune.structured.costs import latency as latency
from jaxprune.structured.costs import parameters as parameters
from jaxprune.structured.graph import rules as rules
from jaxprune.structured.graph.blocks import Block as Block
from jaxprune.structured.graph.blocks import blocks as blocks
from jaxprune.structured.graph.blocks import influence as influence
from jaxprune.structured.graph.blocks import without_blocks as without_blocks
from jaxprune.structured.graph.coupled import coupled as coupled
from jaxprune.structured.graph.graph import Graph as Graph
from jaxprune.structured.graph.graph import trace as trace
from jaxprune.structured.graph.pinned import pinned as pinned
from jaxprune.structured.picture import picture as picture
from jaxprune.structured.prune import prune as prune
from jaxprune.structured.report import Report as Report
from jaxprune.structured.report import report as report
from jaxprune.structured.scores import scores as scores
from jaxprune.structured.shrinking.fold import FoldResult as FoldResult
from jaxprune.structured.shrinking.fold import fold as fold
from jaxprune.structured.shrinking.plan import Plan as Plan
from jaxprune.structured.shrinking.saved import LoadedModel as LoadedModel
from jaxprune.structured.shrinking.saved import load as load
from jaxprune.structured.shrinking.saved import save as save
from jaxprune.structured.shrinking.shrink import Small as Small
from jaxprune.structured.shrinking.shrink import shrink as shrink
from jaxprune.structured.shrinking.smaller import Smaller as Smaller
from jaxprune.structured.shrinking.smaller import SmallerReport as SmallerReport
from jaxprune.structured.shrinking.smaller import smaller as smaller
from jaxprune.structured.shrinking.verification import verify as verify
from jaxprune.units.coupling import Group as Group
from jaxprune.units.coupling import Member as Member

__all__ = [
    "Block",
    "FoldResult",
    "Graph",
    "Group",
    "LoadedModel",
    "Member",
    "Plan",
    "Report",
    "Small",
    "Smaller",
    "SmallerReport",
    "blocks",
    "coupled",
    "flops",
    "fold",
    "influence",
    "latency",
    "load",
    "parameters",
    "picture",
    "pinned",
    "prune",
    "report",
    "rules",
    "save",
    "scores",
    "shrink",
    "smaller",
    "trace",
    "verify",
    "without_blocks",
]


def __dir__() -> list[str]:
    return sorted(__all__)
