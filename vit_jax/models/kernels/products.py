"""Products of matrices in the form that the device computes fastest, forward and backward."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Shaped

from vit_jax.devices.placement import is_whole
from vit_jax.models.kernels.hardware import generation


def at_least_float32(dtype: Any) -> Any:
    """Return float32 if the dtype is narrower, else the dtype itself.

    Heads and softmax compute in it.
    """
    return jnp.promote_types(dtype, jnp.float32)


def matrix_product(
    x: Float[Array, "*rows inputs"], kernel: Float[Array, "inputs outputs"], out_dtype: Any = None
) -> Float[Array, "*rows outputs"]:
    """Return x W, summed in `out_dtype` or wider; see `flat_rows` for the shape of x.

    On a CPU, products narrower than float32 take another path, because XLA has a fast kernel only for A (M x K) times
    B (K x N) with both in row-major order and a float32 result. The two products of the backward pass, g W^T and x^T g,
    have a transposed operand: here it is copied into row-major order first, which makes each about twice as fast on a
    processor with bfloat16 instructions. The values differ from `jnp.matmul` by no more than rounding. With several CPU
    devices, products stay as they are: the row-major order would gather sharded operands.

    Args:
      out_dtype: Dtype of the result, if wider than that of the inputs; None for theirs.
    """
    if generation() == "cpu" and jax.device_count() == 1 and x.dtype == kernel.dtype == jnp.bfloat16:
        return _row_major_product(x, kernel).astype(out_dtype or x.dtype)
    return jnp.matmul(x, kernel, preferred_element_type=out_dtype)


@jax.custom_vjp
def _row_major_product(x, kernel):
    """Return x W in float32; the gradients are rounded to the dtype of x and W."""
    return jnp.matmul(_row_major(x), _row_major(kernel), preferred_element_type=jnp.float32)


def _forward(x, kernel):
    return _row_major_product(x, kernel), (x, kernel)


def _backward(saved, gradient):
    x, kernel = saved
    gradient = gradient.astype(x.dtype)
    by_x = _row_major_product(gradient, kernel.T)
    by_kernel = _row_major_product(x.T, gradient)
    return by_x.astype(x.dtype), by_kernel.astype(kernel.dtype)


_row_major_product.defvjp(_forward, _backward)


def row_major_on_gpu(x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Return `x`. On a GPU it and its gradient are in row-major order, unless the compiler divides it over devices.

    XLA chooses the order of the axes in memory, and may prefer what suits one small product: for that of the head, the
    tokens of a ViT with a class token had the batch as their last axis in all blocks, and a fifth of a train step went
    into transposing them.
    """
    return _row_major(x) if is_whole() and generation() not in ("cpu", "tpu") else x


def _row_major(x):
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))
