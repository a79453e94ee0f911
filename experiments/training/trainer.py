"""A model and an optimizer, compiled: what one chunk of updates and one evaluation are.

One compiled function runs a chunk of updates in a device loop, with the data on the device and the state
donated; a second one evaluates.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.training.augment import Augment
from experiments.training.divergence import finite
from experiments.training.task import Batches, evaluated, metrics, scale
from jaxprune import average_of, forward_params, gates, masks_of

__all__ = ["TrainState", "Trainer"]


class TrainState(NamedTuple):
    """What training changes: parameters, the model's other variables, the optimizer's state."""

    params: Any
    rest: Any
    opt_state: Any

    @property
    def masks(self) -> Any:
        """The masks in force; they live in the optimizer's state alone."""
        return masks_of(self.opt_state)


class Trainer:
    """A model and an optimizer, compiled: `run` makes updates, `evaluate` looks.

    One trainer serves all seeds and levels of an experiment: what differs is in the state and the data.

    Args:
      model: a linen module.
      tx: the optimizer.
      augment: of the training images.
      gate: between the parameters in the state and those of the model.
    """

    def __init__(
        self,
        model: Any,
        tx: optax.GradientTransformation,
        augment: Augment | None = None,
        gate: gates.Gate | None = None,
    ):
        self.run = jax.jit(functools.partial(_run, model, tx, augment, gate), donate_argnums=0)
        self._final = jax.jit(functools.partial(_final, gate))
        self._evaluate = jax.jit(functools.partial(_evaluate, model))

    def network(self, state: TrainState, step: int) -> Any:
        """Returns the parameters to evaluate after so many updates: averaged, sparse, without noise.

        Not those that change where training is straight through, or where there are gates.
        """
        return self._final(state, step)[0]

    def masks(self, state: TrainState, step: int) -> Any:
        """Returns the masks of this network."""
        masks = self._final(state, step)[1]
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
        return finite(float(loss) / int(count), what), int(correct) / int(count)


def _run(model, tx, augment, gate, state: TrainState, inputs, labels, key, rows, step, count):
    """Makes `count` updates from the batches in `rows`; returns the state and the sum of their losses.

    Losses are those of the examples; what a gate adds is not among them.
    """

    def loss_of(params, rest, row, key, step):
        images = inputs[row]
        if augment is not None:
            images = augment(images, jax.random.fold_in(key, 1))

        def forward(params, images):
            return model.apply(
                {"params": params, **rest},
                images,
                train=True,
                mutable=list(rest),
                rngs={"dropout": key},
            )

        if gate is None:
            (logits, changed), penalty = forward(params, scale(images)), 0.0
        else:
            draws = jax.random.fold_in(key, 2)
            found = gates.apply(gate, forward, params, scale(images), key=draws, step=step)
            (logits, changed), penalty = found, gate.penalty(params, step)
        loss = metrics(logits, labels[row])[0] / row.size
        return loss + penalty, (loss, changed)

    def body(i, carry):
        state, total = carry
        now = step + i
        noise = jax.random.fold_in(key, now)
        grad = jax.grad(loss_of, has_aux=True)
        params = forward_params(state.params, state.opt_state)
        grads, (loss, rest) = grad(params, state.rest, rows[i], noise, now)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(params, rest, opt_state), total + loss

    return jax.lax.fori_loop(0, count, body, (state, jnp.zeros(())))


def _final(gate, state: TrainState, step):
    """The parameters to evaluate, and their masks."""
    params = average_of(forward_params(state.params, state.opt_state), state.opt_state)
    return (params, None) if gate is None else gate.finalize(params, step)


def _evaluate(model, params, rest, batches: Batches):
    return evaluated(lambda x: model.apply({"params": params, **rest}, x, train=False), batches)
