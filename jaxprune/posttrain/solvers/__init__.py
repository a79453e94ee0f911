"""Solvers."""

from jaxprune.posttrain.solvers.sparsegpt import sparsegpt as sparsegpt
