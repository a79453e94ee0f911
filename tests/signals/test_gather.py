import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

mean_of = lambda w, x: w * jnp.mean(x, axis=0)


def test_every_example_counts_the_same_in_batches_of_any_size():
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    for cuts in ([7], [3, 6], [1, 2]):
        found = jp.signals.mean_over(mean_of, 2.0, np.split(x, cuts[:-1] if cuts == [7] else cuts))
        np.testing.assert_allclose(found, 2 * x.mean(0), rtol=1e-6)


def test_any_iterable_of_any_tree():
    batches = ({"x": jnp.full((2, 1), i), "y": [jnp.ones(2)]} for i in (1.0, 3.0))
    found = jp.signals.mean_over(lambda w, b: {"m": jnp.mean(b["x"]) + w}, 1.0, batches)
    assert jax.tree.map(float, found) == {"m": 3.0}


def test_no_batches_are_refused_in_words():
    with pytest.raises(ValueError, match=r"there is none; .* read before is empty"):
        jp.signals.mean_over(mean_of, 1.0, [])
    read = iter([jnp.ones(2)])
    list(read)
    with pytest.raises(ValueError, match="there is none"):
        jp.signals.mean_over(mean_of, 1.0, read)
    with pytest.raises(ValueError, match="batch 1 has no leading axis"):
        jp.signals.mean_over(mean_of, 1.0, [jnp.ones(2), jnp.ones(())])
    with pytest.raises(ValueError, match="batch 0 has no examples"):
        jp.signals.mean_over(mean_of, 1.0, [jnp.ones((0, 2))])


def test_progress_counts_batches_that_are_done():
    seen, read = [], []

    def batches():
        for i in range(3):
            read.append(i)
            yield jnp.ones(2)

    jp.signals.mean_over(mean_of, 1.0, batches(), progress=lambda n: seen.append((n, len(read))))
    assert seen == [(1, 1), (2, 2), (3, 3)]


def test_it_is_compiled_once():
    traces = []

    def fn(scale, w, x):
        traces.append(x.shape)
        return scale * w * jnp.mean(x)

    for w in (1.0, 2.0):  # a second call too
        jp.signals.mean_over(fn, jnp.float32(w), [i * jnp.ones(4) for i in range(5)], static=(3.0,))
    assert traces == [(4,)]
    jp.signals.mean_over(fn, jnp.float32(w), [jnp.ones(4), jnp.ones(2)], static=(3.0,))
    assert traces == [(4,), (2,)]


def test_sums_are_wide():
    one = lambda w, x: w * jnp.ones((), jnp.bfloat16)
    found = jp.signals.mean_over(one, jnp.bfloat16(1), [jnp.ones(1)] * 300)  # bfloat16 stops at 256
    assert found.dtype == jnp.float32
    assert found == 1.0


def test_products_are_taken_in_full_precision():
    mean = lambda w, x: jp.signals.mean_over(lambda w, x: x @ w, w, [x])
    program = str(jax.make_jaxpr(mean)(jnp.ones((2, 2)), jnp.ones((3, 2))))
    assert "Precision.HIGHEST" in program


def test_each_batch_has_a_key_of_its_own():
    draw = lambda w, x, key: jax.random.normal(key, (3,))[None] * jnp.arange(1.0, 3.0)[:, None]
    keyed = lambda n: jp.signals.mean_over(draw, 0.0, [jnp.ones(1)] * n, key=jax.random.key(0))
    assert jnp.array_equal(keyed(2), keyed(2))
    assert not jnp.allclose(keyed(1), keyed(2))
