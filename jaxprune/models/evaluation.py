r"""Perplexity on windows of tokens.

Windows do not overlap, and each is evaluated by itself. In a window of $L$ tokens the first token is only
context; the other $L - 1$ are scored. With $N$ windows

$$\mathrm{perplexity} = \exp \frac{-\sum \log p(t_i \mid t_1 \dots t_{i-1})}{N (L - 1)}.$$
"""

import functools
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.wording import counted

__all__ = ["dense_perplexity", "perplexity", "windows_sha256"]


def perplexity(
    apply: Callable[[Any, jax.Array], jax.Array], params: Any, windows: Any, *, batch_size: int = 2
) -> float:
    """Returns the perplexity of a model on windows of tokens, by the formula of this module's docstring.

    Args:
      apply: (params, tokens [batch, length]) -> logits [batch, length, vocabulary]. It is compiled once per
        function and shape, so pass the same function object in later calls.
      params: parameters of the model.
      windows: tokens, int [count, length].
      batch_size: number of windows at a time; logits take batch_size x length x vocabulary x 4 bytes.

    Returns:
      The perplexity, a float; infinite if its logarithm is above 709.

    Raises:
      ValueError: there is nothing to score, a window holds an invalid token, or a window's loss is NaN.

    >>> uniform = lambda params, tokens: jnp.zeros((*tokens.shape, 7))
    >>> round(perplexity(uniform, {}, np.array([[1, 2, 3], [4, 5, 6], [0, 0, 0]])), 4)
    7.0
    """
    windows = np.asarray(windows)
    if windows.ndim != 2 or windows.shape[1] < 2 or not len(windows):
        raise ValueError(
            f"perplexity: windows of the shape {windows.shape} leave nothing to score; "
            "[count, length >= 2] is needed."
        )
    if windows.dtype.kind not in "iu" or windows.min() < 0:
        found = f"{windows.min()}" if windows.dtype.kind in "iu" else str(windows.dtype)
        raise ValueError(
            f"perplexity: windows hold {found}; tokens are integers from 0 up, without filling."
        )
    if batch_size < 1:
        raise ValueError(
            f"perplexity(batch_size={batch_size}): at least 1 window at a time is needed."
        )
    losses = []
    for first_window in range(0, len(windows), batch_size):
        batch = windows[first_window : first_window + batch_size]
        # The last batch is filled up with its first window, so that one program serves all.
        padded_batch = np.concatenate([batch, batch[:1].repeat(batch_size - len(batch), axis=0)])
        losses.extend(np.asarray(_losses(apply, params, padded_batch))[: len(batch)].tolist())
    if any(math.isnan(loss) for loss in losses):
        bad_index = next(index for index, loss in enumerate(losses) if math.isnan(loss))
        raise ValueError(
            f"perplexity: the loss of window {bad_index} (counted from 0) is NaN; parameters are not finite, "
            "or a token is outside the vocabulary."
        )
    mean_loss = math.fsum(losses) / (len(windows) * (windows.shape[1] - 1))
    return math.exp(mean_loss) if mean_loss < 709 else math.inf


@functools.partial(jax.jit, static_argnums=0)
def _losses(apply: Callable[..., jax.Array], params: Any, tokens: jax.Array) -> jax.Array:
    """Returns the summed negative log-likelihood of each window."""
    logits = apply(params, tokens)[:, :-1].astype(jnp.float32)
    target_logits = jnp.take_along_axis(logits, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.sum(jax.nn.logsumexp(logits, axis=-1) - target_logits, axis=-1)


def windows_sha256(windows: Any) -> str:
    """Returns the SHA-256 of windows, under which a perplexity on them is recorded.

    Args:
      windows: int [count, length].

    >>> windows_sha256(np.array([[1, 2]]))[:8]
    'a1bdf297'
    """
    windows = np.asarray(windows)
    return hashlib.sha256(f"{windows.shape}".encode() + windows.astype("<i4").tobytes()).hexdigest()


def dense_perplexity(
    apply: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    windows: Any,
    *,
    expected: float | Mapping[str, float] | None,
    tolerance: float = 0.02,
    batch_size: int = 2,
    say: Callable[[str], Any] = print,
) -> float:
    """Measures the perplexity of a model before it is pruned; raises if it is not the expected one.

    A pruned model's perplexity means something only beside the dense one: a wrong tokenizer, text or rotary
    order would make every row of a table wrong by a plausible amount.

    Args:
      apply: as in `perplexity`.
      params: of the dense model.
      windows: int [count, length].
      expected: the expected perplexity; or a dict `windows_sha256` -> perplexity, such as
        `Model.perplexities`; `None`: not known.
      tolerance: largest allowed relative difference.
      batch_size: as in `perplexity`.
      say: called with a sentence that tells the result.

    Returns:
      The perplexity.

    Raises:
      ValueError: the perplexity differs from the expected one by more than the tolerance.
    """
    measured = perplexity(apply, params, windows, batch_size=batch_size)
    if isinstance(expected, Mapping):
        expected = expected.get(windows_sha256(windows))
    count, length = np.shape(windows)
    expectation = (
        "nothing is known to compare it with" if expected is None else f"expected {expected:.2f}"
    )
    data_text = f"{counted(count, 'window')} of {counted(length, 'token')}"
    say(f"dense perplexity {measured:.2f} on {data_text} ({expectation})")
    if expected is not None and not abs(measured / expected - 1) <= tolerance:
        raise ValueError(
            f"dense_perplexity: {measured:.2f} is more than {100 * tolerance:g} % off {expected:.2f}; look "
            "at the weights, the tokenizer and the text before anything is pruned."
        )
    return measured
