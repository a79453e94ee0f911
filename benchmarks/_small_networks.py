"""Small networks after published descriptions, with the normalisation of other libraries than Flax.

Each entry of `NETWORKS` gives a function, its parameters, and inputs.
"""

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["NETWORKS", "draw"]

WIDTH = 8
rng = np.random.default_rng(0)


def draw(*shape):
    return jnp.asarray(rng.normal(size=shape) * 0.5, jnp.float32)


def tokens(*shape):
    return jnp.asarray(rng.integers(0, 11, shape))


def haiku_norm(x, params):
    mean = jnp.mean(x, -1, keepdims=True)
    variance = jnp.var(x, -1, keepdims=True)
    return params["scale"] * jax.lax.rsqrt(variance + 1e-5) * (x - mean) + params["offset"]


def equinox_norm(x, params):
    def normalize(x):  # of one vector
        mean = jnp.mean(x, keepdims=True)
        variance = jnp.var(x, keepdims=True)
        normal = (x - mean) * jax.lax.rsqrt(jnp.maximum(0.0, variance) + 1e-5)
        return normal * params["weight"] + params["bias"]

    for _ in range(x.ndim - 1):
        normalize = jax.vmap(normalize)
    return normalize(x)


def keras_norm(x, params):
    mean = jnp.mean(x, -1, keepdims=True)
    inverse_deviation = jax.lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-3) * params["gamma"]
    return x * inverse_deviation + (-mean * inverse_deviation + params["beta"])


NORMS = {
    "haiku": (haiku_norm, "scale", "offset"),
    "equinox": (equinox_norm, "weight", "bias"),
    "keras": (keras_norm, "gamma", "beta"),
}


def norm(kind):
    _, scale, shift = NORMS[kind]
    return {scale: 1 + draw(WIDTH), shift: draw(WIDTH)}


def attention():
    kernel = (WIDTH, 2, 4)
    return {"q": draw(*kernel), "k": draw(*kernel), "v": draw(*kernel), "o": draw(2, 4, WIDTH)}


def attend(params, x, source, mask=None):
    query, key, value = (
        jnp.einsum("btd,dhk->bthk", inputs, params[name])
        for inputs, name in ((x, "q"), (source, "k"), (source, "v"))
    )
    scores = jnp.einsum("bthk,bshk->bhts", query, key) / np.sqrt(query.shape[-1])
    scores = scores if mask is None else jnp.where(mask, scores, -1e9)
    return jnp.einsum("bhts,bshk,hkd->btd", jax.nn.softmax(scores), value, params["o"])


def mlp(width=WIDTH, hidden=12):
    return {
        "i": draw(width, hidden),
        "ib": draw(hidden),
        "o": draw(hidden, width),
        "ob": draw(width),
    }


def feed(params, x):
    return (
        jax.nn.gelu(x @ params["i"] + params["ib"], approximate=False) @ params["o"] + params["ob"]
    )


def layer(kind):
    return {"n1": norm(kind), "a": attention(), "n2": norm(kind), "m": mlp()}


def through(kind, params, x, mask=None):
    normal = NORMS[kind][0]
    normalized = normal(x, params["n1"])
    x = x + attend(params["a"], normalized, normalized, mask)
    return x + feed(params["m"], normal(x, params["n2"]))


