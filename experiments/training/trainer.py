"""A trainer: the compiled functions for a chunk of updates and for an evaluation.

One compiled function runs a chunk of updates in a device loop, with the data on the device and the state
donated; a second one evaluates.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.training.augment import Augment
from experiments.training.distillation import Teacher, distillation_loss
from experiments.training.divergence import require_finite
from experiments.training.task import Batches, evaluated, metrics, scale
from jaxprune import average_of, forward_params, gates, masks_of

__all__ = ["TrainState", "Trainer"]


class TrainState(NamedTuple):
    """State of a training.

    Attributes:
      params: the parameters.
      rest: the model's other variables, such as statistics of BatchNorm.
      opt_state: the optimizer's state.
    """

    params: Any
    rest: Any
    opt_state: Any

    @property
    def masks(self) -> Any:
        """Returns the masks in force, which are stored in the optimizer's state alone."""
        return masks_of(self.opt_state)


class Trainer:
    """Compiled functions of a model and an optimizer: `run` makes updates, `evaluate` measures.

    One trainer serves all seeds and levels of an experiment: what differs is in the state and the data.

    Args:
      model: a linen module.
      tx: the optimizer.
      augment: augmentation of the training images; `None` for none.
      gate: between the parameters in the state and those of the model; `None` for none.
    """

    def __init__(
        self,
        model: Any,
        tx: optax.GradientTransformation,
        augment: Augment | None = None,
        gate: gates.Gate | None = None,
    ):
        self.run = jax.jit(
            functools.partial(_run_updates, model, tx, augment, gate), donate_argnums=0
        )
        self._finalize = jax.jit(functools.partial(_finalize_network, gate))
        self._evaluate = jax.jit(functools.partial(_evaluate_network, model))

    def network(self, state: TrainState, step: int) -> Any:
        """Returns the parameters to evaluate: averaged, sparse, without noise.

        They differ from `state.params` where training is straight through, or where there are gates.

        Args:
          state: of the training.
          step: updates done.
        """
        return self._finalize(state, step)[0]

    def masks(self, state: TrainState, step: int) -> Any:
        """Returns the masks of `network(state, step)`."""
        masks = self._finalize(state, step)[1]
        return state.masks if masks is None else masks

    def evaluate(
        self, network: Any, rest: Any, batches: Batches, what: str = "the loss"
    ) -> tuple[float, float]:
        """Returns mean loss and accuracy of a network and the model's other variables.

        Args:
          network: parameters of the model.
          rest: its other variables.
          batches: labelled examples.
          what: what this loss is called where it is not finite, "seed 0: the test loss".

        Raises:
          DivergedError: the loss is not finite.
        """
        loss, correct, count = self._evaluate(network, rest, batches)
        return require_finite(float(loss) / int(count), what), int(correct) / int(count)


def _run_updates(
    model,
    optimizer,
    augment,
    gate,
    state: TrainState,
    inputs,
    labels,
    scaling,
    key,
    example_rows,
    step,
    count,
    teacher: Teacher | None = None,
):
    """Makes `count` updates; returns the state and the sum of their losses.

    Row `i` of `example_rows` holds the examples of update `i`.

    Losses are those of the examples and their labels, also where a teacher's outputs are the targets; what a
    gate adds is not among them.
    """

    def training_loss(params, rest, example_indices, key, step):
        images = inputs[example_indices]
        if augment is not None:
            images = augment(images, jax.random.fold_in(key, 1))
        images = scale(images, scaling)

        def forward(params, images):
            return model.apply(
                {"params": params, **rest},
                images,
                train=True,
                mutable=list(rest),
                rngs={"dropout": key},
            )

        if gate is None:
            logits, new_rest = forward(params, images)
            penalty = 0.0
        else:
            gate_key = jax.random.fold_in(key, 2)
            logits, new_rest = gates.apply(gate, forward, params, images, key=gate_key, step=step)
            penalty = gate.penalty(params, step)
        loss = metrics(logits, labels[example_indices])[0] / example_indices.size
        objective = loss
        if teacher is not None:
            teacher_logits = model.apply(teacher.variables, images, train=False)
            objective = distillation_loss(logits, teacher_logits, teacher.temperature)
        return objective + penalty, (loss, new_rest)

    def make_update(index, carry):
        state, loss_sum = carry
        update_index = step + index
        noise_key = jax.random.fold_in(key, update_index)
        loss_gradient = jax.grad(training_loss, has_aux=True)
        params = forward_params(state.params, state.opt_state)
        grads, (loss, rest) = loss_gradient(
            params, state.rest, example_rows[index], noise_key, update_index
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, rest, opt_state), loss_sum + loss

    return jax.lax.fori_loop(0, count, make_update, (state, jnp.zeros(())))


def _finalize_network(gate, state: TrainState, step):
    """Returns the parameters to evaluate, and their masks; `None` where the optimizer has them."""
    params = average_of(forward_params(state.params, state.opt_state), state.opt_state)
    return (params, None) if gate is None else gate.finalize(params, step)


def _evaluate_network(model, params, rest, batches: Batches):
    return evaluated(
        lambda images: model.apply({"params": params, **rest}, images, train=False), batches
    )
