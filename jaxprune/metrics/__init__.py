"""What pruning gains, and what it does not: costs that are read off a program or measured."""

from jaxprune.metrics.flops import flops as flops

__all__ = ["flops"]
