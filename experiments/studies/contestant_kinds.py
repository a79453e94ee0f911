"""Contestants of a comparison: a way of its own, a criterion in the common pipeline, a control."""

import dataclasses
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from experiments.config import UserError, build, part, training_examples, user_files
from experiments.config.fields import DENSE, WAYS
from experiments.config.sections import check_end
from experiments.ways.pipeline import Pipeline
from experiments.ways.quantisation import Quantisation

if TYPE_CHECKING:
    from experiments.training.setup import Setup
    from experiments.ways.recipe import Recipe

__all__ = ["ByCriterion", "ByWay", "Contestant", "Control", "Quantised"]


@dataclasses.dataclass(frozen=True)
class Contestant:
    """Who takes part, at several sparsities or strengths.

    Attributes:
      label: its name in tables.
      where: in the config.
      varies: "sparsity" or "strength".
      points: the values that it takes.
    """

    label: str
    where: str
    varies: str
    points: tuple[float, ...]

    @property
    def file(self) -> str | None:
        """`path/to/file.py:function` of a criterion of the user's."""
        return None

    @property
    def leaves_masks(self) -> bool:
        """Whether controls can be trained on its masks."""
        return True

    @property
    def fixed_from_start(self) -> bool:
        """Whether its masks are fixed before training."""
        return False

    @property
    def trains_sparse(self) -> bool:
        """Whether its optimizer has found the masks of its network by the end of training."""
        return False

    def check(self, cfg: ConfigDict) -> None:
        """Raises `UserError` if it does not fit the common fields of a config."""

    def recipe(self, setup: "Setup", value: float) -> "Recipe":
        """Builds what trains at a sparsity or strength."""
        raise NotImplementedError

    def folder(self, value: float) -> str:
        """Returns the folder of its trainings at a point, within the run folder."""
        return f"{self.label}/{self.varies}_{value:g}"


@dataclasses.dataclass(frozen=True)
class ByWay(Contestant):
    """A way of its own: a method, a gate, a penalty.

    Attributes:
      way: see `experiments.config.fields.WAYS`.
      spec: the part, without what varies.
    """

    way: str
    spec: Any

    @property
    def trains_sparse(self) -> bool:
        """Whether it is a method."""
        return self.way == "method"

    @property
    def leaves_masks(self) -> bool:
        """Whether its way does."""
        return WAYS[self.way].leaves_masks

    def check(self, cfg: ConfigDict) -> None:
        """Raises `UserError` if its schedule ends after training."""
        check_end(self.spec, cfg.steps, self.where)

    def recipe(self, setup: "Setup", value: float) -> "Recipe":
        """Builds its recipe with what varies filled in."""
        from experiments.ways.recipe import recipe_of

        return recipe_of(setup, self.way, self.spec, self.where, **{self.varies: value})


@dataclasses.dataclass(frozen=True)
class ByCriterion(Contestant):
    """A criterion in a pipeline.

    Attributes:
      criterion: a name, a part, or `path/to/file.py:function`.
      pipeline: the common one, with what is its own.
      trained: whose network is pruned where that is not the dense one.
    """

    criterion: Any
    pipeline: Pipeline
    trained: Contestant | None = None

    @property
    def file(self) -> str | None:
        """`path/to/file.py:function` of a criterion of the user's."""
        name = self.criterion
        return name if isinstance(name, str) and user_files.is_file(name) else None

    @property
    def fixed_from_start(self) -> bool:
        """Whether its masks are made before training."""
        return self.pipeline.when == "initialisation"

    @property
    def trains_sparse(self) -> bool:
        """Whether its masks are made while training."""
        return self.pipeline.when == "training"

    def check(self, cfg: ConfigDict) -> None:
        """Raises `UserError` if it asks for signals on more training examples than there are."""
        known = training_examples(cfg.data.name)
        pipeline = self.pipeline
        if known is None or pipeline.when == "training" or pipeline.examples_per_class:
            return
        if pipeline.examples > known - cfg.validation:
            raise UserError(
                f"{self.where}: examples={pipeline.examples} for signals, but there are "
                f"{known - cfg.validation} in training."
            )

    def recipe(self, setup: "Setup", value: float) -> "Recipe":
        """Builds its recipe: a method while training, or masks made at once."""
        from experiments.ways import oneshot
        from experiments.ways.recipe import recipe_of

        if self.pipeline.when == "training":
            criterion = self._built(("grads", "key"), memories=True)
            method = self.pipeline.method(criterion, value)
            return recipe_of(setup, "method", method, self.where)
        signals = oneshot.known_signals(self.pipeline.signals)
        method = self.pipeline.method(self._built(signals), value)
        trained = DENSE, recipe_of(setup, DENSE, None, self.where)
        if self.trained is not None:
            (point,) = self.trained.points
            trained = self.trained.folder(point), self.trained.recipe(setup, point)
        return oneshot.recipe(setup, self.pipeline, method, trained, self.where)

    def _built(self, signals: tuple[str, ...], memories: bool = False) -> Any:
        """The criterion, which may read these signals, and memories that it declares."""
        if self.file is not None:
            return user_files.load(self.file, self.where, signals, memories=memories)
        spec = self.criterion
        return build("criterion", part(spec) if isinstance(spec, str) else spec)


@dataclasses.dataclass(frozen=True)
class Quantised(Contestant):
    """The networks of another contestant with few values.

    Attributes:
      trained: the other.
      fields: of an entry of `config.compare.quantised`.
    """

    trained: Contestant
    fields: Any

    @property
    def leaves_masks(self) -> bool:
        """Its masks are those of the other, whose controls say all that they would."""
        return False

    def recipe(self, setup: "Setup", value: float) -> "Recipe":
        """Builds its recipe, which finds the other's network when it starts."""
        from experiments.ways.quantised import recipe

        trained = self.trained.recipe(setup, value)
        return recipe(setup, Quantisation(**self.fields), trained, self.where)


@dataclasses.dataclass(frozen=True)
class Control(Contestant):
    """A training on the masks of another contestant.

    Attributes:
      of: label of the other.
      control: "retrained", "shuffled", "row-shuffled" or "reinit".
    """

    of: str
    control: str

    def recipe(self, setup: "Setup", value: float) -> "Recipe":
        """Builds its recipe, which finds the other's masks when it starts."""
        from experiments.ways import fixed_masks

        return fixed_masks.recipe(setup, self.of, self.control)
