"""The model that is pruned after training, and its text: the library's, or a function's of the user's."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import UserError, user_files
from jaxprune import models, posttrain

__all__ = ["Subject", "plan_of", "subject_of"]

_WHERE = "config.posttrain.model"


class Subject(NamedTuple):
    """A model and its text.

    Attributes:
      apply: (params, tokens) -> logits.
      params: of the dense model.
      windows: (part, how many, seed) -> tokens [count, length].
      expected: perplexities of the dense model that are known, by the hash of the windows.
    """

    apply: Callable[..., jax.Array]
    params: Any
    windows: Callable[[str, int, int | None], np.ndarray]
    expected: Mapping[str, float]


def subject_of(section: Mapping[str, Any]) -> Subject:
    """Returns the model of a config and its text.

    Args:
      section: the fields of `config.posttrain`.

    Raises:
      UserError: there is no such model or text, or a function of the user's returns something else.
    """
    name = section["model"]
    length = section["length"]
    if user_files.is_function(name):
        return _subject_of_user(name, section)
    try:
        model = models.load(name)
        tokens = {part: models.text.tokens(model.tokenizer, part) for part in models.text.PARTS}
    except (FileNotFoundError, ImportError, ValueError) as e:
        raise UserError(f"{_WHERE}: {e}") from e

    def windows(part: str, count: int, seed: int | None) -> np.ndarray:
        try:
            return models.text.cut(tokens[part], length, count=count, seed=seed)
        except ValueError as e:
            raise UserError(f"config.posttrain.{part}: {e}") from e

    return Subject(model.apply, model.params, windows, model.perplexities)


def _subject_of_user(name: str, section: Mapping[str, Any]) -> Subject:
    """A model and windows from a function of the user's."""
    function = user_files.run(name, _WHERE)
    with user_files.told(name, _WHERE):
        returned = function()
    is_triple = isinstance(returned, tuple) and len(returned) == 3
    has_windows = (
        is_triple
        and isinstance(returned[2], Mapping)
        and set(models.text.PARTS) <= set(returned[2])
    )
    if not is_triple or not has_windows or not callable(returned[0]):
        raise UserError(
            f"{_WHERE}: {name} must return (apply, params, windows), with a dict of windows for "
            f"{', '.join(models.text.PARTS)}."
        )
    apply, params, arrays = returned
    leaves = jax.tree.leaves(params)
    if not leaves or not all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves):
        raise UserError(f"{_WHERE}: the params of {name} must be a tree of arrays.")
    tokens = {part: _tokens(name, part, arrays[part], section) for part in models.text.PARTS}
    vocabulary = _vocabulary(name, apply, params, section)
    for part, part_tokens in tokens.items():
        if part_tokens.size and not 0 <= part_tokens.min() <= part_tokens.max() < vocabulary:
            raise UserError(
                f"{_WHERE}: {name} has tokens from {part_tokens.min()} to {part_tokens.max()} under "
                f"{part!r}, and logits for 0 to {vocabulary - 1}."
            )

    def windows(part: str, count: int, seed: int | None) -> np.ndarray:
        order = np.arange(len(tokens[part]))
        if seed is not None:
            order = np.random.default_rng(seed).permutation(len(order))
        return tokens[part][order[:count]].astype(np.int32)

    return Subject(apply, params, windows, {})


def _tokens(name: str, part: str, windows: Any, section: Mapping[str, Any]) -> np.ndarray:
    """Returns windows of the user's as an array, if they are tokens, and as many and as long as asked."""
    with user_files.told(name, f"{_WHERE}: windows[{part!r}]"):
        tokens = np.asarray(windows)
    if tokens.dtype.kind not in "iu":
        raise UserError(
            f"{_WHERE}: {name} has windows of {tokens.dtype} under {part!r}; tokens are whole numbers."
        )
    length, count = section["length"], section[part]
    if tokens.ndim != 2 or tokens.shape[1] != length or len(tokens) < count:
        raise UserError(
            f"config.posttrain.{part}={count} of length={length}: {name} has windows of the shape "
            f"{tokens.shape}."
        )
    return tokens


def _vocabulary(name: str, apply: Any, params: Any, section: Mapping[str, Any]) -> int:
    """Returns for how many tokens a function of the user's gives logits, traced on a batch."""
    shape = (section["batch"], section["length"])
    with user_files.told(name, _WHERE):
        logits = jax.eval_shape(apply, params, jax.ShapeDtypeStruct(shape, jnp.int32))
    if not hasattr(logits, "shape") or logits.shape[:-1] != shape:
        found = getattr(logits, "shape", type(logits).__name__)
        raise UserError(
            f"{_WHERE}: the apply of {name} returns {found} for tokens {shape}; logits [batch, length, "
            "vocabulary] are needed."
        )
    return logits.shape[-1]


def plan_of(
    section: Mapping[str, Any], subject: Subject, batch: int | None = None
) -> posttrain.Plan:
    """Returns the plan of a model.

    Args:
      section: the fields of `config.posttrain`.
      subject: the model.
      batch: windows at a time; `None`: as the section says.

    Raises:
      UserError: the model cannot be cut, or an expression matches nothing.
    """
    tokens = jax.ShapeDtypeStruct((batch or section["batch"], section["length"]), jnp.int32)
    prunable = section["prunable"] or None
    exclude = section["exclude"] or ()
    try:
        return posttrain.plan(
            subject.apply, subject.params, tokens, prunable=prunable, exclude=exclude
        )
    except ValueError as e:
        raise UserError(f"config.posttrain: {e}") from e
