"""What pruning gains, and what it does not: costs that are read off a program or measured."""

from jaxprune.metrics.flops import flops as flops
from jaxprune.metrics.units import units as units

__all__ = ["flops", "units"]
