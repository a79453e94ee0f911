"""The network that is left once emptied units are gone: its size, counted by hand, and its accuracy."""

import jax
import jax.numpy as jnp
import optax
import pytest

import jaxprune as jp
from experiments.config import config, part
from experiments.metrics import shrunk
from experiments.training.task import fresh_variables, model_of, tasks
from experiments.training.trainer import Trainer


@pytest.fixture(scope="module")
def network():
    cfg = config(data=part("synthetic_mnist"), model=part("lenet_300_100"), validation=100)
    model, task = model_of(cfg), tasks(cfg, 0)[0]
    params, rest = fresh_variables(model, task, jax.random.key(0))
    return model, params, rest, jp.masks.make(params), task


def _tested(model, params, rest, task):
    return Trainer(model, optax.identity()).evaluate(params, rest, task.test)[1]


def test_emptied_units_are_gone_and_the_small_network_is_tested(network):
    model, params, rest, masks, task = network
    masks = {name: dict(leaf) for name, leaf in masks.items()}
    masks["fc1"]["kernel"] = masks["fc1"]["kernel"].at[:, ::3].set(False)  # 100 of 300 units
    masks["fc2"]["kernel"] = masks["fc2"]["kernel"].at[::3].set(False)
    masks["fc2"]["kernel"] = (
        masks["fc2"]["kernel"].at[5].set(False)
    )  # not emptied on its other side
    params = jp.masks.apply(params, masks)
    found = shrunk.measure(model, params, rest, masks, task)
    assert found["small_shapes"] == {
        "fc1/bias": [200], "fc1/kernel": [784, 200], "fc2/kernel": [200, 100]
    }  # fmt: skip
    assert found["small_parameters"] == 785 * 200 + 201 * 100 + 101 * 10
    assert found["small_accuracy"] == pytest.approx(_tested(model, params, rest, task), abs=1e-3)


def test_nothing_is_said_where_no_unit_is_empty(network):
    model, params, rest, masks, task = network
    some = jax.tree.map(lambda m: m & (jnp.arange(m.size).reshape(m.shape) % 7 != 0), masks)
    dense = jax.tree.map(jnp.ones_like, masks)
    assert shrunk.measure(model, params, rest, dense, task) == {}
    assert shrunk.measure(model, params, rest, some, task) == {}
