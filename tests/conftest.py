"""Strict promotion of ranks for all tests: a shape that fits by accident is a mistake."""

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
