"""Sparsity in Flax's own loops: `nnx.Optimizer` and linen's `TrainState`."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.training.train_state import TrainState
from jax.sharding import PartitionSpec as P

import jaxprune as jp

X = jax.random.normal(jax.random.key(0), (16, 8))
GMP = jp.methods.gmp(sparsity=0.75, begin=1, end=6, every=2)


def test_nnx_optimizer():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(8, 16, rngs=rngs)
            self.norm = nnx.BatchNorm(16, rngs=rngs)
            self.last = nnx.Linear(16, 4, rngs=rngs)

        def __call__(self, x):
            return self.last(nnx.relu(self.norm(self.first(x))))

    net = Net(nnx.Rngs(0))
    tx = jp.sparsify(optax.adam(1e-2), GMP)
    optimizer = nnx.Optimizer(net, tx, wrt=nnx.Param)

    @nnx.jit
    def step(net, optimizer):
        grads = nnx.grad(lambda net: jnp.mean(net(X) ** 2))(net)
        optimizer.update(net, grads)

    with jax.numpy_rank_promotion("allow"):
        for _ in range(8):
            step(net, optimizer)
    params = nnx.as_pure(nnx.state(net, nnx.Param))
    masks = jp.masks_of(nnx.as_pure(optimizer.opt_state))
    assert sorted(jp.masks.paths(masks)) == ["first/kernel", "last/kernel"]
    assert float(jp.masks.sparsity(masks)) == 0.75
    jp.masks.check(params, masks)


def test_every_transform_takes_an_nnx_state():
    graph, params = nnx.split(nnx.Linear(8, 4, rngs=nnx.Rngs(0)))
    loss = lambda p: jnp.mean(nnx.merge(graph, p)(X) ** 2)
    pruned, masks = jp.prune(params, jp.methods.magnitude(sparsity=0.5))
    plan = jp.lottery.Plan(3, 1)
    transforms = (
        jp.sparsify(
            optax.adam(1e-2), jp.methods.rigl(sparsity=0.5, every=2, end=4), key=jax.random.key(0)
        ),
        jp.fixed(optax.adam(1e-2), masks),
        jp.lottery_ticket(optax.adam(1e-2), jp.methods.magnitude(sparsity=0.5), plan),
    )
    with jax.numpy_rank_promotion("allow"):
        for tx in transforms:
            weights, state = pruned, tx.init(pruned)
            step = jax.jit(lambda w, s, tx=tx: tx.update(jax.grad(loss)(w), s, w))
            for _ in range(plan.total_updates):
                updates, state = step(weights, state)
                weights = optax.apply_updates(weights, updates)
            found = jp.masks_of(state)
            assert float(jp.masks.sparsity(found)) == 0.5
            jp.masks.check(weights, found)


def test_linen_train_state():
    model = nn.Dense(4)
    params = model.init(jax.random.key(0), X)["params"]
    tx = jp.sparsify(optax.adam(1e-2), GMP)
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)

    @jax.jit
    def step(state):
        grads = jax.grad(lambda p: jnp.mean(state.apply_fn({"params": p}, X) ** 2))(state.params)
        return state.apply_gradients(grads=grads)

    with jax.numpy_rank_promotion("allow"):
        for _ in range(8):
            state = step(state)
    jp.masks.check(state.params, jp.masks_of(state.opt_state))
    assert float(jp.masks.sparsity(jp.masks_of(state.opt_state))) == 0.75


def test_packed_masks_under_the_control_flow_of_nnx():
    model = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
    tx = jp.sparsify(optax.sgd(0.1), GMP, packed=True)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    def update(model, optimizer):
        optimizer.update(model, nnx.grad(lambda model: jnp.mean(model(X) ** 2))(model))

    @nnx.jit
    def step(due, model, optimizer):
        nnx.cond(due, update, lambda model, optimizer: None, model, optimizer)

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def scanned(both, index):
        update(*both)
        return both, index

    with jax.numpy_rank_promotion("allow"):
        for due in (True, False, True):
            step(jnp.array(due), model, optimizer)
        scanned((model, optimizer), jnp.arange(6))
    assert optimizer.opt_state.step.get_value() == 8
    masks = jp.masks_of(optimizer.opt_state)
    assert float(jp.masks.sparsity(masks)) == 0.75
    jp.masks.check(nnx.state(model, nnx.Param), masks)


def test_masks_and_moments_keep_the_sharding_of_their_variables():
    spec = ("rows", "columns")
    init = nnx.with_partitioning(nnx.initializers.lecun_normal(), spec)
    mesh = jax.make_mesh((1, 1), spec, axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        model = nnx.Linear(8, 4, kernel_init=init, rngs=nnx.Rngs(0))
    for packed in (False, True):
        tx = jp.sparsify(optax.sgd(0.1, momentum=0.9), GMP, packed=packed)
        with jax.set_mesh(mesh):
            state = nnx.Optimizer(model, tx, wrt=nnx.Param).opt_state
        specs = nnx.get_partition_spec(nnx.state(state))
        found = [s for s in jax.tree.leaves(specs) if isinstance(s, P) and tuple(s) == spec]
        assert len(found) == 2, "the mask's and the momentum's"
