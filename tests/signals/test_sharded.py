"""Signals of sharded batches and parameters are those of one device, on an explicit mesh too."""

import os
import subprocess
import sys


def main():
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    import jaxprune as jp

    rng = np.random.default_rng(0)
    host = {"w": rng.standard_normal((6, 8), np.float32)}
    x = rng.standard_normal((16, 6), np.float32)
    loss = lambda params, x: jnp.mean(jnp.tanh(x @ params["w"]) ** 2)

    key = jax.random.key(0)
    output_loss = lambda outputs, x: jnp.mean(outputs**2)
    product = lambda params, x: jnp.tanh(x @ params["w"])

    def signals(params, x):
        return (
            jp.signals.grads(loss, params, [x, x]),
            jp.signals.fisher(loss, params, [x], examples=2, chunk=3),
            jp.signals.inverse_fisher(loss, params, [x], block=5, damp=0.1),
            jp.signals.input_moments(product, params, [x]),
            jp.signals.grams(product, params, [x]),
            jp.signals.gauss_newton_diagonal(product, output_loss, params, [x], key, samples=2),
        )

    expected = signals(host, x)
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Explicit,))
    for of_params, of_batch in ((P(), P("d")), (P(None, "d"), P())):
        with jax.set_mesh(mesh):
            params = {"w": jax.device_put(host["w"], NamedSharding(mesh, of_params))}
            found = signals(params, jax.device_put(x, NamedSharding(mesh, of_batch)))
        for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(np.asarray(f), np.asarray(e), rtol=1e-4, atol=1e-5)


def test_on_two_devices():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    main()
