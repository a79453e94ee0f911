"""The roles of axes in products, and the number of their multiplications."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxprune.programs.contractions import Contraction, contraction, multiplications


def product_of(fn, *shapes):
    """Returns the last equation of a function that is a product."""
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return [e for e in jax.make_jaxpr(fn)(*arrays).eqns if contraction(e) is not None][-1]


def convolution(images, kernel, groups=1):
    orders = ("NHWC", "HWIO", "NHWC")
    options = {"dimension_numbers": orders, "feature_group_count": groups}
    return lax.conv_general_dilated(images, kernel, (1, 1), "SAME", **options)


def test_a_matrix_product_sums_over_inputs():
    equation = product_of(jnp.matmul, (5, 3), (3, 4))
    roles = (("out", "in"), ("in", "out"))
    assert contraction(equation) == Contraction(roles)
    assert multiplications(equation, [(5, 3), (3, 4)], (5, 4)) == 5 * 3 * 4


def test_each_index_of_a_batch_axis_has_a_product_of_its_own():
    equation = product_of(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (2, 5, 3), (2, 3, 4))
    found = contraction(equation)
    assert found is not None
    assert [found.axes(operand, "batch") for operand in (0, 1)] == [(0,), (0,)]


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_slides_its_window(groups):
    shapes = [(1, 8, 8, 4), (3, 3, 4 // groups, 6)]
    equation = product_of(lambda x, w: convolution(x, w, groups), *shapes)
    found = contraction(equation)
    assert found == Contraction((None, ("window", "window", "in", "out")), groups)
    assert multiplications(equation, shapes, (1, 8, 8, 6)) == 8 * 8 * 6 * 9 * 4 // groups


def test_what_is_no_product_multiplies_nothing():
    (equation,) = jax.make_jaxpr(jnp.sin)(jnp.ones(3)).eqns
    assert contraction(equation) is None
    assert multiplications(equation, [(3,)], (3,)) == 0
