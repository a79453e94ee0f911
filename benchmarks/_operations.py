"""Operations of networks, by kind: each makes features of features, `(h, weights) -> features`.

`h` are hidden features [examples, positions, features]. The table of `benchmarks.structured_primitives` says
of each whether the width of `h` can be pruned with it in between, and the tests hold how many cannot.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, PartitionSpec

EXAMPLES = 2
POSITIONS = 6
INPUTS = 3
FEATURES = 8
OUTPUTS = 5
SHAPES = {
    "in": (INPUTS, FEATURES),
    "out": (FEATURES, OUTPUTS),
    "token": (1, 1, FEATURES),
    "window": (3, 1, FEATURES),
    "first": (FEATURES, FEATURES),
    "second": (FEATURES, FEATURES),
}

Operation = Callable[[jax.Array, dict[str, jax.Array]], jax.Array]

PLACES = jnp.asarray([0, 1, 1, 0, 2, 3])


def key():
    return jax.random.key(0)


def segments(h, reduce):
    return jax.vmap(lambda rows: reduce(rows, PLACES, 4))(h)


def last_axis(h):
    return h.swapaxes(1, 2)


def normal(h, axis):
    return (h - h.mean(axis, keepdims=True)) / (h.std(axis, keepdims=True) + 1.0)


def experts(w):
    return jnp.stack([w["first"], w["second"]])


def pool(h, **options):
    return linen.max_pool(h, **options)


depthwise = partial(lax.conv_general_dilated, dimension_numbers=("NHC", "HIO", "NHC"))

ARRANGING: dict[str, Operation] = {
    "tile of a class token": lambda h, w: jnp.concatenate(
        [jnp.tile(w["token"], (len(h), 1, 1)), h], 1
    ),
    "tile of features": lambda h, w: jnp.tile(h, 2).reshape(*h.shape[:2], 2, h.shape[2]).sum(2),
    "repeat of positions": lambda h, w: jnp.repeat(h, 2, axis=1),
    "repeat of features": lambda h, w: jnp.repeat(h, 2, axis=2).reshape(*h.shape, 2).sum(3),
    "broadcast of a class token": lambda h, w: jnp.concatenate(
        [jnp.broadcast_to(w["token"], (len(h), 1, h.shape[2])), h], 1
    ),
    "first position": lambda h, w: h[:, 0],
    "last position as a slice": lambda h, w: h[:, -1:],
    "roll of positions": lambda h, w: jnp.roll(h, 1, 1),
    "flip of positions": lambda h, w: jnp.flip(h, 1),
    "stack of halves, interleaved rotary positions": lambda h, w: jnp.stack(
        [h[..., ::2], -h[..., 1::2]], -1
    ).reshape(h.shape),
    "stack along positions": lambda h, w: jnp.stack([h[:, 0], h[:, 2]], 1),
    "unstack of positions": lambda h, w: sum(jnp.unstack(h, axis=1)),
    "split of positions": lambda h, w: sum(jnp.split(h, 3, 1)),
    "interleaved slices": lambda h, w: jnp.tile(h[..., ::2] + h[..., 1::2], 2),
    "rotation of halves": lambda h, w: jnp.concatenate([-h[..., 4:], h[..., :4]], -1) * 0.5 + h,
    "padding of features": lambda h, w: jnp.pad(h, ((0, 0), (0, 0), (2, 2)))[..., 2:-2],
    "space to depth": lambda h, w: h.reshape(2, 3, 16).reshape(2, 3, 2, 8).sum(2),
    "space to depth, features first": lambda h, w: (
        h.reshape(2, 3, 2, 8).swapaxes(2, 3).reshape(2, 3, 16).reshape(2, 3, 8, 2).sum(3)
    ),
    "unfolded patches": lambda h, w: (
        lax.conv_general_dilated_patches(
            h, (3,), (1,), "SAME", dimension_numbers=("NHC", "HIO", "NHC")
        )
        .reshape(*h.shape, 3)
        .sum(3)
    ),
    "diagonal of pairs of positions": lambda h, w: last_axis(
        jnp.diagonal(jnp.einsum("bth,bsh->btsh", h, h), axis1=1, axis2=2)
    ),
}

LOOKUPS: dict[str, Operation] = {
    "some positions": lambda h, w: h[:, PLACES],
    "a position per example, under vmap": lambda h, w: jax.vmap(lambda rows, i: rows[i])(
        h, jnp.asarray([1, 3])
    ),
    "take_along_axis of positions": lambda h, w: jnp.take_along_axis(
        h, jnp.asarray([[[1], [2]]] * 2), 1
    ),
    "take_along_axis, a place per feature": lambda h, w: jnp.take_along_axis(
        h, jnp.arange(32).reshape(2, 2, 8) % 6, 1
    ),
    "take_along_axis of the largest": lambda h, w: jnp.take_along_axis(
        h, jnp.argmax(h, 1, keepdims=True), 1
    ),
    "positions in order of their sums": lambda h, w: jnp.take(
        h, jnp.argsort(h.sum((0, 2))), axis=1
    ),
    "best tokens by top_k": lambda h, w: jnp.take_along_axis(
        h, lax.top_k(h.sum(-1), 3)[1][..., None], 1
    ),
    "row of a table, rows per example": lambda h, w: h + w["first"][PLACES],
    "nearest code of a table": lambda h, w: w["first"][
        jnp.argmin(((h[..., None, :] - w["first"]) ** 2).sum(-1), -1)
    ],
    "dynamic slice of positions": lambda h, w: lax.dynamic_slice_in_dim(h, jnp.int32(1), 3, 1),
    "dynamic update of a cache": lambda h, w: lax.dynamic_update_slice(
        jnp.zeros((2, 9, 8)), h, (0, jnp.int32(1), 0)
    ),
    "map_coordinates": lambda h, w: jax.vmap(
        jax.vmap(
            lambda row: jax.scipy.ndimage.map_coordinates(row, [jnp.linspace(0, 5, 4)], 1), 1, 1
        )
    )(h),
    "interp": lambda h, w: jnp.interp(h, jnp.linspace(-1, 1, 5), jnp.linspace(-2, 2, 5)),
    "digitize": lambda h, w: h * jnp.digitize(h, jnp.linspace(-1, 1, 4)),
}

WRITES: dict[str, Operation] = {
    "at[position].set(0)": lambda h, w: h.at[:, 0].set(0.0),
    "at[positions].set(token)": lambda h, w: h.at[:, PLACES[4:]].set(w["token"][0]),
    "at[positions].add": lambda h, w: h.at[:, PLACES].add(h),
    "at[position].add(token)": lambda h, w: h.at[:, 0].add(w["token"][0, 0]),
    "at[positions].multiply": lambda h, w: h.at[:, PLACES].multiply(h),
    "at[positions].max": lambda h, w: h.at[:, PLACES].max(2 * h),
    "at[positions].min": lambda h, w: h.at[:, PLACES].min(2 * h),
    "at[positions].subtract": lambda h, w: h.at[:, PLACES].subtract(2 * h),
    "at[positions].apply": lambda h, w: h.at[:, PLACES[3:]].apply(jnp.sin),
    "rows set in a buffer": lambda h, w: jnp.zeros((2, 9, 8)).at[:, PLACES + 4].add(h),
    "a position per example, written under vmap": lambda h, w: jax.vmap(
        lambda rows, i: rows.at[i].set(w["token"][0, 0])
    )(h, jnp.asarray([1, 3])),
    "a position per feature": lambda h, w: jnp.put_along_axis(
        h, jnp.argmin(h, 1, keepdims=True), 0.0, 1, inplace=False
    ),
    "segment_sum": lambda h, w: segments(h, jax.ops.segment_sum),
    "segment_max": lambda h, w: jnp.maximum(segments(h, jax.ops.segment_max), -1.0),
    "segment_min": lambda h, w: jnp.minimum(segments(h, jax.ops.segment_min), 1.0),
    "softmax over segments": lambda h, w: (
        h * jnp.exp(h) / segments(jnp.exp(h), jax.ops.segment_sum)[:, PLACES]
    ),
}

ALONG_POSITIONS: dict[str, Operation] = {
    "cumsum": lambda h, w: jnp.cumsum(h, 1),
    "associative scan": lambda h, w: lax.associative_scan(jnp.add, h, axis=1),
    "sort": lambda h, w: jnp.sort(h, 1),
    "median": lambda h, w: jnp.median(h, 1),
    "quantile": lambda h, w: jnp.quantile(h, 0.3, axis=1),
    "logsumexp": lambda h, w: h[:, 0] * jax.nn.logsumexp(h, 1),
    "softmax": lambda h, w: h * jax.nn.softmax(h, 1),
    "largest by top_k": lambda h, w: last_axis(lax.top_k(last_axis(h), 3)[0]),
    "largest by approx_max_k": lambda h, w: lax.approx_max_k(h, 3, reduction_dimension=1)[0],
    "standardisation": lambda h, w: normal(h, 1),
    "straight-through argmax": lambda h, w: (
        h * (h + lax.stop_gradient(last_axis(jax.nn.one_hot(jnp.argmax(h, 1), h.shape[1])) - h))
    ),
    "apply_along_axis": lambda h, w: jnp.apply_along_axis(jnp.tanh, 1, h),
    "reduce by a function of its own": lambda h, w: lax.reduce(
        h, np.float32(0), lambda a, b: jnp.maximum(a, b) + 0.0, (1,)
    ),
    "Fourier transform": lambda h, w: jnp.fft.fft(h, axis=1).real,
    "real Fourier transform and back": lambda h, w: jnp.fft.irfft(jnp.fft.rfft(h, axis=1), axis=1),
    "filter in frequencies": lambda h, w: jnp.fft.irfft(
        jnp.fft.rfft(h, axis=1) * jnp.exp(1j * jnp.arange(4))[:, None], axis=1
    ),
    "Fourier transform of both axes": lambda h, w: jnp.fft.fft2(h).real,
    "image.resize, bilinear": lambda h, w: jax.image.resize(h, (2, 9, h.shape[2]), "bilinear"),
    "image.resize, nearest": lambda h, w: jax.image.resize(h, (2, 12, h.shape[2]), "nearest"),
}

WINDOWS: dict[str, Operation] = {
    "depthwise convolution": lambda h, w: depthwise(
        h, w["window"], (1,), "SAME", feature_group_count=h.shape[2]
    ),
    "transposed convolution": lambda h, w: lax.conv_transpose(
        h, jnp.ones((2, 8, 8)) * w["first"], (2,), "SAME"
    ),
    "average pooling": lambda h, w: linen.avg_pool(h, (2,), (2,)),
    "maximum pooling": lambda h, w: pool(h, window_shape=(2,), strides=(2,)),
    "maximum pooling with a border": lambda h, w: pool(
        h, window_shape=(3,), strides=(2,), padding=((1, 1),)
    ),
    "reduce_window by a function of its own": lambda h, w: lax.reduce_window(
        h, 0.0, lambda a, b: a + jnp.square(b), (1, 2, 1), (1, 2, 1), "VALID"
    ),
    "gradient of maximum pooling": lambda h, w: (
        h * jax.grad(lambda x: pool(x, window_shape=(2,), strides=(2,)).sum())(h)
    ),
}

NORMS: dict[str, Operation] = {
    "layer norm by the square's mean": lambda h, w: (
        (h - h.mean(-1, keepdims=True))
        * lax.rsqrt((h**2).mean(-1, keepdims=True) - h.mean(-1, keepdims=True) ** 2 + 1e-5)
    ),
    "layer norm in two passes": lambda h, w: normal(h, -1),
    "root mean square norm": lambda h, w: h * lax.rsqrt((h**2).mean(-1, keepdims=True) + 1e-5),
    "unit length": lambda h, w: h / (jnp.linalg.norm(h, axis=-1, keepdims=True) + 1.0),
    "spectral norm": lambda h, w: h @ (w["first"] / jnp.linalg.norm(w["first"])),
    "weight standardisation": lambda h, w: (
        h @ ((w["first"] - w["first"].mean(0)) / (w["first"].std(0) + 1e-5))
    ),
    "mean over a mapped axis": lambda h, w: jax.vmap(
        lambda rows: rows - lax.pmean(rows, "examples"), axis_name="examples"
    )(h),
    "maximum over a mapped axis": lambda h, w: jax.vmap(
        lambda rows: rows * lax.pmax(rows, "examples"), axis_name="examples"
    )(h),
    "sum over devices under shard_map": lambda h, w: jax.shard_map(
        lambda rows: lax.psum(jnp.tanh(rows), "devices"),
        mesh=jax.make_mesh((1,), ("devices",), axis_types=(AxisType.Auto,)),
        in_specs=PartitionSpec("devices"),
        out_specs=PartitionSpec(),
    )(h),
}


def plain(function: Callable[..., jax.Array], by: float = 1.0) -> Operation:
    """A function that is 0 at 0."""
    return lambda h, w: function(h * by)


def gated(function: Callable[..., jax.Array], plus: float = 0.0) -> Operation:
    """A function that is not 0 at 0, times the features."""
    return lambda h, w: h * function(h + plus)


FUNCTIONS: dict[str, Operation] = {
    **{
        name: plain(getattr(jax.nn, name))
        for name in (
            "celu",
            "elu",
            "gelu",
            "hard_swish",
            "leaky_relu",
            "mish",
            "relu",
            "relu6",
            "selu",
            "silu",
            "soft_sign",
            "squareplus",
        )
    },
    **{
        f"{name}, gated": gated(getattr(jax.nn, name))
        for name in ("softplus", "log_sigmoid", "sigmoid", "hard_sigmoid")
    },
    "gelu by erf": lambda h, w: jax.nn.gelu(h, approximate=False),
    "snake": lambda h, w: h + jnp.sin(h) ** 2,
    **{
        name: plain(getattr(jnp, name), by=0.5)
        for name in ("arcsinh", "arctanh", "arcsin", "arctan", "sinh", "cbrt", "expm1", "log1p")
    },
    "arccosh, gated": lambda h, w: h * jnp.arccosh(h + 3),
    "sinc, gated": lambda h, w: h * jnp.sinc(h),
    "logaddexp, gated": lambda h, w: h * jnp.logaddexp(h, 0.0),
    "heaviside, gated": lambda h, w: h * jnp.heaviside(h, 0.5),
    "hypot": lambda h, w: jnp.hypot(h, 2 * h),
    "arctan2, gated": lambda h, w: h * jnp.arctan2(h, 1.0),
    "nan_to_num": lambda h, w: jnp.nan_to_num(h),
    "erfinv": lambda h, w: jax.scipy.special.erfinv(h * 0.5),
    **{
        f"{name}, gated": gated(getattr(jax.scipy.special, name), plus=2.0)
        for name in ("digamma", "gammaln", "i0e", "i1e")
    },
    "gammainc, gated": lambda h, w: h * jax.scipy.special.gammainc(h + 2, 1.5),
    "betainc, gated": lambda h, w: h * jax.scipy.special.betainc(h + 2, 1.5, 0.5),
    "zeta, gated": lambda h, w: h * jax.scipy.special.zeta(h + 3, 1.5),
    "polyval, gated": lambda h, w: h * jnp.polyval(jnp.asarray([1.0, 2.0, 3.0]), h),
    "complex numbers": lambda h, w: (lax.complex(h, h) * jnp.exp(1j * h)).real,
    "conjugate and absolute value": lambda h, w: jnp.abs(jnp.conj(lax.complex(h, -h))),
    "angle": lambda h, w: h * jnp.angle(lax.complex(h, h + 2)),
    "as float8": lambda h, w: h.astype(jnp.float8_e4m3fn).astype(jnp.float32),
    "as bfloat16": lambda h, w: h.astype(jnp.bfloat16).astype(jnp.float32),
    "as int8": lambda h, w: (
        jnp.clip(jnp.round(h * 10), -128, 127).astype(jnp.int8).astype(jnp.float32)
    ),
    "bits of floats": lambda h, w: lax.bitcast_convert_type(
        lax.bitcast_convert_type(h, jnp.uint32), jnp.float32
    ),
    "on a device": lambda h, w: sum(jax.device_put((h, 2 * h))),
}

RANDOM: dict[str, Operation] = {
    "dropout": lambda h, w: jnp.where(jax.random.bernoulli(key(), 0.5, h.shape), h, 0.0),
    "dropout by an old key": lambda h, w: jnp.where(
        jax.random.bernoulli(jax.random.PRNGKey(0), 0.5, h.shape), h, 0.0
    ),
    "dropout by a key of rbg": lambda h, w: jnp.where(
        jax.random.bernoulli(jax.random.key(0, impl="rbg"), 0.5, h.shape), h, 0.0
    ),
    "a key per example": lambda h, w: jax.vmap(
        lambda rows, own: rows * jax.random.uniform(own, rows.shape)
    )(h, jax.random.split(key(), len(h))),
    "a cloned key": lambda h, w: h * jax.random.normal(jax.random.clone(key()), h.shape),
    "normal noise": lambda h, w: h * jax.random.normal(key(), h.shape),
    "Gumbel noise": lambda h, w: h * jax.random.gumbel(key(), h.shape),
    "gamma noise": lambda h, w: h * jax.random.gamma(key(), 2.0, h.shape),
    "gamma noise of the features": lambda h, w: h * jax.random.gamma(key(), h**2 + 1),
    "gamma noise, a key per example": lambda h, w: (
        h * jax.vmap(jax.random.gamma)(jax.random.split(key(), len(h)), h**2 + 1)
    ),
    "beta noise": lambda h, w: h * jax.random.beta(key(), 2.0, 3.0, h.shape),
    "Poisson noise": lambda h, w: h * jax.random.poisson(key(), 2.0, h.shape),
    "truncated normal noise": lambda h, w: h * jax.random.truncated_normal(key(), -1, 1, h.shape),
    "permutation of positions": lambda h, w: h[:, jax.random.permutation(key(), h.shape[1])],
}

PRODUCTS: dict[str, Operation] = {
    "attention": lambda h, w: jax.nn.softmax((h @ w["first"]) @ last_axis(h @ w["second"])) @ h,
    "dot_product_attention, two heads": lambda h, w: jax.nn.dot_product_attention(
        (h @ w["first"]).reshape(2, 6, 2, 4),
        (h @ w["second"]).reshape(2, 6, 2, 4),
        h.reshape(2, 6, 2, 4),
    ).reshape(h.shape),
    "linear attention": lambda h, w: jnp.einsum(
        "btd,bde->bte",
        jax.nn.relu(h @ w["first"]),
        jnp.einsum("btd,bte->bde", jax.nn.relu(h @ w["second"]), h),
    ),
    "einsum with a parameter": lambda h, w: jnp.einsum("bth,hk->btk", h, w["first"]),
    "outer products": lambda h, w: jnp.einsum("bth,btk->bhk", h, h).sum(2),
    "upper triangle of weights": lambda h, w: h @ jnp.triu(w["first"]),
    "power of a matrix": lambda h, w: h @ jnp.linalg.matrix_power(w["first"], 3),
    "Kronecker product": lambda h, w: h @ jnp.kron(w["first"][:2, :2], w["second"][:4, :4]),
    "cross product": lambda h, w: jnp.pad(
        jnp.cross(h[..., :3], h[..., 3:6]), ((0, 0), (0, 0), (0, 5))
    ),
    "mixture of experts, ragged_dot": lambda h, w: lax.ragged_dot(
        h.reshape(12, 8), experts(w), jnp.asarray([5, 7], jnp.int32)
    ).reshape(h.shape),
    "gradient of ragged_dot": lambda h, w: (
        h
        @ jax.grad(
            lambda e: lax.ragged_dot(h.reshape(12, 8), e, jnp.asarray([5, 7], jnp.int32)).sum()
        )(experts(w))[0]
    ),
    "mixture of experts, one-hot": lambda h, w: jnp.einsum(
        "bte,ehk,bth->btk", jax.nn.softmax(h[..., :2]), experts(w), h
    ),
    "mixture of experts, top_k": lambda h, w: jnp.einsum(
        "bte,ehk,bth->btk",
        jax.nn.one_hot(lax.top_k(h @ w["first"][:, :2], 1)[1][..., 0], 2),
        experts(w),
        h,
    ),
    "gated half (GLU)": lambda h, w: jnp.tile(jax.nn.glu(h), 2),
    "maxout over features": lambda h, w: jnp.tile(h.reshape(2, 6, 4, 2).max(-1), 2),
    "triangular solve of positions": lambda h, w: jax.vmap(
        lambda rows: jax.scipy.linalg.solve_triangular(jnp.tril(jnp.ones((6, 6))), rows, lower=True)
    )(h),
    "linear solve of positions": lambda h, w: jax.vmap(
        lambda rows: jnp.linalg.solve(jnp.eye(6) + 0.1 * jnp.ones((6, 6)), rows)
    )(h),
    "conjugate gradients of positions": lambda h, w: jax.vmap(
        lambda rows: jax.scipy.sparse.linalg.cg(lambda x: 2 * x + 0.1 * x.sum(0), rows, maxiter=9)[
            0
        ]
    )(h),
    "Cholesky of position covariances": lambda h, w: (
        jnp.linalg.cholesky(jnp.einsum("bth,bsh->bts", h, h) + jnp.eye(6)) @ h
    ),
    "inverse of weights": lambda h, w: h @ jnp.linalg.inv(w["first"] + 9 * jnp.eye(8)),
    "orthogonal weights by QR": lambda h, w: h @ jnp.linalg.qr(w["first"])[0],
    "exponential of weights": lambda h, w: h @ jax.scipy.linalg.expm(w["first"]),
}


@jax.custom_vjp
def clipped_gradient(h: jax.Array) -> jax.Array:
    return h


clipped_gradient.defvjp(lambda h: (h, None), lambda _, g: (jnp.clip(g, -1, 1),))

mapped = jax.custom_batching.custom_vmap(jnp.tanh)
mapped.def_vmap(lambda size, batched, h: (jnp.tanh(h), batched[0]))

PROGRAMS: dict[str, Operation] = {
    "custom_vjp": lambda h, w: clipped_gradient(h),
    "custom_gradient": lambda h, w: jax.custom_gradient(lambda x: (2 * x, lambda g: g))(h),
    "checkpoint": lambda h, w: jax.checkpoint(jnp.tanh)(h),
    "named checkpoint": lambda h, w: checkpoint_name(h, "hidden"),
    "composite": lambda h, w: lax.composite(jnp.tanh, name="my.tanh")(h),
    "custom_vmap": lambda h, w: mapped(h),
    "while_loop": lambda h, w: lax.while_loop(
        lambda carry: carry[0] < 3, lambda carry: (carry[0] + 1, jnp.tanh(carry[1])), (0, h)
    )[1],
    "fori_loop": lambda h, w: lax.fori_loop(0, 3, lambda i, carry: carry * 0.5, h),
    "scan over positions": lambda h, w: lax.scan(
        lambda carry, row: (carry * 0.5 + row, carry * 0.5 + row),
        jnp.zeros((2, 8)),
        h.swapaxes(0, 1),
    )[1].swapaxes(0, 1),
    "recurrent layer": lambda h, w: lax.scan(
        lambda carry, row: (jnp.tanh(carry @ w["first"] + row), None),
        jnp.zeros((2, 8)),
        h.swapaxes(0, 1),
    )[0],
    "map over examples": lambda h, w: lax.map(jnp.tanh, h),
    "cond": lambda h, w: lax.cond(h.sum() > 0, jnp.tanh, jnp.sin, h),
    "switch": lambda h, w: lax.switch(jnp.int32(0), [jnp.tanh, jnp.sin, lambda x: x], h),
    "platform_dependent": lambda h, w: lax.platform_dependent(h, cpu=jnp.tanh, default=jnp.tanh),
    "shard_map": lambda h, w: jax.shard_map(
        jnp.tanh,
        mesh=jax.make_mesh((1,), ("devices",), axis_types=(AxisType.Auto,)),
        in_specs=PartitionSpec("devices"),
        out_specs=PartitionSpec("devices"),
    )(h),
    "pure_callback": lambda h, w: jax.pure_callback(
        np.asarray, jax.ShapeDtypeStruct(h.shape, h.dtype), h
    ),
    "printing": lambda h, w: (jax.debug.print("{x}", x=h.sum()), h)[1],
    "printing of features": lambda h, w: (jax.debug.callback(lambda x: None, h), h)[1],
}

KINDS: dict[str, dict[str, Operation]] = {
    "Arranging": ARRANGING,
    "Lookups": LOOKUPS,
    "Writes": WRITES,
    "Along positions": ALONG_POSITIONS,
    "Windows": WINDOWS,
    "Norms and devices": NORMS,
    "Entry by entry": FUNCTIONS,
    "Random numbers": RANDOM,
    "Products and matrices": PRODUCTS,
    "Programs": PROGRAMS,
}
OPERATIONS = {name: operation for kind in KINDS.values() for name, operation in kind.items()}


def network(operation: Operation) -> Callable[..., jax.Array]:
    """An operation between two layers: `(params, x) -> outputs`."""

    def apply(params: dict[str, Any], x: jax.Array) -> jax.Array:
        return operation(jnp.tanh(x @ params["in"]), params) @ params["out"]

    return apply


def arrays() -> tuple[dict[str, jax.Array], jax.Array]:
    """Parameters and inputs of the networks."""
    rng = np.random.default_rng(0)

    def draw(shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32) / 2

    params = {name: draw(shape) for name, shape in SHAPES.items()}
    return params, draw((EXAMPLES, POSITIONS, INPUTS))
