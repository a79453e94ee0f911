"""Networks of few values: a trained sparse one, its weights clustered, their values trained together.

What Deep Compression does after pruning: codebooks by k-means, training of shared values, and a file with
short distances between weights and Huffman codes, whose bytes are counted.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import optax

import jaxprune as jp
from experiments.config import UserError, build
from experiments.config.sections import check_single_matches
from experiments.training.setup import Setup
from experiments.ways import earlier_trainings
from experiments.ways.quantisation import Quantisation
from experiments.ways.recipe import Recipe, refuse_average
from experiments.ways.start import Setting, Start, StartState

__all__ = ["recipe"]


def recipe(setup: Setup, quantisation: Quantisation, trained: Recipe, where: str) -> Recipe:
    """Returns the recipe of a quantised network.

    Args:
      setup: of the config.
      quantisation: how.
      trained: the recipe of the network that is quantised.
      where: in the config, to blame.

    Raises:
      UserError: the config asks for an average over updates, or gives a leaf two numbers of bits.
    """
    refuse_average(setup)
    if isinstance(quantisation.bits, Mapping):
        check_single_matches(quantisation.bits, setup.prunable_names, f"{where}.bits")
    optimizer = build("optimizer", quantisation.optimizer) or setup.optimizer
    return Recipe(
        functools.partial(_transform, optimizer),
        start=_start(quantisation, trained, where),
        after=quantisation.updates,
        continues=quantisation.of,
        recorded=True,
        stage=2,
        measure=functools.partial(_measure, quantisation.gap_bits),
        described=f"{quantisation.of}, quantised",
    )


def _transform(optimizer: optax.GradientTransformation, books: Any) -> Any:
    """Trains the values of codebooks; `None`: those that its state holds."""
    return jp.recorded(jp.quantise.shared(optimizer, books))


def _start(quantisation: Quantisation, trained: Recipe, where: str) -> Start:
    """Begins with the network of the same point and seed, its weights at the values of their codebooks."""

    def start(setting: Setting) -> StartState:
        folder = earlier_trainings.same_point_folder(setting, quantisation.of)
        state = earlier_trainings.state(setting, folder, trained.optimizer)
        masks = earlier_trainings.masks(setting, folder)
        try:
            books = jp.quantise.codebooks(
                state.params, masks, bits=quantisation.bits, start=quantisation.start
            )
        except ValueError as e:
            raise UserError(f"{where}: {e}") from e
        return StartState(jp.quantise.dense(books, state.params), state.rest, books)

    return start


def _measure(gap_bits: int, network: Any, opt_state: Any) -> dict[str, Any]:
    """Returns the bytes of the file, and how many times smaller it is than float32."""
    state = _shared_state(opt_state)
    books = jp.quantise.updated(state.codebooks, network)
    total = jp.quantise.report(network, books, gap_bits=gap_bits)[-1]
    return {
        "file_bytes": total["coded"],
        "file_ratio": total["ratio"],
        "file_ratio_fixed_width": total["ratio_quantised"],
    }


def _shared_state(opt_state: Any) -> Any:
    """Returns the state of `jaxprune.quantise.shared` within that of a recipe."""

    def is_shared(node: Any) -> bool:
        return isinstance(node, jp.quantise.SharedState)

    (state,) = filter(is_shared, jax.tree.leaves(opt_state, is_leaf=is_shared))
    return state
