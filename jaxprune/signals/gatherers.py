"""Signals by the keyword under which criteria read them, gathered when one asks."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from jaxprune import checks
from jaxprune.coupling import Coupled
from jaxprune.masks import Prunable
from jaxprune.signals import activations
from jaxprune.signals.curvature import (
    gradient_product,
    hessian_diagonal,
    hessian_gradient,
    inverse_fisher,
)
from jaxprune.signals.flow import synaptic_flow
from jaxprune.signals.gather import Progress, twice
from jaxprune.signals.gauss_newton import gauss_newton_diagonal
from jaxprune.signals.gradients import fisher, grads
from jaxprune.signals.losses import Apply, Loss, OutputLoss, loss_of_outputs
from jaxprune.signals.outputs import Outputs, outputs
from jaxprune.signals.scales import batchnorm_scales
from jaxprune.signals.unit_taylor import unit_taylor
from jaxprune.types import Criterion, Params

__all__ = ["Gatherers", "gathered", "gatherers", "reads", "takes_gradients"]

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
    """Returns for each keyword that criteria read how to find it: a function of the parameters.

    With a loss there are `grads`, `fisher`, `hessian_gradient` and `inverse_fisher`, with a key too
    `hessian_diagonal`; with the network's function `input_moments`, `grams`, `synaptic_flow`,
    `batchnorm_scales` and the fields of `Outputs`: `unit_means`, `unit_magnitudes`, `unit_zeros`,
    `unit_entropies` and `unit_ranks`. With that function and a loss of its outputs there is all of this, with
    a key `gauss_newton_diagonal` too; `hessian_gradient` is then at GraSP's temperature of 200, which a loss
    of parameters and batches has no place for. With a loss and coupled units there is `unit_taylor`. A signal
    is called like the function that finds it. Nothing is computed yet. Replace an entry to set an option, or
    add one for a criterion of your own:

        found = gatherers(batches, loss=loss)
        found["inverse_fisher"] = lambda params: inverse_fisher(loss, params, batches, block=100)

    Args:
      batches: trees of arrays [examples, ...]; a list, as each signal reads them anew.
      loss: (params, batch) -> the mean loss over the batch's leading axis, a scalar; `None`: that of the
        outputs, if it is given.
      apply: (params, batch) -> outputs of the network in evaluation mode.
      output_loss: (outputs, batch) -> the mean loss over the batch's leading axis, a scalar.
      key: PRNG key, for what is estimated by chance.
      prunable: leaves of whose weights `inverse_fisher` has blocks (see `jaxprune.masks.make`).
      units: that are pruned, for `unit_taylor`: from `jaxprune.structured.coupled`.
      progress: called with the number of batches done, after each, for each signal from 1.

    >>> import jax.numpy as jnp
    >>> loss = lambda params, x: jnp.mean(x * params["w"])
    >>> found = gatherers([jnp.array([1.0, 3.0])], loss=loss)
    >>> found["grads"]({"w": jnp.array(5.0)}), sorted(found)[1:]
    ({'w': Array(2., dtype=float32)}, ['grads', 'hessian_gradient', 'inverse_fisher'])
    """
    batches = twice(batches, "signals read batches more than once")
    given = {"loss": loss, "apply": apply, "output_loss": output_loss}
    function = checks.optional(checks.FUNCTION)
    checks.check("gatherers", **{name: (value, function) for name, value in given.items()})
    checks.check("gatherers", key=(key, checks.optional(checks.KEY)))
    more: Any = {"progress": progress}
    found: dict[str, Callable[[Params], Any]] = {}
    if output_loss is not None and apply is None:
        raise ValueError("gatherers(output_loss=...): give apply= too, whose outputs it is of.")
    if loss is None and apply is not None and output_loss is not None:
        loss = loss_of_outputs(apply, output_loss)
    if loss is not None:
        found["grads"] = lambda p: grads(loss, p, batches, **more)
        found["fisher"] = lambda p: fisher(loss, p, batches, **more)
        found["hessian_gradient"] = lambda p: gradient_product(loss, p, batches, **more)
        found["inverse_fisher"] = lambda p: inverse_fisher(
            loss, p, batches, prunable=prunable, **more
        )
        if units is not None:
            found["unit_taylor"] = lambda p: unit_taylor(loss, p, batches, units, **more)
        if key is not None:
            found["hessian_diagonal"] = lambda p: hessian_diagonal(loss, p, batches, key, **more)
    if apply is not None and output_loss is not None:
        of_outputs = (apply, output_loss)
        found["hessian_gradient"] = lambda p: hessian_gradient(*of_outputs, p, batches, **more)
        if key is not None:
            found["gauss_newton_diagonal"] = lambda p: gauss_newton_diagonal(
                *of_outputs, p, batches, key, **more
            )
    if apply is not None:
        found["input_moments"] = lambda p: activations.input_moments(apply, p, batches, **more)
        found["grams"] = lambda p: activations.grams(apply, p, batches, **more)
        first = next(iter(batches), None)
        if first is None:
            raise ValueError("gatherers: batches: there is none; give a list of at least one.")
        found["batchnorm_scales"] = lambda p: batchnorm_scales(apply, p, first)
        found["synaptic_flow"] = lambda p: synaptic_flow(apply, p, first)
        for name in Outputs._fields:
            found[name] = functools.partial(_output, name, apply, batches, progress)
    return found


def _output(
    name: str,
    apply: Apply,
    batches: Iterable[Any],
    progress: Progress | None,
    params: Params,
) -> Any:
    ranks = name == "unit_ranks"  # they cost far more than the rest
    found = outputs(apply, params, batches, ranks=ranks, progress=progress)
    return getattr(found, name)


def reads(criterion: Criterion | Callable[..., Any]) -> list[str]:
    """The keywords of the signals that a criterion cannot do without.

    >>> def relative_step(params, *, grads, smallest=1e-8, **_): ...
    >>> reads(relative_step)
    ['grads']
    """
    parameters = inspect.signature(criterion).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]


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
        p.name == "grads" or (p.kind is p.VAR_KEYWORD and not p.name.startswith("_"))
        for p in parameters
    )


def gathered(names: Iterable[str], known: Gatherers, params: Params) -> dict[str, Any]:
    """Gathers what is asked for.

    Raises:
      ValueError: nobody knows how to gather a signal.
    """
    names = list(dict.fromkeys(names))
    missing = [name for name in names if name not in known]
    if missing:
        raise ValueError(
            f"nobody gathers the signal {missing[0]!r}; known here: {', '.join(known) or 'none'}. Give "
            "jaxprune.signals.gatherers a loss, an apply, an output_loss, units or a key, or add an entry."
        )
    return {name: known[name](params) for name in names}
