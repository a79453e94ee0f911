"""How property tests are run, in one place: the same cases each time, without a deadline; and what they draw.

JAX compiles once per shape, so shapes come from short menus, and numbers from a pool that makes ties, zeros
of both signs, denormals, infinities and NaN frequent.
"""

import os

import jax.numpy as jnp
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

__all__ = ["DTYPES", "POOL", "arrays", "best", "chosen", "examples", "survivors", "trees"]

settings.register_profile(
    "faults",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
DTYPES = {
    "float32": jnp.float32,
    "bfloat16": jnp.bfloat16,
    "float16": jnp.float16,
    "float8_e4m3fn": jnp.float8_e4m3fn,
    "float8_e5m2": jnp.float8_e5m2,
}
DENORMAL = 1e-41
POOL = (0.0, -0.0, 1.0, -1.0, 1.0, 2.0, 0.5, 1.5, 3e-8, -3e-8, DENORMAL, -DENORMAL, 240.0)
INFINITE = (np.inf, -np.inf)
NAN = (np.nan,)


def examples(quick: int, whole: int) -> settings:
    """The profile with so many cases under `make test`, and so many under `make faults`."""
    return settings(settings.get_profile("faults"), max_examples=chosen(quick, whole))


def chosen(quick, whole):
    """The first under `make test`, the second under `make faults`."""
    return whole if os.environ.get("FAULTS") == "all" else quick


@st.composite
def arrays(draw, shape, dtype, special=(*INFINITE, *NAN)):
    """An array of few different numbers, so that most of them are tied, and some special ones."""
    pool = draw(st.lists(st.sampled_from((*POOL, *special)), min_size=1, max_size=6))
    seed = draw(st.integers(0, 2**32 - 1))
    spread = draw(st.sampled_from([0.0, 1.0]))
    rng = np.random.default_rng(seed)
    numbers = rng.choice(np.asarray(pool, np.float64), shape)
    numbers = np.where(rng.random(shape) < spread / 2, rng.standard_normal(shape), numbers)
    return jnp.asarray(np.asarray(numbers, np.float32)).astype(dtype)


@st.composite
def trees(draw, shapes, dtypes, special=(*INFINITE, *NAN)):
    """Arrays of these shapes, each of one of these dtypes."""
    return [
        draw(arrays(shape, dtype, special)) for shape, dtype in zip(shapes, dtypes, strict=True)
    ]


def best(scores, k):
    """Masks of the k largest over all arrays together: a stable sort, NaN last."""
    flat = np.concatenate([np.asarray(x).astype(np.float64).ravel() for x in scores])
    order = np.argsort(-flat, kind="stable")
    kept = np.zeros(flat.size, bool)
    kept[order[: max(k, 0)]] = True
    ends = np.cumsum([np.size(x) for x in scores])[:-1]
    parts = np.split(kept, ends)
    return [part.reshape(np.shape(x)) for part, x in zip(parts, scores, strict=True)]


def survivors(n: int, sparsity: float) -> int:
    """`n` less what is removed, in integers: half a weight is removed; sparsities have seven decimals."""
    units = round(float(np.float32(sparsity)) * 10**7)
    return n - (2 * n * units + 10**7) // (2 * 10**7)
