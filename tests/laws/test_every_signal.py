"""What holds for every signal that is gathered from batches: NaN in them is refused, and named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)
draw = lambda *shape: jnp.asarray(RNG.normal(size=shape), jnp.float32)
PARAMS = {"fc0": draw(6, 8), "scale": draw(8), "shift": draw(8), "fc1": draw(8, 3)}


def apply(params, batch):
    """A network with a normalisation's scale, whose last logits are masked out by `-inf` in a softmax."""
    hidden = batch["x"] @ params["fc0"] * params["scale"][None] + params["shift"][None]
    return jax.nn.relu(hidden) @ params["fc1"]


def output_loss(outputs, batch):
    kept = jax.nn.log_softmax(outputs + batch["mask"])[:, :2]
    return -jnp.mean(kept[jnp.arange(len(kept)), batch["y"]])


def loss(params, batch):
    return output_loss(apply(params, batch), batch)


def batch():
    x, y = draw(4, 6), jnp.asarray(RNG.integers(2, size=4))
    return {"mask": jnp.tile(jnp.array([[0.0, 0.0, -jnp.inf]]), (4, 1)), "x": x, "y": y}


BATCHES = [batch() for _ in range(3)]


def gathered(name, batches, params=PARAMS):
    known = jp.signals.gatherers(batches, **FUNCTIONS_OF_THE_NETWORK)
    return (known | {"mean_over": lambda p: jp.signals.mean_over(loss, p, batches)})[name](params)


UNITS = jp.structured.coupled(jp.structured.trace(apply, PARAMS, BATCHES[0]), over="outputs")
FUNCTIONS_OF_THE_NETWORK = {
    "loss": loss,
    "apply": apply,
    "output_loss": output_loss,
    "units": UNITS,
    "key": KEY,
}
NO_DATA = {"synaptic_flow"}  # it takes shapes alone
OF_ONE_BATCH = {"batchnorm_scales"}
FUNCTIONS = {  # that errors name, where it is not the keyword
    "hessian_gradient": "grads",
    **dict.fromkeys(jp.signals.Outputs._fields, "outputs"),
}
KNOWN = ["mean_over", *jp.signals.gatherers(BATCHES, **FUNCTIONS_OF_THE_NETWORK)]
told = lambda name: FUNCTIONS.get(name, name)
READING = [name for name in KNOWN if name not in NO_DATA]


def spoilt(index, leaf, value, kind=jnp.asarray, columns=1):
    worse = np.array(BATCHES[index][leaf])
    worse[1:3, :columns] = value
    batches = list(BATCHES)
    batches[index] = BATCHES[index] | {leaf: kind(worse)}
    return batches


@pytest.mark.parametrize("kind", [jnp.asarray, np.asarray])
@pytest.mark.parametrize("name", READING)
def test_a_batch_with_nan_is_refused_and_named(name, kind):
    index = 0 if name in OF_ONE_BATCH else 1
    says = rf"^{told(name)}: batch {index} .* has 2 NaN among the 24 numbers of its leaf 'x'"
    with pytest.raises(ValueError, match=says):
        gathered(name, spoilt(index, "x", np.nan, kind))


@pytest.mark.parametrize("name", KNOWN)
def test_infinities_are_no_mistake(name):
    assert all(not jnp.isnan(leaf).any() for leaf in jax.tree.leaves(gathered(name, BATCHES)))


@pytest.mark.parametrize("name", sorted(set(READING) - OF_ONE_BATCH))
def test_nan_that_the_function_makes_is_told(name):
    says = rf"^{told(name)}: the signal is NaN from batch 2 .* holds NaN: on these numbers"
    with pytest.raises(ValueError, match=says):
        gathered(name, spoilt(2, "x", np.inf, columns=6))  # inf - inf, as of an overflow


@pytest.mark.parametrize("name", sorted(set(READING) - {"input_moments", "grams"}))
def test_parameters_with_nan_are_the_cause(name):
    params = PARAMS | {"scale": PARAMS["scale"].at[0].set(jnp.nan)}
    says = r"the signal is NaN from batch 0 .* no batch holds NaN: the parameters do, at 'scale'"
    with pytest.raises(ValueError, match=says):
        gathered(name, BATCHES, params)


def test_signals_without_data_do_not_look_at_it():
    for name in NO_DATA:
        clean, spoiled = (gathered(name, b) for b in (BATCHES, spoilt(0, "x", np.nan)))
        for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(spoiled), strict=True):
            assert jnp.array_equal(a, b)


def test_what_is_traced_is_not_looked_at():
    mean = jax.jit(lambda w, x: jp.signals.mean_over(lambda w, x: jnp.mean(w * x), w, [x]))
    assert jnp.isnan(mean(1.0, jnp.array([jnp.nan])))


def test_nothing_waits_for_the_device_before_the_end(monkeypatch):
    """Counts stay on the device: one look for all batches."""
    looks = []
    get = jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda tree: looks.append(0) or get(tree))
    jp.signals.grads(loss, PARAMS, BATCHES)
    assert len(looks) == 1
