"""Signals by the keyword under which criteria read them, gathered on demand."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from jaxprune import checks
from jaxprune.masks import Prunable
from jaxprune.signals import activations
from jaxprune.signals.batches import Progress, check_rereadable
from jaxprune.signals.curvature import (
    gradient_product,
    hessian_diagonal,
    hessian_gradient,
    inverse_fisher,
)
from jaxprune.signals.flow import synaptic_flow
from jaxprune.signals.gauss_newton import gauss_newton_diagonal
from jaxprune.signals.gradients import fisher, grads
from jaxprune.signals.losses import Apply, Loss, OutputLoss, loss_of_outputs
from jaxprune.signals.normalisation_scales import batchnorm_scales
from jaxprune.signals.outputs import Outputs, outputs
from jaxprune.signals.unit_taylor import unit_taylor
from jaxprune.types import Criterion, Params
from jaxprune.units.coupling import Coupled

__all__ = ["Gatherers", "collect", "gatherers", "signals_read_by", "takes_gradients"]

Gatherers = Mapping[str, Callable[[Params], Any]]


def gatherers(
    batches: Iterable[Any],
    *,
    loss: Loss | None = None,
    apply: Apply | None = None,
    output_loss: OutputLoss | None = None,
    key: jax.Array | None = None,
    prunable: Prunable = None,
    units: Coupled | None = None,
    progress: Progress | None = None,
) -> dict[str, Callable[[Params], Any]]:
    """Returns a dict of functions that gather the signals of criteria, by the keyword of the signal.

    A keyword is the name of the function in `jaxprune.signals` that computes the signal, or of a field of
    `Outputs`. Which keywords there are depends on what is given:

    * `loss`: `grads`, `fisher`, `hessian_gradient`, `inverse_fisher`; with `key` also `hessian_diagonal`,
      with `units` also `unit_taylor`.
    * `apply`: `input_moments`, `grams`, `synaptic_flow`, `batchnorm_scales`, `unit_means`,
      `unit_magnitudes`, `unit_zeros`, `unit_entropies`, `unit_ranks`.
    * `apply` and `output_loss`: all of these; with `key` also `gauss_newton_diagonal`. Then
      `hessian_gradient` divides outputs by GraSP's temperature of 200, which a `loss` of
      parameters and batches cannot do.

    Nothing is computed before such a function is called. Replace an entry to set an option, or add one for a
    criterion of your own:

        found = gatherers(batches, loss=loss)
        found["inverse_fisher"] = lambda params: inverse_fisher(loss, params, batches, block=100)

    Args:
      batches: list of trees of arrays [examples, ...]; each signal reads all of them again.
      loss: (params, batch) -> the mean loss over the batch's leading axis, a scalar; `None`: `output_loss`
        of the outputs of `apply`, if both are given.
      apply: (params, batch) -> outputs of the network in evaluation mode.
      output_loss: (outputs, batch) -> the mean loss over the batch's leading axis, a scalar.
      key: PRNG key, for signals that are random estimates.
      prunable: leaves for which `inverse_fisher` has blocks (see `jaxprune.masks.make`).
      units: coupled units to be pruned, from `jaxprune.structured.coupled`, for `unit_taylor`.
      progress: called with the number of batches done, after each; it counts from 1 for each signal.

    Returns:
      A dict: keyword -> (params -> the signal, a tree like `params`).

    Raises:
      ValueError: `batches` is an iterator, which can be read only once, or is empty; or `output_loss` is
        given without `apply`.

    >>> import jax.numpy as jnp
    >>> loss = lambda params, x: jnp.mean(x * params["w"])
    >>> found = gatherers([jnp.array([1.0, 3.0])], loss=loss)
    >>> found["grads"]({"w": jnp.array(5.0)}), sorted(found)[1:]
    ({'w': Array(2., dtype=float32)}, ['grads', 'hessian_gradient', 'inverse_fisher'])
    """
    batches = check_rereadable(batches, "signals read batches more than once")
    functions = {"loss": loss, "apply": apply, "output_loss": output_loss}
    optional_function = checks.optional(checks.FUNCTION)
    checks.check(
        "gatherers", **{keyword: (value, optional_function) for keyword, value in functions.items()}
    )
    checks.check("gatherers", key=(key, checks.optional(checks.KEY)))
    options: Any = {"batches": batches, "progress": progress}
    gatherers_by_keyword: dict[str, Callable[[Params], Any]] = {}
    if output_loss is not None and apply is None:
        raise ValueError("gatherers(output_loss=...): give apply= too, whose outputs it is of.")
    if loss is None and apply is not None and output_loss is not None:
        loss = loss_of_outputs(apply, output_loss)
    if loss is not None:
        gatherers_by_keyword["grads"] = functools.partial(grads, loss, **options)
        gatherers_by_keyword["fisher"] = functools.partial(fisher, loss, **options)
        gatherers_by_keyword["hessian_gradient"] = functools.partial(
            gradient_product, loss, **options
        )
        gatherers_by_keyword["inverse_fisher"] = functools.partial(
            inverse_fisher, loss, prunable=prunable, **options
        )
        if units is not None:
            gatherers_by_keyword["unit_taylor"] = functools.partial(
                unit_taylor, loss, units=units, **options
            )
        if key is not None:
            gatherers_by_keyword["hessian_diagonal"] = functools.partial(
                hessian_diagonal, loss, key=key, **options
            )
    if apply is not None and output_loss is not None:
        gatherers_by_keyword["hessian_gradient"] = functools.partial(
            hessian_gradient, apply, output_loss, **options
        )
        if key is not None:
            gatherers_by_keyword["gauss_newton_diagonal"] = functools.partial(
                gauss_newton_diagonal, apply, output_loss, key=key, **options
            )
    if apply is not None:
        gatherers_by_keyword["input_moments"] = functools.partial(
            activations.input_moments, apply, **options
        )
        gatherers_by_keyword["grams"] = functools.partial(activations.grams, apply, **options)
        first_batch = next(iter(batches), None)
        if first_batch is None:
            raise ValueError("gatherers: batches: there is none; give a list of at least one.")
        gatherers_by_keyword["batchnorm_scales"] = functools.partial(
            batchnorm_scales, apply, batch=first_batch
        )
        gatherers_by_keyword["synaptic_flow"] = functools.partial(
            synaptic_flow, apply, example=first_batch
        )
        for keyword in Outputs._fields:
            gatherers_by_keyword[keyword] = functools.partial(
                _output, keyword, apply, batches, progress
            )
    return gatherers_by_keyword


def _output(
    name: str,
    apply: Apply,
    batches: Iterable[Any],
    progress: Progress | None,
    params: Params,
) -> Any:
    with_ranks = name == "unit_ranks"  # they cost far more than the rest
    statistics = outputs(apply, params, batches, ranks=with_ranks, progress=progress)
    return getattr(statistics, name)


def signals_read_by(criterion: Criterion | Callable[..., Any]) -> list[str]:
    """Returns the keywords of the signals that a criterion needs: keyword-only, without a default.

    >>> def relative_step(params, *, grads, smallest=1e-8, **_): ...
    >>> signals_read_by(relative_step)
    ['grads']
    """
    parameters = inspect.signature(criterion).parameters.values()
    return [
        parameter.name
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
    ]


def takes_gradients(criterion: Criterion | None) -> bool:
    """Whether a criterion may read the gradients of an update.

    That is one with the keyword `grads`, or with signals of any name, unless an underscore says that it
    ignores them.

    >>> takes_gradients(lambda params, **signals: params), takes_gradients(lambda params, **_: params)
    (True, False)
    """
    if criterion is None:
        return False
    parameters = inspect.signature(criterion).parameters.values()
    return any(
        parameter.name == "grads"
        or (parameter.kind is parameter.VAR_KEYWORD and not parameter.name.startswith("_"))
        for parameter in parameters
    )


def collect(names: Iterable[str], known: Gatherers, params: Params) -> dict[str, Any]:
    """Returns by keyword the signals that are asked for.

    Raises:
      ValueError: there is no gatherer for a signal.
    """
    names = list(dict.fromkeys(names))
    missing_names = [name for name in names if name not in known]
    if missing_names:
        raise ValueError(
            f"nobody gathers the signal {missing_names[0]!r}; known here: {', '.join(known) or 'none'}. Give "
            "jaxprune.signals.gatherers a loss, an apply, an output_loss, units or a key, or add an entry."
        )
    return {name: known[name](params) for name in names}
