"""Perplexity by its formula, and a dense model that is not as expected."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.models import dense_perplexity, perplexity, windows_sha256

TABLE = np.random.default_rng(0).standard_normal((6, 6)).astype(np.float32)
WINDOWS = np.random.default_rng(1).integers(0, 6, (5, 4))


def bigrams(params, tokens):
    """Logits of the next token depend on this one."""
    return params[tokens]


def test_perplexity_is_its_formula():
    total = 0.0
    for window in WINDOWS.tolist():
        for before, token in itertools.pairwise(window):
            row = [math.exp(x) for x in TABLE[before].tolist()]
            total -= math.log(row[token] / sum(row))
    expected = math.exp(total / 15)
    for batch_size in (1, 2, 5, 8):  # with and without a last batch that is smaller
        found = perplexity(bigrams, jnp.array(TABLE), WINDOWS, batch_size=batch_size)
        assert found == pytest.approx(expected, rel=1e-6)


def test_the_first_token_is_not_scored_and_the_last_one_predicts_nothing():
    sure = jnp.full((6, 6), -100.0).at[jnp.arange(6), (jnp.arange(6) + 1) % 6].set(100.0)
    assert perplexity(bigrams, sure, np.array([[3, 4, 5]])) == pytest.approx(1)


def test_what_is_not_finite_is_named():
    bad = jnp.array(TABLE).at[5].set(jnp.nan)
    windows = np.array([[0, 1, 2], [1, 1, 5], [0, 5, 0]])
    with pytest.raises(ValueError, match=r"window 2 .counted from 0. is NaN"):
        perplexity(bigrams, bad, windows, batch_size=1)
    surprised = jnp.array(TABLE).at[0, 1].set(-1e30)
    assert perplexity(bigrams, surprised, windows[:1]) == math.inf
    for nothing in (np.zeros((0, 4), int), np.zeros((3, 1), int), np.zeros(4, int)):
        with pytest.raises(ValueError, match="nothing to score"):
            perplexity(bigrams, bad, nothing)


@pytest.mark.parametrize(
    ("windows", "batch_size", "words"),
    [
        (np.array([[1, 2, -1]]), 2, "windows hold -1; tokens are integers from 0 up"),
        (np.array([[1.0, 2.0]]), 2, "windows hold float64; tokens are integers"),
        (WINDOWS, 0, r"perplexity\(batch_size=0\): at least 1 window"),
        (WINDOWS, -1, r"perplexity\(batch_size=-1\): at least 1 window"),
    ],
)
def test_what_is_no_token_or_no_batch_is_refused(windows, batch_size, words):
    with pytest.raises(ValueError, match=words):
        perplexity(bigrams, jnp.array(TABLE), windows, batch_size=batch_size)


def test_a_dense_model_must_be_as_expected():
    said = []
    dense = lambda expected, **options: dense_perplexity(
        bigrams, jnp.array(TABLE), WINDOWS, expected=expected, say=said.append, **options
    )
    found = dense(None)
    assert "on 5 windows of 4 tokens (nothing is known" in said[-1]
    assert dense(found * 1.015) == found
    known = {windows_sha256(WINDOWS): found * 1.1, windows_sha256(WINDOWS[:4]): found}
    with pytest.raises(
        ValueError, match=r"more than 2 % off .*; look at the weights, the tokenizer"
    ):
        dense(known)
    assert f"dense perplexity {found:.2f}" in said[-1], "said before it is refused"
    assert dense(known, tolerance=0.15) == found
    dense({})
    assert "nothing is known" in said[-1]
