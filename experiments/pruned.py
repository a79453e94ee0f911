"""Networks that are pruned at once, before training or after it, by what a criterion says of the data."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import jaxprune as jp
from experiments.config import UserError, build
from experiments.divergence import DivergedError
from experiments.engine import last_state
from experiments.pipelines import Pipeline
from experiments.starts import Began, Setting, Start
from experiments.task import Task, metrics, scale
from experiments.trainer import TrainState
from experiments.units import axes_of
from jaxprune.coupling import Coupled
from jaxprune.signals.gatherers import signals_read_by

__all__ = ["examples", "gatherers_of", "known_signals", "pruned"]

Batches = list[tuple[jax.Array, jax.Array]]


def known_signals(own: Mapping[str, Any] = {}, units: Coupled | None = None) -> tuple[str, ...]:
    """The keywords of the signals that there are, those of a pipeline's own and of coupled units included."""
    nothing = lambda params, batch: jnp.zeros(())
    functions = {"loss": nothing, "apply": nothing, "output_loss": nothing}
    found = jp.signals.gatherers([()], **functions, key=jax.random.key(0), units=units)
    return ("key", *found, *(keyword for keyword in own if keyword not in found))


def pruned(
    cfg: ConfigDict, pipeline: Pipeline, method: jp.Method, folder: str, trained_by: Any, where: str
) -> Start:
    """Finds masks by gathering the signals that the method's criterion reads.

    Signals of the first round do not depend on the sparsity: they are gathered once for each seed.

    Args:
      cfg: the config.
      pipeline: when, on how many examples, in how many rounds.
      method: makes the masks.
      folder: within the run, of the network that is pruned where a trained one is meant.
      trained_by: its optimizer.
      where: in the config, to blame.

    Raises:
      UserError: nobody gathers a signal that the criterion reads.
    """
    compensation = build("compensation", pipeline.compensation)
    units = method.pattern if isinstance(method.pattern, Coupled) else None
    known = known_signals(pipeline.signals, units)
    for function in (method.criterion, compensation):
        unknown = (
            [name for name in signals_read_by(function) if name not in known] if function else []
        )
        if unknown:
            raise UserError(
                f"{where}: reads the signal {unknown[0]!r}, which exists only while training or of coupled "
                f"units; there are: {', '.join(known)}."
            )

    def start(setting: Setting) -> Began:
        params, rest = setting.params, setting.rest
        if pipeline.when == "trained":
            params, rest = _trained(setting, folder, trained_by)
        gatherers = _gatherers(setting, rest, pipeline, cfg.prunable or None, units)
        if pipeline.rounds == 1:
            gatherers = {name: _once(setting, pipeline, name, f) for name, f in gatherers.items()}
        try:
            found = jp.prune_on(
                params,
                method,
                gatherers,
                rounds=pipeline.rounds,
                compensation=compensation,
                prunable=cfg.prunable or None,
                axes=axes_of(cfg),
                key=setting.key,
            )
        except ValueError as e:
            raise UserError(f"{where}: {e}") from e
        return Began(found[0] if pipeline.removal is None else params, rest, found[1])

    return start


def _trained(setting: Setting, name: str, trained_by: Any) -> tuple[Any, Any]:
    """Weights and other variables of the network of this seed in a folder, after its training."""
    folder = setting.run / name / setting.folder.name
    if (folder / "failed.json").exists():
        raise DivergedError(f"there is no trained network to prune, as {name} diverged.")
    params, rest = setting.params, setting.rest
    state = last_state(folder, TrainState(params, rest, trained_by.init(params)))
    return state.params, state.rest


def _gatherers(
    setting: Setting,
    rest: Any,
    pipeline: Pipeline,
    prunable: str | None,
    units: Coupled | None,
) -> Any:
    """Signals by keyword, on training examples drawn for this seed."""
    if pipeline.examples_per_class:
        batches = _of_each_class(setting.task, setting.key, pipeline.examples_per_class)
    else:
        batches = examples(setting.task, setting.key, pipeline.examples)
    own = pipeline.signals
    return gatherers_of(setting.model, rest, batches, setting.key, own, prunable, units)


