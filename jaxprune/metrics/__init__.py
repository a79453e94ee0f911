"""Metrics of pruned networks: operations, run times, effective weights, units left, and N:M checks."""

from jaxprune.metrics.effective import effective as effective
from jaxprune.metrics.flops import flops as flops
from jaxprune.metrics.flops import total_flops as total_flops
from jaxprune.metrics.nm import check_nm as check_nm
from jaxprune.metrics.nm import nm_faults as nm_faults
from jaxprune.metrics.units import units as units

__all__ = ["check_nm", "effective", "flops", "nm_faults", "total_flops", "units"]


def __dir__() -> list[str]:
    return sorted(__all__)
