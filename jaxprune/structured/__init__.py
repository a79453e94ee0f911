"""Structured pruning of any JAX function: groups from its program, masks of whole units, smaller arrays."""

from jaxprune.coupling import Group as Group
from jaxprune.coupling import Member as Member
from jaxprune.structured import rules as rules
from jaxprune.structured.costs import flops as flops
from jaxprune.structured.costs import latency as latency
from jaxprune.structured.costs import parameters as parameters
from jaxprune.structured.depth import Block as Block
from jaxprune.structured.depth import blocks as blocks
from jaxprune.structured.depth import influence as influence
from jaxprune.structured.depth import without_blocks as without_blocks
from jaxprune.structured.export import Loaded as Loaded
from jaxprune.structured.export import load as load
from jaxprune.structured.export import save as save
from jaxprune.structured.fold import Folded as Folded
from jaxprune.structured.fold import fold as fold
from jaxprune.structured.graph import Graph as Graph
from jaxprune.structured.graph import trace as trace
from jaxprune.structured.pattern import coupled as coupled
from jaxprune.structured.picture import picture as picture
from jaxprune.structured.pinned import pinned as pinned
from jaxprune.structured.plan import Plan as Plan
from jaxprune.structured.prune import prune as prune
from jaxprune.structured.report import Report as Report
from jaxprune.structured.report import report as report
from jaxprune.structured.scores import scores as scores
from jaxprune.structured.shrink import Small as Small
from jaxprune.structured.shrink import shrink as shrink
from jaxprune.structured.smaller import Smaller as Smaller
from jaxprune.structured.smaller import SmallerReport as SmallerReport
from jaxprune.structured.smaller import smaller as smaller
from jaxprune.structured.verification import verify as verify

__all__ = [
    "Block",
    "Folded",
    "Graph",
    "Group",
    "Loaded",
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
