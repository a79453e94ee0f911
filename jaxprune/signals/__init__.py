"""Signals: what criteria may read of the data and of the training so far."""

from jaxprune.signals.memory import Memory as Memory
from jaxprune.signals.memory import moving_average as moving_average
from jaxprune.signals.memory import needed as needed
from jaxprune.signals.memory import needs as needs
from jaxprune.signals.memory import start as start
from jaxprune.signals.memory import total as total

__all__ = ["Memory", "moving_average", "needed", "needs", "start", "total"]
