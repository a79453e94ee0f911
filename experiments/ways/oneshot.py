"""Networks that are pruned at once, before training or after it, by what a criterion says of the data."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from experiments.config import UserError, build
from experiments.training.setup import Setup
from experiments.training.task import Task, metrics, scale
from experiments.ways import earlier_trainings
from experiments.ways.coupled_units import with_units
from experiments.ways.pipeline import Pipeline
from experiments.ways.recipe import Recipe, on_fixed_masks, refuse_average
from experiments.ways.start import Setting, Start, StartState
from jaxprune.signals.by_keyword import collect, signals_read_by
from jaxprune.units.coupling import Coupled

__all__ = [
    "examples",
    "gatherers_of",
    "known_signals",
    "of_each_class",
    "pruned",
    "recipe",
    "signal_shapes",
]

Batches = list[tuple[jax.Array, jax.Array]]


def known_signals(own: Mapping[str, Any] = {}, units: Coupled | None = None) -> tuple[str, ...]:
    """Returns the keywords of the signals that there are, before or after training.

    Args:
      own: signals of a pipeline's own, by keyword.
      units: coupled units, which have signals besides.
    """

    def no_function(params: Any, batch: Any) -> jax.Array:
        return jnp.zeros(())

    keywords = jp.signals.gatherers(
        [()],
        loss=no_function,
        apply=no_function,
        output_loss=no_function,
        key=jax.random.key(0),
        units=units,
    )
    return ("key", *keywords, *(keyword for keyword in own if keyword not in keywords))


def recipe(
    setup: Setup,
    pipeline: Pipeline,
    method: jp.Method,
    trained: tuple[str, Recipe],
    where: str,
) -> Recipe:
    """Returns the recipe of a network that is pruned at once, and trained on its masks.

    Args:
      setup: of the config.
      pipeline: when, on how many examples, in how many rounds.
      method: makes the masks.
      trained: the folder of the network that is pruned where a trained one is meant, and its recipe.
      where: in the config, to blame.

    Raises:
      UserError: nobody gathers a signal that the criterion reads, or fine-tuning cannot be set up.
    """
    refuse_average(setup)
    folder, before = trained
    method = with_units(setup, method, where)
    start = pruned(setup, pipeline, method, folder, before.optimizer, where)
    example_count = min(pipeline.examples, setup.cfg.data.get("batch_size", 128))
    if pipeline.examples_per_class:
        example_count = pipeline.examples_per_class * setup.model.num_classes
    units = method.pattern if isinstance(method.pattern, Coupled) else None
    optimizer = build("optimizer", pipeline.optimizer) or setup.optimizer
    transform = on_fixed_masks(optimizer, pipeline.removal)
    transform(None)  # mistakes are told now, not after dense training
    return Recipe(
        transform,
        start=start,
        cuts=method,
        signals=functools.partial(
            signal_shapes,
            setup,
            signals_read_by(method.criterion),
            example_count,
            where,
            pipeline.signals,
            units,
        ),
        after=pipeline.finetune if pipeline.when == "trained" else None,
        settled=pipeline.removal["until"] + 1 if pipeline.removal else 0,
        recorded=True,
        stage=1,
    )


def pruned(
    setup: Setup, pipeline: Pipeline, method: jp.Method, folder: str, trained_by: Any, where: str
) -> Start:
    """Returns a start that finds masks from the signals that the method's criterion reads.

    Signals of the first round do not depend on the sparsity: they are gathered once for each seed.

    Args:
      setup: of the config.
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

    def start(setting: Setting) -> StartState:
        params = setting.params
        rest = setting.rest
        if pipeline.when == "trained":
            trained_state = earlier_trainings.state(
                setting, earlier_trainings.dense_folder(setting, folder), trained_by
            )
            params, rest = trained_state.params, trained_state.rest
        gatherers = _gatherers(setting, rest, pipeline, setup.prunable, units)
        if pipeline.rounds == 1:
            gatherers = {name: _once(setting, pipeline, name, f) for name, f in gatherers.items()}
        try:
            pruned_params, masks = jp.prune_on(
                params,
                method,
                gatherers,
                rounds=pipeline.rounds,
                compensation=compensation,
                prunable=setup.prunable,
                axes=setup.axes,
                key=setting.key,
            )
        except ValueError as e:
            raise UserError(f"{where}: {e}") from e
        return StartState(pruned_params if pipeline.removal is None else params, rest, masks)

    return start


