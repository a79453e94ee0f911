"""Training inside a hand-written `shard_map`: masks are those of one device, or the call is refused."""

import os
import subprocess
import sys

import pytest

CHILD = "--xla_force_host_platform_device_count=4"


def main(names):
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.sharding import PartitionSpec as P

    import jaxprune as jp
    from jaxprune.transforms.mirrored_state import mirrors

    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    large_rows = jnp.arange(1.0, 17.0)[:, None]  # so that a budget of each quarter would be another
    params = {
        "a": jax.random.normal(jax.random.key(0), (16, 8)) * large_rows,
        "b": jax.random.normal(jax.random.key(1), (8, 4)),
    }
    specs, key = {"a": P("d"), "b": P()}, jax.random.key(0)
    every = {"begin": 0, "end": 4, "every": 2}
    methods = {
        "gmp": jp.methods.gmp(sparsity=0.5, **every),
        "2:4": jp.methods.gmp(sparsity=0.5, pattern=jp.patterns.groups(4), **every),
        "rigl": jp.methods.rigl(sparsity=0.5, every=1, end=4),
        "movement": jp.methods.movement(sparsity=0.5, **every),
    }

    def step_of(tx):
        def step(params, state, grads):
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return step

    def run(tx, step, spoil=None):
        now, state = params, tx.init(params)
        for i in range(5):
            waves = lambda p, i=i: jnp.sin(i + jnp.arange(p.size)).reshape(p.shape)
            grads = jax.tree.map(waves, params)
            if i == spoil:  # on one device alone
                grads["a"] = grads["a"].at[0, 0].set(jnp.nan)
            now, state = step(now, state, grads)
        return now, state

    def same(one, other):
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)

    for name in names:
        method = methods[name]
        bare = jp.sparsify(optax.apply_if_finite(optax.adam(0.1), 9), method, key=key)
        split = jp.sparsify(optax.sgd(0.1), method, key=key, specs=specs)
        alone = jp.sparsify(optax.sgd(0.1), method, key=key)
        state = alone.init(params)
        owners = mirrors(params, state)
        flat = [P() if i is None else [specs["a"], specs["b"]][i] for i in owners]
        of_state = jax.tree.structure(state).unflatten(flat)
        for visible in (True, False):
            sharded = lambda tx, visible=visible, of_state=of_state: jax.jit(
                jax.shard_map(
                    step_of(tx),
                    mesh=mesh,
                    in_specs=(specs, of_state, specs),
                    out_specs=(specs, of_state),
                    check_vma=visible,
                )
            )
            assert same(run(alone, jax.jit(step_of(alone))), run(split, sharded(split))), name
            masks = jp.masks_of(run(split, sharded(split), spoil=2)[1])
            wanted = jp.masks_of(run(alone, jax.jit(step_of(alone)), spoil=2)[1])
            assert same(masks, wanted), f"{name}: NaN on one device holds all"
            words = "'a' differs along d.*specs=" if visible else "nobody can see.*specs="
            with pytest.raises(ValueError, match=words):
                run(alone, sharded(alone))
        whole = jax.shard_map(step_of(bare), mesh=mesh, in_specs=P(), out_specs=P())
        assert same(run(bare, jax.jit(step_of(bare))), run(bare, jax.jit(whole))), name
    four = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * 4), tree)
    step = jax.pmap(step_of(bare), axis_name="batch")
    step(four(params), four(bare.init(params)), four(params))


@pytest.mark.slow
@pytest.mark.parametrize("names", [["rigl"], ["gmp", "2:4", "movement"]])
def test_masks_are_those_of_one_device_or_refused(names):
    flags = f"{os.environ.get('XLA_FLAGS', '')} {CHILD}"
    env = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    found = subprocess.run(
        [sys.executable, __file__, *names], capture_output=True, text=True, env=env
    )
    assert found.returncode == 0, found.stderr[-3000:]


if __name__ == "__main__":
    main(sys.argv[1:])