def gatherers_of(
    model: Any,
    rest: Any,
    batches: Batches,
    key: jax.Array,
    own: Mapping[str, Any],
    prunable: str | None,
    units: Coupled | None = None,
) -> dict[str, Callable[[Any], Any]]:
    """Signals by keyword; `curvature` is Gauss-Newton's, and `hessian_gradient` at GraSP's temperature.

    Args:
      model: a linen module.
      rest: its variables other than parameters.
      batches: of training examples.
      key: PRNG key.
      own: parts of `jaxprune.signals` by keyword, to set their options.
      prunable: leaves that signals in blocks are gathered for.
      units: that are pruned, if they are coupled.
    """
    loss, forward = _functions(model, rest) if rest else _plain_functions(model)
    functions = {"loss": loss, "apply": forward, "output_loss": _output_loss}
    common = {**functions, "units": units, "key": jax.random.fold_in(key, 3)}
    found = jp.signals.gatherers(batches, prunable=prunable, **common)
    for keyword, spec in own.items():
        function = build("signal", spec)
        names = list(inspect.signature(function).parameters)
        first = {name: common[name] for name in common if name in names}
        found[keyword] = functools.partial(_own, function, batches, first)
    return found


def _own(function: Callable[..., Any], batches: Any, given: Mapping[str, Any], params: Any) -> Any:
    return function(**given, params=params, batches=batches)


def examples(task: Task, key: jax.Array, count: int) -> Batches:
    """Batches of so many training examples; all are of one size, the last one left out if it is not."""
    total = len(task.labels)
    if count > total:
        raise UserError(f"config: examples={count} for signals, but there are {total} in training.")
    chosen = _shuffled(task, key)[:count]
    size = min(task.batch_size, count)
    rows = chosen[: count // size * size].reshape(-1, size)
    return [(task.inputs[row], task.labels[row]) for row in rows]


def _of_each_class(task: Task, key: jax.Array, count: int) -> Batches:
    """One batch of so many training examples of each class."""
    order = _shuffled(task, key)
    labels = np.asarray(task.labels)[order]
    chosen = [order[labels == label][:count] for label in np.unique(labels)]
    fewest = min(map(len, chosen))
    if fewest < count:
        raise UserError(
            f"config: examples_per_class={count} for signals, but a class has {fewest} in training."
        )
    rows = np.concatenate(chosen)
    return [(task.inputs[rows], task.labels[rows])]


def _shuffled(task: Task, key: jax.Array) -> np.ndarray:
    """All training examples in the order in which they are drawn for signals."""
    seed = int(jax.random.bits(jax.random.fold_in(key, 4)))
    return np.random.default_rng(seed).permutation(len(task.labels))


def _functions(model: Any, rest: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Loss and logits, in evaluation mode."""

    def forward(params: Any, batch: Any) -> jax.Array:
        images = batch[0]
        images = scale(images) if images.dtype == jnp.uint8 else images  # those of a flow are ones
        return model.apply({"params": params, **rest}, images, train=False)

    return jp.signals.loss_of_outputs(forward, _output_loss), forward


def _output_loss(logits: jax.Array, batch: Any) -> jax.Array:
    return metrics(logits, batch[1])[0] / batch[1].size


@functools.lru_cache(maxsize=1)
def _plain_functions(model: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The same without other variables: compiled once for all seeds."""
    return _functions(model, {})


def _once(
    setting: Setting, pipeline: Pipeline, name: str, gather: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    """Gathers a signal, or takes it from before."""
    own = str(pipeline.signals.get(name))
    where = (str(setting.folder.parents[2]), setting.folder.name)
    drawn = pipeline.examples, pipeline.examples_per_class
    pattern = str(pipeline.pattern) if name == "unit_taylor" else ""  # others are of weights
    key = (*where, pipeline.when, pipeline.of, drawn, name, own, pattern)

    def gathered(params: Any) -> Any:
        if key not in _GATHERED:
            _GATHERED[key] = gather(params)
            while len(_GATHERED) > 1 and sum(map(_size, _GATHERED.values())) > _MOST:
                del _GATHERED[next(iter(_GATHERED))]  # the oldest
        return _GATHERED[key]

    return gathered


def _size(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


_GATHERED: dict[Any, Any] = {}
_MOST = 2**30  # bytes of signals that are held at a time
