"""Loops built like those of public trainers, saved and resumed their way: the same bits as without a stop.

The structure is theirs, the size is not: two layers, a few updates. What each reads of the optimizer's state
is read here as well.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import jax_utils, nnx, serialization
from flax.training.train_state import TrainState

import jaxprune as jp

KEY = jax.random.key(0)
RIGL = jp.methods.rigl(sparsity=0.5, every=2, end=20)
GMP = jp.methods.gmp(sparsity=0.5, begin=1, end=6, every=2)
STEPS, STOP = 8, 5  # updates, and after which the run is saved and started again


@pytest.fixture(autouse=True)
def ranks_may_differ():
    with jax.numpy_rank_promotion("allow"):  # as everywhere outside of this repository
        yield


class Net(nn.Module):
    norm: bool = False

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dense(8)(x)
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(4)(nn.relu(x))


def batch(step):
    return jax.random.normal(jax.random.fold_in(KEY, step), (8, 6))


def identical(a, b):
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)


def orbax(folder, tree):
    """The tree, written by Orbax and read into a new tree of the same shapes."""
    from orbax.checkpoint import StandardCheckpointer

    with StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", tree)
        checkpointer.wait_until_finished()
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree
        )
        return checkpointer.restore(folder / "state", like)


def test_nanodo_accumulates_outside_and_saves_with_orbax(tmp_path):
    """`MultiSteps` is outermost and its `gradient_step` is read; the state is one pytree for Orbax."""
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
    tx = optax.MultiSteps(jp.sparsify(inner, RIGL, key=KEY), every_k_schedule=2)
    net = Net()
    params = net.init(KEY, batch(0))["params"]
    state = {"params": params, "opt_state": tx.init(params), "step": jnp.zeros((), jnp.int32)}

    @jax.jit
    def train_step(state):
        loss = lambda p: jnp.mean(net.apply({"params": p}, batch(state["step"])) ** 2)
        grads = jax.grad(loss)(state["params"])
        updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        metrics = {"opt_step": opt_state.gradient_step}
        return {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, metrics

    run = state
    for step in range(2 * STEPS):
        run, metrics = train_step(run)
        if step + 1 == 2 * STOP + 1:  # between two updates, while gradients are gathered
            resumed = orbax(tmp_path, run)
    for _ in range(2 * STOP + 1, 2 * STEPS):
        resumed, _ = train_step(resumed)
    assert int(metrics["opt_step"]) == STEPS
    assert identical(run, resumed)
    jp.masks.check(run["params"], jp.masks_of(run["opt_state"]))


@pytest.mark.parametrize("packed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_lm1b_saves_a_train_state_as_msgpack(packed):
    net = Net()
    params = net.init(KEY, batch(0))["params"]
    tx = jp.sparsify(
        optax.adamw(optax.warmup_cosine_decay_schedule(0, 1e-2, 2, 9)), GMP, packed=packed
    )
    new = lambda: TrainState.create(apply_fn=net.apply, params=params, tx=tx)

    @jax.jit
    def train_step(state):
        loss = lambda p: jnp.mean(state.apply_fn({"params": p}, batch(state.step)) ** 2)
        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    state = new()
    for step in range(STEPS):
        state = train_step(state)
        if step + 1 == STOP:
            resumed = serialization.from_bytes(new(), serialization.to_bytes(state))
    for _ in range(STOP, STEPS):
        resumed = train_step(resumed)
    assert identical(state, resumed)
    jp.masks.check(state.params, jp.masks_of(state.opt_state))


def test_imagenet_replicates_its_state_and_carries_statistics(tmp_path):
    class State(TrainState):
        batch_stats: dict

    net = Net(norm=True)
    variables = net.init(KEY, batch(0))
    tx = jp.sparsify(optax.sgd(1e-2, momentum=0.9, nesterov=True), GMP)
    create = lambda: State.create(
        apply_fn=net.apply,
        params=variables["params"],
        tx=tx,
        batch_stats=variables["batch_stats"],
    )

    def train_step(state, x):
        def loss(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            outputs, new = state.apply_fn(variables, x, mutable=["batch_stats"])
            return jnp.mean(outputs**2), new["batch_stats"]

        grads, statistics = jax.grad(loss, has_aux=True)(state.params)
        grads = jax.lax.pmean(grads, "batch")
        return state.apply_gradients(grads=grads, batch_stats=jax.lax.pmean(statistics, "batch"))

    step_on_all = jax.pmap(train_step, axis_name="batch", donate_argnums=(0,))
    state = jax_utils.replicate(create())
    for step in range(STEPS):
        state = step_on_all(state, batch(step)[None])
        if step + 1 == STOP:
            resumed = jax_utils.replicate(orbax(tmp_path, jax_utils.unreplicate(state)))
    for step in range(STOP, STEPS):
        resumed = step_on_all(resumed, batch(step)[None])
    assert identical(state, resumed)
    one = jax_utils.unreplicate(state)
    jp.masks.check(one.params, jp.masks_of(one.opt_state))


@pytest.mark.slow
def test_purejaxrl_scans_over_updates_and_maps_over_seeds(tmp_path):
    net = Net()

    def make_train(key):
        params = net.init(key, batch(0))["params"]
        tx = optax.chain(
            optax.clip_by_global_norm(0.5), jp.sparsify(optax.adam(1e-2), RIGL, key=KEY)
        )
        state = TrainState.create(apply_fn=net.apply, params=params, tx=tx)

        def update(state, step):
            loss = lambda p: jnp.mean(state.apply_fn({"params": p}, batch(step)) ** 2)
            return state.apply_gradients(grads=jax.grad(loss)(state.params)), loss(state.params)

        return state, update

    keys, half = jax.random.split(KEY, 2), STEPS // 2
    first = jax.jit(jax.vmap(lambda key: make_train(key)[0]))(keys)
    part = jax.jit(
        lambda state, steps: jax.vmap(
            lambda key, own: jax.lax.scan(make_train(key)[1], own, steps)[0]
        )(keys, state)
    )
    middle = part(first, jnp.arange(half))
    whole = part(middle, jnp.arange(half, STEPS))
    resumed = part(orbax(tmp_path, middle), jnp.arange(half, STEPS))
    assert identical(whole, resumed)
    for seed in range(2):
        own = jax.tree.map(lambda x, seed=seed: x[seed], whole)
        jp.masks.check(own.params, jp.masks_of(own.opt_state))


def test_tunix_reads_every_variable_and_saves_the_optimizer(tmp_path):
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first, self.last = nnx.Linear(6, 8, rngs=rngs), nnx.Linear(8, 4, rngs=rngs)

        def __call__(self, x):
            return self.last(nnx.relu(self.first(x)))

    def create():
        model = Model(nnx.Rngs(0))
        tx = jp.sparsify(optax.inject_hyperparams(optax.adam)(learning_rate=1e-2), RIGL, key=KEY)
        return model, nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def train_step(model, optimizer, x):
        optimizer.update(model, nnx.grad(lambda model: jnp.mean(model(x) ** 2))(model))

    model, optimizer = create()
    for step in range(STEPS):
        train_step(model, optimizer, batch(step))
        if step + 1 == STOP:
            again, again_optimizer = create()
            saved = orbax(tmp_path, nnx.as_pure(nnx.state((model, optimizer))))
            nnx.update((again, again_optimizer), saved)
    dtypes = {
        path: leaf.get_value().dtype
        for path, leaf in nnx.to_flat_state(nnx.state(optimizer, nnx.optimizer.OptState))
    }
    assert jnp.dtype(bool) in dtypes.values(), "masks are among them"
    assert float(optimizer.opt_state.hyperparams["learning_rate"][...]) == np.float32(1e-2)
    for step in range(STOP, STEPS):
        train_step(again, again_optimizer, batch(step))
    assert identical(nnx.state((model, optimizer)), nnx.state((again, again_optimizer)))
    jp.masks.check(nnx.state(model, nnx.Param), jp.masks_of(optimizer.opt_state))
