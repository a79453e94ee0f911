"""Structured pruning of any JAX function: groups from its program, masks of whole units, smaller arrays."""

from jaxprune.structured.graph import Graph as Graph
from jaxprune.structured.graph import Group as Group
from jaxprune.structured.graph import Member as Member
from jaxprune.structured.graph import trace as trace
from jaxprune.structured.prune import prune as prune
from jaxprune.structured.prune import scores as scores
from jaxprune.structured.shrink import Small as Small
from jaxprune.structured.shrink import shrink as shrink
from jaxprune.structured.shrink import verify as verify

__all__ = ["Graph", "Group", "Member", "Small", "prune", "scores", "shrink", "trace", "verify"]