def halves(length):
    angles = np.arange(length)[:, None] / 10_000 ** (2 * np.arange(WIDTH // 2)[None] / WIDTH)
    return np.concatenate([np.sin(angles), np.cos(angles)], -1).astype(np.float32)


def interleaved(length):
    positions = np.zeros((length, WIDTH), np.float32)
    positions[:, 0::2], positions[:, 1::2] = np.split(halves(length), 2, -1)
    return positions


def in_the_program(length):
    frequency = jnp.exp(-np.log(1e4) * jnp.arange(0, WIDTH, 2) / WIDTH)
    angles = jnp.arange(length, dtype=jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], 1)


def vision_transformer(kind):
    params = {"in": draw(3, WIDTH), "class": draw(1, 1, WIDTH), "at": draw(1, 6, WIDTH)}
    params |= {"layers": [layer(kind) for _ in range(2)], "n": norm(kind), "head": draw(WIDTH, 5)}

    def function(params, x):
        x = x @ params["in"]
        class_token = jnp.broadcast_to(params["class"], (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([class_token, x], 1) + params["at"]
        for layer_params in params["layers"]:
            x = through(kind, layer_params, x)
        return NORMS[kind][0](x, params["n"])[:, 0] @ params["head"]

    return function, params, draw(2, 5, 3)


def encoder_decoder(kind, table):
    decoder = {**layer(kind), "nx": norm(kind), "x": attention()}
    params = {"embed": draw(11, WIDTH), "encoder": layer(kind), "decoder": decoder}
    params |= {"ne": norm(kind), "n": norm(kind)}

    def function(params, source, target):
        normal = NORMS[kind][0]
        decoder_params = params["decoder"]
        source_stream = params["embed"][source] * np.sqrt(WIDTH) + table(source.shape[1])
        source_stream = normal(through(kind, params["encoder"], source_stream), params["ne"])
        target_stream = params["embed"][target] * np.sqrt(WIDTH) + table(target.shape[1])
        mask = jnp.tril(jnp.ones((target.shape[1],) * 2, bool))
        normalized = normal(target_stream, decoder_params["n1"])
        target_stream = target_stream + attend(decoder_params["a"], normalized, normalized, mask)
        target_stream = target_stream + attend(
            decoder_params["x"], normal(target_stream, decoder_params["nx"]), source_stream
        )
        target_stream = target_stream + feed(
            decoder_params["m"], normal(target_stream, decoder_params["n2"])
        )
        return normal(target_stream, params["n"]) @ params["embed"].T

    return function, params, tokens(2, 6), tokens(2, 5)


def whisper():
    params = {"c1": draw(3, 4, WIDTH), "b1": draw(WIDTH), "c2": draw(3, WIDTH, WIDTH)}
    params |= {"b2": draw(WIDTH), "layers": [layer("keras") for _ in range(2)]}
    params |= {"n": norm("keras"), "head": draw(WIDTH, 4)}
    layout = ("NWC", "WIO", "NWC")

    def conv(x, kernel, stride):
        return jax.lax.conv_general_dilated(x, kernel, (stride,), "SAME", dimension_numbers=layout)

    def function(params, x):
        x = jax.nn.gelu(conv(x, params["c1"], 1) + params["b1"])
        x = jax.nn.gelu(conv(x, params["c2"], 2) + params["b2"])
        x = x + halves(x.shape[1])
        for layer_params in params["layers"]:
            x = through("keras", layer_params, x)
        return keras_norm(x, params["n"]) @ params["head"]

    return function, params, draw(2, 8, 4)


def scanned_transformer():
    stack = jax.tree.map(lambda *arrays: jnp.stack(arrays), *(layer("haiku") for _ in range(3)))
    params = {"in": draw(3, WIDTH), "layers": stack, "n": norm("haiku"), "head": draw(WIDTH, 4)}

    @jax.checkpoint
    def apply_layer(arrays, layer_params):
        return through("haiku", layer_params, arrays), None

    def function(params, arrays):
        arrays, _ = jax.lax.scan(
            apply_layer, arrays @ params["in"] + halves(arrays.shape[1]), params["layers"]
        )
        return haiku_norm(arrays, params["n"]) @ params["head"]

    return function, params, draw(2, 5, 3)


def mixed(params, x):
    token_mixed = feed(params["t"], jnp.swapaxes(equinox_norm(x, params["n1"]), 1, 2))
    x = x + jnp.swapaxes(token_mixed, 1, 2)
    return x + feed(params["m"], equinox_norm(x, params["n2"]))


def mixer(scanned):
    def layer_params():
        return {"n1": norm("equinox"), "t": mlp(5, 7), "n2": norm("equinox"), "m": mlp()}

    layers = [layer_params(), layer_params()]
    stack = jax.tree.map(lambda *x: jnp.stack(x), *layers)
    params = {"in": draw(3, WIDTH), "n": norm("equinox"), "head": draw(WIDTH, 4)}
    params["layers"] = stack if scanned else layers

    def function(params, x):
        x = x @ params["in"]
        if scanned:
            x, _ = jax.lax.scan(
                lambda x, layer_params: (mixed(layer_params, x), None), x, params["layers"]
            )
        else:
            for layer_params in params["layers"]:
                x = mixed(layer_params, x)
        return equinox_norm(x, params["n"]).mean(1) @ params["head"]

    return function, params, draw(2, 5, 3)


def conv(x, kernel, stride=1, **options):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=layout, **options
    )


def group_norm(x, params):
    grouped = x.reshape(*x.shape[:-1], 4, x.shape[-1] // 4)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    normal = (grouped - mean) * jax.lax.rsqrt(grouped.var((1, 2, 4), keepdims=True) + 1e-5)
    return normal.reshape(x.shape) * params["scale"] + params["bias"]


def u_net():
    width = WIDTH

    def conv_params(*shape):
        return {
            "w": draw(3, 3, *shape),
            "scale": 1 + draw(shape[1]),
            "bias": draw(shape[1]),
        }

    params = {
        "in": conv_params(3, width),
        "down": conv_params(width, 2 * width),
        "middle": conv_params(2 * width, 2 * width),
    }
    params |= {
        "up": draw(3, 3, 2 * width, width),
        "join": {"scale": 1 + draw(2 * width), "bias": draw(2 * width)},
    }
    params |= {"out": conv_params(2 * width, width), "head": draw(1, 1, width, 3)}

    def block(params, x, stride=1):
        return jax.nn.silu(group_norm(conv(x, params["w"], stride), params))

    def function(params, x):
        fine = block(params["in"], x)
        coarse = block(params["down"], fine, 2)
        coarse = coarse + block(params["middle"], coarse)
        upsampled = jax.image.resize(coarse, (*fine.shape[:3], coarse.shape[3]), "nearest")
        joined = jnp.concatenate([conv(upsampled, params["up"]), fine], -1)
        return conv(
            block(params["out"], jax.nn.silu(group_norm(joined, params["join"]))), params["head"]
        )

    return function, params, draw(2, 8, 8, 3)


def standardised():
    params = {"in": draw(3, 3, 3, 8), "w": draw(3, 3, 8, 8), "d": draw(3, 3, 1, 8)}
    params |= {"gain": 1 + draw(8), "bias": draw(8), "out": draw(8, 3)}

    def standardise(kernel):
        return (kernel - kernel.mean((0, 1, 2))) / (kernel.std((0, 1, 2)) + 1e-5)

    def function(params, x):
        x = jax.nn.relu(conv(x, params["in"]))
        x = jax.nn.relu(conv(x, standardise(params["w"])) * params["gain"] + params["bias"])
        x = jax.nn.relu(conv(x, standardise(params["d"]), feature_group_count=8))
        return x.mean((1, 2)) @ params["out"]

    return function, params, draw(2, 6, 6, 3)


NETWORKS = {
    "vision transformer, haiku": lambda: vision_transformer("haiku"),
    "vision transformer, equinox": lambda: vision_transformer("equinox"),
    "vision transformer, keras": lambda: vision_transformer("keras"),
    "encoder-decoder, keras": lambda: encoder_decoder("keras", halves),
    "encoder-decoder, interleaved": lambda: encoder_decoder("equinox", interleaved),
    "encoder-decoder, positions in the program": lambda: encoder_decoder("haiku", in_the_program),
    "whisper": whisper,
    "scanned transformer": scanned_transformer,
    "mixer": lambda: mixer(scanned=False),
    "scanned mixer": lambda: mixer(scanned=True),
    "u-net": u_net,
    "weight standardisation": standardised,
}
