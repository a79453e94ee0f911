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


def haiku_norm(x, p):
    mean = jnp.mean(x, -1, keepdims=True)
    variance = jnp.var(x, -1, keepdims=True)
    return p["scale"] * jax.lax.rsqrt(variance + 1e-5) * (x - mean) + p["offset"]


def equinox_norm(x, p):
    def one(x):  # of one vector
        mean = jnp.mean(x, keepdims=True)
        variance = jnp.var(x, keepdims=True)
        normal = (x - mean) * jax.lax.rsqrt(jnp.maximum(0.0, variance) + 1e-5)
        return normal * p["weight"] + p["bias"]

    for _ in range(x.ndim - 1):
        one = jax.vmap(one)
    return one(x)


def keras_norm(x, p):
    mean = jnp.mean(x, -1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.var(x, -1, keepdims=True) + 1e-3) * p["gamma"]
    return x * inverse + (-mean * inverse + p["beta"])


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


def attend(p, x, y, mask=None):
    q, k, v = (jnp.einsum("btd,dhk->bthk", a, p[n]) for a, n in ((x, "q"), (y, "k"), (y, "v")))
    scores = jnp.einsum("bthk,bshk->bhts", q, k) / np.sqrt(q.shape[-1])
    scores = scores if mask is None else jnp.where(mask, scores, -1e9)
    return jnp.einsum("bhts,bshk,hkd->btd", jax.nn.softmax(scores), v, p["o"])


def mlp(width=WIDTH, hidden=12):
    return {
        "i": draw(width, hidden),
        "ib": draw(hidden),
        "o": draw(hidden, width),
        "ob": draw(width),
    }


def feed(p, x):
    return jax.nn.gelu(x @ p["i"] + p["ib"], approximate=False) @ p["o"] + p["ob"]


def layer(kind):
    return {"n1": norm(kind), "a": attention(), "n2": norm(kind), "m": mlp()}


def through(kind, p, x, mask=None):
    normal = NORMS[kind][0]
    inner = normal(x, p["n1"])
    x = x + attend(p["a"], inner, inner, mask)
    return x + feed(p["m"], normal(x, p["n2"]))


