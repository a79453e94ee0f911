"""Signals: what criteria may read of the data and of the training so far.

Signals of gradients, curvature and activations are means over batches. Signals with a `Memory` are updated at
every training update and stored in the optimizer's state.
"""

from jaxprune.signals.accumulators import Memory as Memory
from jaxprune.signals.accumulators import initial_params as initial_params
from jaxprune.signals.accumulators import moving_average as moving_average
from jaxprune.signals.accumulators import needed as needed
from jaxprune.signals.accumulators import needs as needs
from jaxprune.signals.accumulators import running_sum as running_sum
from jaxprune.signals.activations import grams as grams
from jaxprune.signals.activations import input_moments as input_moments
from jaxprune.signals.batches import mean_over as mean_over
from jaxprune.signals.by_keyword import gatherers as gatherers
from jaxprune.signals.curvature import hessian_diagonal as hessian_diagonal
from jaxprune.signals.curvature import hessian_gradient as hessian_gradient
from jaxprune.signals.curvature import hessian_vector as hessian_vector
from jaxprune.signals.curvature import inverse_fisher as inverse_fisher
from jaxprune.signals.flow import synaptic_flow as synaptic_flow
from jaxprune.signals.gauss_newton import gauss_newton_diagonal as gauss_newton_diagonal
from jaxprune.signals.gradients import fisher as fisher
from jaxprune.signals.gradients import grads as grads
from jaxprune.signals.losses import loss_of_outputs as loss_of_outputs
from jaxprune.signals.normalisation_scales import batchnorm_scales as batchnorm_scales
from jaxprune.signals.outputs import Outputs as Outputs
from jaxprune.signals.outputs import outputs as outputs
from jaxprune.signals.second_moment import second_moment as second_moment
from jaxprune.signals.unit_taylor import unit_taylor as unit_taylor

__all__ = [
    "Memory",
    "Outputs",
    "batchnorm_scales",
    "fisher",
    "gatherers",
    "gauss_newton_diagonal",
    "grads",
    "grams",
    "hessian_diagonal",
    "hessian_gradient",
    "hessian_vector",
    "initial_params",
    "input_moments",
    "inverse_fisher",
    "loss_of_outputs",
    "mean_over",
    "moving_average",
    "needed",
    "needs",
    "outputs",
    "running_sum",
    "second_moment",
    "synaptic_flow",
    "unit_taylor",
]


def __dir__() -> list[str]:
    return sorted(__all__)
