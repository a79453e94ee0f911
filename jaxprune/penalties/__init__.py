r"""Penalties: terms that are added to the loss to make weights zero, each with its exact proximal step.

A penalty $P$ is a function of `{path: array}`, the penalised leaves; `jaxprune.proximal` trains with it. Its
proximal step maps weights $v$ to the following, with one step size $\eta_i$ for all weights or one for each:

$$\mathrm{prox}(v) = \arg\min_w P(w) + \sum_i (w_i - v_i)^2 / 2\eta_i.$$

Every strength $\lambda$ is a number or an optax schedule, step -> number; it must never be negative.
Everything is computed in float32 at least and returned in the leaf's own dtype. A NaN stays a NaN.
"""

from jaxprune.penalties.groupwise import coupled as coupled
from jaxprune.penalties.groupwise import group_l2 as group_l2
from jaxprune.penalties.weightwise import elastic as elastic
from jaxprune.penalties.weightwise import l0 as l0
from jaxprune.penalties.weightwise import l1 as l1

__all__ = ["coupled", "elastic", "group_l2", "l0", "l1"]


def __dir__() -> list[str]:
    return sorted(__all__)
