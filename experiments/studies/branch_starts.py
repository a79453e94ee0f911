"""What the branches of a ticket begin with: masks, weights and optimizer state, from the levels on disk."""

from typing import Any, Literal

import jax
import optax

import jaxprune as jp
from experiments.config import UserError
from experiments.runs.level_files import LevelFiles
from experiments.studies.branch_plan import AT_INIT, EXAMPLES, EXAMPLES_PER_CLASS, Branch
from experiments.studies.lottery_runs import keys_of_seed
from experiments.training.setup import Setup
from experiments.training.task import Task, fresh_variables
from experiments.training.trainer import TrainState
from experiments.ways import oneshot
from jaxprune.transforms.masked_step import refresh

__all__ = ["Starts"]

_SYNFLOW_ROUNDS = 100

_WITHIN: dict[str, Literal["layer", "rows", "tree"]] = {
    "shuffled": "layer",
    "shuffled in rows": "rows",
    "shuffled over layers": "tree",
}


class Starts:
    """The beginnings of all branches of one seed's ticket.

    Whatever is drawn depends on the seed and the level alone: branches share shuffled masks and new weights,
    and copies of a branch begin alike.

    Args:
      setup: of the config.
      task: the seed's data.
      seed: of the ticket.
      kept_levels: what the ticket has left.
    """

    def __init__(self, setup: Setup, task: Task, seed: int, kept_levels: LevelFiles):
        self._setup = setup
        self._task = task
        self._kept_levels = kept_levels
        keys = keys_of_seed(seed)
        self._key = jax.random.fold_in(keys["controls"], 0)  # controls have the streams from 1 on
        self._initial, self._initial_rest = self._draw(keys["init"])
        self._masks_before_training: dict[tuple[str, int], Any] = {}

    def state(self, branch: Branch, level: int) -> TrainState:
        """Returns the state in which the training of a branch begins.

        Args:
          branch: what is trained.
          level: of the ticket.
        """
        optimizer = self._setup.optimizer
        if branch.kept == "rewound":
            params, rest, inner_state = self._point()
        else:
            params, rest, inner_state = self._initial, self._initial_rest, None
        if branch.kept == "trained":
            rest = {name: tree for name, tree in self.trained(0).items() if name != "params"}
        masks = self.masks(branch, level)
        weights = self._kept_weights(branch, params, masks, self._level_key(level, 1))
        opt_state: Any = jp.fixed(optimizer, masks).init(weights)
        if inner_state is not None:
            inner = optax.with_extra_args_support(optimizer)
            opt_state = opt_state._replace(inner=refresh(inner, inner_state, weights, masks))
        if branch.pruned != "zero":
            trained = None if branch.pruned == "initial" else self.trained(0)["params"]
            weights = jp.lottery.fill_pruned(weights, masks, params, trained)
        return TrainState(weights, rest, opt_state)

    def masks(self, branch: Branch, level: int) -> Any:
        """Returns the masks of a branch."""
        ticket_masks = self._kept_levels.masks(level, self._initial)
        key = self._level_key(level, 0)
        axes = self._setup.axes
        if branch.masks == "ticket":
            return ticket_masks
        if branch.masks in _WITHIN:
            return jp.masks.shuffle(ticket_masks, key, axes, within=_WITHIN[branch.masks])
        if branch.masks in AT_INIT:
            found = self._masks_before_training
            if (branch.masks, level) not in found:
                found[branch.masks, level] = self._masks_at_init(branch.masks, ticket_masks)
            return found[branch.masks, level]
        criterion = jp.lottery.CRITERIA[branch.masks]
        signals = {"initial_params": self._initial, "key": key}
        trained = self.trained(0)["params"]
        return jp.lottery.masks_like(ticket_masks, trained, criterion, axes=axes, **signals)

    def trained(self, level: int) -> Any:
        """Returns the variables that a level of the ticket has trained."""
        template = {"params": self._initial, **self._initial_rest}
        return self._kept_levels.variables(level, template)

    def _masks_at_init(self, name: str, ticket_masks: Any) -> Any:
        """Masks that are found on the initial weights, and keep as many of them in all as the ticket's."""
        key = self._level_key(0, 2)  # at all levels of the same examples
        criteria = {
            "SNIP": jp.criteria.snip,
            "GraSP": jp.criteria.grasp,
            "SynFlow": jp.criteria.synflow,
        }
        method = jp.Method(
            criteria[name],
            schedule=jp.schedules.one_shot(sparsity=float(jp.masks.sparsity(ticket_masks))),
            allocation=jp.allocation.global_budget(),
        )
        setup = self._setup
        try:
            if name == "GraSP":
                batches = oneshot.of_each_class(self._task, key, EXAMPLES_PER_CLASS)
            else:
                one_batch = self._task._replace(batch_size=EXAMPLES)
                batches = oneshot.examples(one_batch, key, EXAMPLES)
            gatherers = oneshot.gatherers_of(
                setup.model, self._initial_rest, batches, key, {}, setup.prunable
            )
            _, masks = jp.prune_on(
                self._initial,
                method,
                gatherers,
                rounds=_SYNFLOW_ROUNDS if name == "SynFlow" else 1,
                prunable=setup.prunable,
                axes=setup.axes,
                key=key,
            )
        except (UserError, ValueError) as error:
            raise UserError(f"config.branches.branches: masks {name!r}: {error}") from error
        return masks

    def _kept_weights(self, branch: Branch, params: Any, masks: Any, key: jax.Array) -> Any:
        axes = self._setup.axes
        keep_signs = branch.kept.endswith("same sign")
        if branch.kept == "rewound":
            return jp.masks.apply(params, masks)
        if branch.kept == "trained":
            return jp.masks.apply(self.trained(0)["params"], masks)
        if branch.kept.startswith("reinit"):
            return jp.lottery.reinitialize(
                params, masks, key, lambda key: self._draw(key)[0], keep_signs=keep_signs
            )
        if branch.kept.startswith("reshuffle"):
            return jp.lottery.reshuffle(params, masks, key, keep_signs=keep_signs, axes=axes)
        return jp.lottery.constant(params, masks, None if keep_signs else key, axes=axes)

    def _point(self) -> tuple[Any, Any, Any]:
        inner_state = self._setup.optimizer.init(self._initial)
        return self._kept_levels.point(TrainState(self._initial, self._initial_rest, inner_state))

    def _level_key(self, level: int, use: int) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(self._key, level), use)

    def _draw(self, key: jax.Array) -> tuple[Any, Any]:
        return fresh_variables(self._setup.model, self._task, key)
