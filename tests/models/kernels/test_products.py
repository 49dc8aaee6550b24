"""Products of matrices on a CPU in bfloat16 against float64, their gradients and their compiled form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models.kernels.products import matrix_product
from vit_jax.models.layers import Dense


def bfloat16(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.bfloat16)


@pytest.mark.parametrize("out_dtype", [None, jnp.float32])
def test_values_and_gradients_in_bfloat16(out_dtype):
    x, kernel, target = bfloat16(0, 37, 24), bfloat16(1, 24, 40), bfloat16(2, 37, 40)

    @jax.jit
    def run(x, kernel):
        out, pull_back = jax.vjp(lambda *arrays: matrix_product(*arrays, out_dtype), x, kernel)
        return out, *pull_back(target.astype(out.dtype))

    out, by_x, by_kernel = run(x, kernel)
    assert (out.dtype, by_x.dtype, by_kernel.dtype) == (out_dtype or jnp.bfloat16, jnp.bfloat16, jnp.bfloat16)
    x, kernel, target = (np.float64(array) for array in (x, kernel, target))
    for got, expected in ((out, x @ kernel), (by_x, target @ kernel.T), (by_kernel, x.T @ target)):
        # half a unit in the last of 8 bits of each result, and the rounding of float32 sums that nearly cancel
        np.testing.assert_allclose(np.float64(got), expected, rtol=2**-8, atol=1e-5)


def test_float32_is_the_plain_product():
    x, kernel = (bfloat16(seed, 8, 8).astype(jnp.float32) for seed in (0, 1))
    np.testing.assert_array_equal(matrix_product(x, kernel), jnp.matmul(x, kernel))


def test_no_compiled_product_in_bfloat16_has_a_transposed_operand():
    """Those run at the rate of float32, or below it."""
    x = jnp.ones((32, 64), jnp.bfloat16)
    layer = Dense(128, dtype=jnp.bfloat16)
    params = jax.eval_shape(lambda: layer.init(jax.random.key(0), x))

    def loss(params, x):
        return layer.apply(params, x).astype(jnp.float32).var()

    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, x).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) == 3
    assert all("contracting_dims = [1] x [0]" in line and line.count("bf16") == 2 for line in products)