def halves(length):
    angles = np.arange(length)[:, None] / 10_000 ** (2 * np.arange(WIDTH // 2)[None] / WIDTH)
    return np.concatenate([np.sin(angles), np.cos(angles)], -1).astype(np.float32)


def interleaved(length):
    table = np.zeros((length, WIDTH), np.float32)
    table[:, 0::2], table[:, 1::2] = np.split(halves(length), 2, -1)
    return table


def in_the_program(length):
    frequency = jnp.exp(-np.log(1e4) * jnp.arange(0, WIDTH, 2) / WIDTH)
    angles = jnp.arange(length, dtype=jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], 1)


def vision_transformer(kind):
    params = {"in": draw(3, WIDTH), "class": draw(1, 1, WIDTH), "at": draw(1, 6, WIDTH)}
    params |= {"layers": [layer(kind) for _ in range(2)], "n": norm(kind), "head": draw(WIDTH, 5)}

    def fn(p, x):
        x = x @ p["in"]
        first = jnp.broadcast_to(p["class"], (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([first, x], 1) + p["at"]
        for own in p["layers"]:
            x = through(kind, own, x)
        return NORMS[kind][0](x, p["n"])[:, 0] @ p["head"]

    return fn, params, draw(2, 5, 3)


def encoder_decoder(kind, table):
    across = {**layer(kind), "nx": norm(kind), "x": attention()}
    params = {"embed": draw(11, WIDTH), "encoder": layer(kind), "decoder": across}
    params |= {"ne": norm(kind), "n": norm(kind)}

    def fn(p, source, target):
        normal = NORMS[kind][0]
        own = p["decoder"]
        x = p["embed"][source] * np.sqrt(WIDTH) + table(source.shape[1])
        x = normal(through(kind, p["encoder"], x), p["ne"])
        y = p["embed"][target] * np.sqrt(WIDTH) + table(target.shape[1])
        mask = jnp.tril(jnp.ones((target.shape[1],) * 2, bool))
        inner = normal(y, own["n1"])
        y = y + attend(own["a"], inner, inner, mask)
        y = y + attend(own["x"], normal(y, own["nx"]), x)
        y = y + feed(own["m"], normal(y, own["n2"]))
        return normal(y, p["n"]) @ p["embed"].T

    return fn, params, tokens(2, 6), tokens(2, 5)


def whisper():
    params = {"c1": draw(3, 4, WIDTH), "b1": draw(WIDTH), "c2": draw(3, WIDTH, WIDTH)}
    params |= {"b2": draw(WIDTH), "layers": [layer("keras") for _ in range(2)]}
    params |= {"n": norm("keras"), "head": draw(WIDTH, 4)}
    numbers = ("NWC", "WIO", "NWC")

    def conv(x, kernel, stride):
        return jax.lax.conv_general_dilated(x, kernel, (stride,), "SAME", dimension_numbers=numbers)

    def fn(p, x):
        x = jax.nn.gelu(conv(x, p["c1"], 1) + p["b1"])
        x = jax.nn.gelu(conv(x, p["c2"], 2) + p["b2"])
        x = x + halves(x.shape[1])
        for own in p["layers"]:
            x = through("keras", own, x)
        return keras_norm(x, p["n"]) @ p["head"]

    return fn, params, draw(2, 8, 4)


def scanned_transformer():
    stack = jax.tree.map(lambda *x: jnp.stack(x), *(layer("haiku") for _ in range(3)))
    params = {"in": draw(3, WIDTH), "layers": stack, "n": norm("haiku"), "head": draw(WIDTH, 4)}

    @jax.checkpoint
    def body(x, own):
        return through("haiku", own, x), None

    def fn(p, x):
        x, _ = jax.lax.scan(body, x @ p["in"] + halves(x.shape[1]), p["layers"])
        return haiku_norm(x, p["n"]) @ p["head"]

    return fn, params, draw(2, 5, 3)


def mixed(p, x):
    across = feed(p["t"], jnp.swapaxes(equinox_norm(x, p["n1"]), 1, 2))
    x = x + jnp.swapaxes(across, 1, 2)
    return x + feed(p["m"], equinox_norm(x, p["n2"]))


def mixer(scanned):
    def own():
        return {"n1": norm("equinox"), "t": mlp(5, 7), "n2": norm("equinox"), "m": mlp()}

    layers = [own(), own()]
    stack = jax.tree.map(lambda *x: jnp.stack(x), *layers)
    params = {"in": draw(3, WIDTH), "n": norm("equinox"), "head": draw(WIDTH, 4)}
    params["layers"] = stack if scanned else layers

    def fn(p, x):
        x = x @ p["in"]
        if scanned:
            x, _ = jax.lax.scan(lambda x, own: (mixed(own, x), None), x, p["layers"])
        else:
            for own in p["layers"]:
                x = mixed(own, x)
        return equinox_norm(x, p["n"]).mean(1) @ p["head"]

    return fn, params, draw(2, 5, 3)


def conv(x, kernel, stride=1, **options):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=numbers, **options
    )


def group_norm(x, p):
    apart = x.reshape(*x.shape[:-1], 4, x.shape[-1] // 4)
    mean = apart.mean((1, 2, 4), keepdims=True)
    normal = (apart - mean) * jax.lax.rsqrt(apart.var((1, 2, 4), keepdims=True) + 1e-5)
    return normal.reshape(x.shape) * p["scale"] + p["bias"]


def u_net():
    c = WIDTH

    def own(*shape):
        return {
            "w": draw(3, 3, *shape),
            "scale": 1 + draw(shape[1]),
            "bias": draw(shape[1]),
        }

    params = {"in": own(3, c), "down": own(c, 2 * c), "middle": own(2 * c, 2 * c)}
    params |= {"up": draw(3, 3, 2 * c, c), "join": {"scale": 1 + draw(2 * c), "bias": draw(2 * c)}}
    params |= {"out": own(2 * c, c), "head": draw(1, 1, c, 3)}

    def block(p, x, stride=1):
        return jax.nn.silu(group_norm(conv(x, p["w"], stride), p))

    def fn(p, x):
        high = block(p["in"], x)
        low = block(p["down"], high, 2)
        low = low + block(p["middle"], low)
        grown = jax.image.resize(low, (*high.shape[:3], low.shape[3]), "nearest")
        both = jnp.concatenate([conv(grown, p["up"]), high], -1)
        return conv(block(p["out"], jax.nn.silu(group_norm(both, p["join"]))), p["head"])

    return fn, params, draw(2, 8, 8, 3)


def standardised():
    params = {"in": draw(3, 3, 3, 8), "w": draw(3, 3, 8, 8), "d": draw(3, 3, 1, 8)}
    params |= {"gain": 1 + draw(8), "bias": draw(8), "out": draw(8, 3)}

    def standard(w):
        return (w - w.mean((0, 1, 2))) / (w.std((0, 1, 2)) + 1e-5)

    def fn(p, x):
        x = jax.nn.relu(conv(x, p["in"]))
        x = jax.nn.relu(conv(x, standard(p["w"])) * p["gain"] + p["bias"])
        x = jax.nn.relu(conv(x, standard(p["d"]), feature_group_count=8))
        return x.mean((1, 2)) @ p["out"]

    return fn, params, draw(2, 6, 6, 3)


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