def _gatherers(
    setting: Setting,
    rest: Any,
    pipeline: Pipeline,
    prunable: str | None,
    units: Coupled | None,
) -> Any:
    """Signals by keyword, on training examples drawn for this seed."""
    if pipeline.examples_per_class:
        batches = of_each_class(setting.task, setting.key, pipeline.examples_per_class)
    else:
        batches = examples(setting.task, setting.key, pipeline.examples)
    own = pipeline.signals
    return gatherers_of(setting.model, rest, batches, setting.key, own, prunable, units)


def signal_shapes(
    setup: Setup,
    names: Sequence[str],
    example_count: int,
    where: str,
    own: Mapping[str, Any] = {},
    units: Coupled | None = None,
) -> dict[str, Any] | None:
    """Returns the shapes of signals by keyword, before there are data; `None` where numbers decide them.

    Args:
      setup: of the config.
      names: keywords of the signals.
      example_count: of a batch.
      where: in the config, to blame.
      own: parts of `jaxprune.signals` by keyword, to set their options.
      units: that are pruned, if they are coupled.

    Raises:
      UserError: a signal cannot be gathered on the model.
    """

    def gathered(key: jax.Array, images: jax.Array, labels: jax.Array) -> Any:
        variables = setup.model.init(key, images)
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        batches = [(images, labels)]
        gatherers = gatherers_of(setup.model, rest, batches, key, own, setup.prunable, units)
        return collect(names, {**gatherers, "key": lambda _: key}, variables["params"])

    images = setup.example(example_count)
    labels = jax.ShapeDtypeStruct((example_count,), jnp.int32)
    try:
        return jax.eval_shape(gathered, jax.random.key(0), images, labels)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        return None
    except (TypeError, ValueError) as e:
        raise UserError(f"{where}: {e}") from e


def gatherers_of(
    model: Any,
    rest: Any,
    batches: Batches,
    key: jax.Array,
    own: Mapping[str, Any],
    prunable: str | None,
    units: Coupled | None = None,
) -> dict[str, Callable[[Any], Any]]:
    """Signals by keyword; `hessian_gradient` is at GraSP's temperature.

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
    gatherers = jp.signals.gatherers(batches, prunable=prunable, **common)
    for keyword, spec in own.items():
        signal = build("signal", spec)
        names = list(inspect.signature(signal).parameters)
        taken = {name: common[name] for name in common if name in names}
        gatherers[keyword] = functools.partial(_gather_own, signal, batches, taken)
    return gatherers


def _gather_own(
    signal: Callable[..., Any], batches: Any, given: Mapping[str, Any], params: Any
) -> Any:
    return signal(**given, params=params, batches=batches)


def examples(task: Task, key: jax.Array, count: int) -> Batches:
    """Returns batches of training examples, all of one size; a last one that is smaller is left out.

    Args:
      task: data.
      key: PRNG key, which draws the examples.
      count: of examples.

    Raises:
      UserError: there are fewer.
    """
    example_count = len(task.labels)
    if count > example_count:
        raise UserError(
            f"config: examples={count} for signals, but there are {example_count} in training."
        )
    drawn = _shuffled(task, key)[:count]
    batch_size = min(task.batch_size, count)
    rows = drawn[: count // batch_size * batch_size].reshape(-1, batch_size)
    return [_batch(task, row) for row in rows]


def of_each_class(task: Task, key: jax.Array, count: int) -> Batches:
    """Returns one batch of so many training examples of each class.

    Args:
      task: data.
      key: PRNG key, which draws the examples.
      count: of examples of each class.

    Raises:
      UserError: a class has fewer.
    """
    order = _shuffled(task, key)
    labels = np.asarray(task.labels)[order]
    of_classes = [order[labels == label][:count] for label in np.unique(labels)]
    least_count = min(map(len, of_classes))
    if least_count < count:
        raise UserError(
            f"config: examples_per_class={count} for signals, but a class has {least_count} in training."
        )
    rows = np.concatenate(of_classes)
    return [_batch(task, rows)]


def _batch(task: Task, rows: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Scaled images and labels of some training examples."""
    return scale(task.inputs[rows], task.scaling), task.labels[rows]


def _shuffled(task: Task, key: jax.Array) -> np.ndarray:
    """All training examples in the order in which they are drawn for signals."""
    seed = int(jax.random.bits(jax.random.fold_in(key, 4)))
    return np.random.default_rng(seed).permutation(len(task.labels))


def _functions(model: Any, rest: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Loss and logits, in evaluation mode."""

    def forward(params: Any, batch: Any) -> jax.Array:
        return model.apply({"params": params, **rest}, batch[0], train=False)

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
    seed = (str(setting.run), setting.folder.name)
    drawn = (pipeline.examples, pipeline.examples_per_class)
    pattern = str(pipeline.pattern) if name == "unit_taylor" else ""  # others are of weights
    key = (*seed, pipeline.when, pipeline.of, drawn, name, own, pattern)

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
