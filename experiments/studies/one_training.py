"""One training of a seed: what several studies repeat, over seeds, folds, contestants."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

import jaxprune as jp
from experiments.metrics import shrunk, training_cost
from experiments.runs import mask_files
from experiments.runs.folder import Folder
from experiments.runs.options import Options
from experiments.runs.progress import Part, Progress
from experiments.training.loop import Level, Run, fit
from experiments.training.setup import Setup
from experiments.training.task import Task, fresh_variables, scale, tasks
from experiments.training.trainer import Trainer, TrainState
from experiments.training.tree_digest import digest
from experiments.ways.recipe import Recipe, Transform
from experiments.ways.start import Setting

__all__ = ["Info", "train_once"]


class Info(NamedTuple):
    """What the trainings of one process share, and where this one stands among them.

    Attributes:
      setup: of the config.
      options: of the command line.
      progress: of all trainings in updates, or of this one's updates.
      offset: updates of those before this one.
      label: what this one is, in words.
      initial: (seed, fresh parameters) -> the parameters and other variables to begin with; `None`: the
        fresh ones.
    """

    setup: Setup
    options: Options
    progress: Progress | Part
    offset: int
    label: str
    initial: Callable[[int, Any], tuple[Any, Any]] | None = None

    @property
    def cfg(self) -> ConfigDict:
        """The config."""
        return self.setup.cfg


def train_once(
    info: Info,
    trainer: Trainer,
    recipe: Recipe,
    folder: Folder,
    seed: int,
    fold: int = 0,
    more: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any] | None:
    """Trains, or goes on with, one seed.

    Args:
      info: what it shares with others.
      trainer: compiled for this model and recipe.
      recipe: how the model becomes sparse.
      folder: of this training alone.
      seed: of the initial weights, the hold-out and the order of the examples: the same for every method.
      fold: of a cross-validation.
      more: results to add when it is over.

    Returns:
      Its results, or `None` if it was asked to stop.
    """
    setup = info.setup
    steps = recipe.steps(setup.cfg.steps)
    if folder.done:
        info.progress.update(info.offset + steps, info.label)
        return _renamed(folder.results[0])
    task = tasks(setup.cfg, seed)[fold]
    init, noise, draws = jax.random.split(jax.random.fold_in(jax.random.key(seed), fold), 3)
    params, rest = fresh_variables(setup.model, task, init)
    if info.initial is not None:
        params, rest = info.initial(seed, params)
    initial = digest(params)
    start = _start(setup, recipe, task, params, rest, draws, folder)

    def describe(level: Level, state: TrainState) -> dict[str, Any]:
        common = {"initial": initial, **more()}
        return _measured(setup, trainer, recipe, task, state, folder, common)

    run = Run(
        cfg=setup.cfg,
        task=task,
        key=noise,
        folder=folder,
        progress=info.progress,
        offset=info.offset,
        stopper=info.options.stopper,
        label=info.label,
        order=(seed, fold),
        workdir=info.options.workdir,
    )
    settled = steps if recipe.settled is None else recipe.settled
    level = Level(0, 0, steps, settled=settled)
    results = fit(trainer, [level], lambda level: start, run, describe)
    return None if results is None else _renamed(results[0])


def _start(
    setup: Setup,
    recipe: Recipe,
    task: Task,
    params: Any,
    rest: Any,
    key: jax.Array,
    folder: Folder,
) -> TrainState:
    """The state that training begins with, from freshly drawn weights."""
    if recipe.gate is not None:
        params = recipe.gate.init(params, key)
    if recipe.start is None:
        opt_state = _initializer(recipe.transform)(key, params)
    else:
        begun = recipe.start(Setting(setup.model, task, params, rest, key, folder.path))
        params, rest, masks = begun
        opt_state = recipe.transform(masks).init(params)
    if recipe.masked:
        params = jp.masks.apply(params, jp.masks_of(opt_state))
    return TrainState(params, rest, opt_state)


@functools.lru_cache(maxsize=1)
def _initializer(transform: Transform) -> Any:
    """Compiled once for all seeds."""
    return jax.jit(lambda key, params: transform(key).init(params))


def _measured(
    setup: Setup,
    trainer: Trainer,
    recipe: Recipe,
    task: Task,
    state: TrainState,
    folder: Folder,
    common: dict[str, Any],
) -> dict[str, Any]:
    """How sparse a trained network is, what that saves, and a digest of it; its masks are stored."""
    steps = recipe.steps(setup.cfg.steps)
    network = trainer.network(state, steps)
    masks = recipe.masks_of(trainer, state, network, steps)
    if masks is None:
        return {"sparsity": 0.0, "digest": digest(network), **common}
    mask_files.save(folder.path / "masks.npz", masks)
    effective = _effective(setup.model, network, state.rest, masks, task)
    is_compared = bool(setup.cfg.compare)
    return {
        "sparsity": float(jp.masks.sparsity(masks)),
        **({"effective_sparsity": float(jp.masks.sparsity(effective))} if effective else {}),
        **shrunk.measure(
            setup.model, network, state.rest, effective or masks, task, timed=is_compared
        ),
        **_cost(recipe, state, setup.cfg, _per_leaf(masks, effective, setup.axes)),
        **recipe.measure(network, state.opt_state),
        "digest": digest((network, masks)),
        **common,
    }


def _effective(model: Any, params: Any, rest: Any, masks: Any, task: Task) -> Any:
    """The masks of what is left where dead units are removed; `None` where that cannot be told."""

    def forward(variables: Any, images: jax.Array) -> jax.Array:
        return model.apply(variables, images, train=False)

    no_masks = jax.tree.map(lambda x: None, rest)
    variables = {"params": params, **rest}
    masks = {"params": masks, **no_masks}
    try:
        image = scale(task.inputs[:1], task.scaling)
        return jp.metrics.effective(forward, variables, masks, image)["params"]
    except ValueError:  # LayerNorm, attention
        return None


def _cost(
    recipe: Recipe, state: TrainState, cfg: ConfigDict, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """The rows with the share of dense training that each leaf has cost, and what was ever alive."""
    if not recipe.recorded:
        return {"per_leaf": [{**row, "training": 1.0} for row in rows]}
    record = jp.record_of(state.opt_state)
    steps = recipe.steps(cfg.steps)
    by_leaf = training_cost.shares(recipe.method, record.density, steps, dense=recipe.learned)
    shares = jax.tree.leaves(by_leaf)
    return {
        **({"explored": float(record.exploration)} if recipe.after is None else {}),
        "per_leaf": [{**row, "training": s} for row, s in zip(rows, shares, strict=True)],
    }


def _per_leaf(masks: Any, effective: Any, axes: Any) -> list[dict[str, Any]]:
    """Weights kept; of those, if known, the effective ones, and the inputs and outputs that have any."""
    if effective is None:
        return jp.masks.summary(masks)
    alive = {unit["leaf"]: unit for unit in jp.metrics.units(effective, axes)}
    pairs = zip(jp.masks.summary(masks), jp.masks.summary(effective), strict=True)
    return [
        {**leaf, "effective": other["kept"], **alive.get(leaf["leaf"], {})} for leaf, other in pairs
    ]


def _renamed(result: dict[str, Any]) -> dict[str, Any]:
    """What `fit` returns, by the names of the results file."""
    result = dict(result)
    return {
        "test_accuracy": result.pop("test_final"),
        **({"test_accuracy_early": result.pop("test_early")} if "test_early" in result else {}),
        **result,
    }
