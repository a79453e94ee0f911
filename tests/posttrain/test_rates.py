"""Rates by measured errors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.posttrain import gather, output_errors, plan, prune, rates, solvers
from jaxprune.posttrain.contests import contest
from jaxprune.posttrain.views import Layout

WIDTHS = (24, 16, 32, 8)


def network():
    """Three kernels of different sizes, and how hard each is to prune: by the spread of its inputs."""
    keys = jax.random.split(jax.random.key(0), len(WIDTHS))
    sizes = itertools.pairwise(WIDTHS)
    params = {
        f"layer{i}": jax.random.normal(key, size)
        for i, (key, size) in enumerate(zip(keys, sizes, strict=False))
    }
    batches = [jax.random.normal(keys[-1], (64, WIDTHS[0])) * jnp.geomspace(1, 30, WIDTHS[0])[None]]

    def apply(params, x):
        for i in range(len(params)):
            x = x @ params[f"layer{i}"]
        return x

    return apply, params, batches


def pruned_at(made, params, batches, chosen, solver):
    return prune(made, params, batches, solver=solver, rates=chosen, calibrate="dense")


@pytest.mark.parametrize("solver", [solvers.sparsegpt(), solvers.by_criterion(jp.criteria.wanda)])
def test_no_mix_within_the_budget_has_less_error(solver):
    apply, params, batches = network()
    made = plan(apply, params, batches[0])
    statistics = gather(made, params, batches, ("grams",))

    def error_of(result):
        """The sum of the kernels' errors on the statistics of the dense network."""
        return sum(output_errors(made, params, result.params, statistics).values())

    measured = rates.measured(0.5, solver=solver, apart=0.2, options=3)
    result = pruned_at(made, params, batches, measured, solver)
    least = error_of(result)
    sizes = [int(np.prod(leaf.shape)) for leaf in params.values()]
    kept = sum(int(mask.sum()) for mask in result.masks.values())
    assert kept <= 0.5 * sum(sizes) + len(sizes)
    for mix in itertools.product((0.3, 0.5, 0.7), repeat=3):
        if sum((1 - rate) * size for rate, size in zip(mix, sizes, strict=True)) <= 0.5 * sum(
            sizes
        ):
            error = error_of(pruned_at(made, params, batches, list(mix), solver))
            assert least <= error * 1.001 + 1e-6, mix


def test_rates_outside_the_range_are_left_out():
    apply, params, batches = network()
    solver = solvers.by_criterion(jp.criteria.wanda)
    chosen = rates.measured(0.05, solver=solver, apart=0.1, options=5)
    result = pruned_at(plan(apply, params, batches[0]), params, batches, chosen, solver)
    assert 0.05 <= result.report.sparsity < 0.2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sparsity": 1.0}, "is needed"),
        ({"sparsity": 0.5, "options": 4}, "an odd number from 3"),
        ({"sparsity": 0.5, "apart": 0.0}, "above 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        rates.measured(**arguments, solver=solvers.sparsegpt())


def test_solvers_that_draw_are_refused():
    with pytest.raises(ValueError, match="draws"):
        rates.measured(0.5, solver=solvers.by_criterion(jp.criteria.random))


@pytest.mark.parametrize("sparsity", [0.95, 0.97, 149 / 150])
def test_the_highest_rates_fit_their_own_budget(sparsity):
    apply, params, batches = network()
    solver = solvers.by_criterion(jp.criteria.wanda)
    made = plan(apply, params, batches[0])
    result = prune(
        made, params, batches, solver=solver, rates=rates.measured(sparsity, solver=solver)
    )
    assert result.report.sparsity > sparsity - 0.01


def test_more_weights_than_can_be_counted_are_refused_before_anything_is_computed():
    layout = Layout((60_000, 60_000), (), (0,), (1,))
    with pytest.raises(ValueError, match=r"'head' has 3,600,000,000 units.*groups\(\) each"):
        contest(jp.patterns.unstructured(), layout, 0.5, "head")
    assert contest(jp.patterns.groups(), layout, 0.5, "head").keep == 30_000
