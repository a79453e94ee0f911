"""Gates: trainable numbers beside the parameters that decide which weights take part.

    gate = jaxprune.gates.hard_concrete(pattern=jaxprune.patterns.channel(axis=-2))
    theta = gate.init(params, key)                                  # Gated(params, gates)
    tx = optax.chain(optax.adam(1e-3), gate.project())              # one optimizer for both
    objective = lambda theta: loss(gate.sample(theta, key)) + gate.penalty(theta)
    params, masks = gate.finalize(theta)                            # the sparse network

See `Gate` for the protocol, and `gate_of` with a `Rule` for a gate of your own.
"""

from jaxprune.gates.continuous import continuous as continuous
from jaxprune.gates.gate import Gate as Gate
from jaxprune.gates.gate import Gated as Gated
from jaxprune.gates.gate import Rule as Rule
from jaxprune.gates.gate import gate_of as gate_of
from jaxprune.gates.hard_concrete import hard_concrete as hard_concrete
from jaxprune.gates.local_reparameterization import apply as apply
from jaxprune.gates.movement import movement as movement
from jaxprune.gates.movement import soft_movement as soft_movement
from jaxprune.gates.soft_threshold import soft_threshold as soft_threshold
from jaxprune.gates.supermask import supermask as supermask
from jaxprune.gates.variational_dropout import kl_log_uniform as kl_log_uniform
from jaxprune.gates.variational_dropout import variational_dropout as variational_dropout

__all__ = [
    "Gate",
    "Gated",
    "Rule",
    "apply",
    "continuous",
    "gate_of",
    "hard_concrete",
    "kl_log_uniform",
    "movement",
    "soft_movement",
    "soft_threshold",
    "supermask",
    "variational_dropout",
]


def __dir__() -> list[str]:
    return sorted(__all__)
