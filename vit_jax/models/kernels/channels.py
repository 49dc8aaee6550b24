"""Values per channel, such as biases: how they meet narrow tokens."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vit_jax.models.kernels.hardware import generation

NARROW = 64  # channels


def joins_tokens(x: Float[Array, "*batch tokens channels"]) -> bool:
    """Return whether `per_channel` joins the tokens of `x`: it has few channels, and the device is a GPU."""
    return x.ndim > 1 and x.shape[-1] <= NARROW and generation() not in ("cpu", "tpu")


def per_channel(
    function: Callable[..., Array], x: Float[Array, "*batch tokens channels"], *vectors: Float[Array, "channels"]
) -> Float[Array, "*batch tokens channels"]:
    """Return `function(x, *vectors)`, for an element-wise function.

    The gradient of a vector is a sum over all tokens. XLA sums narrow columns slowly on a GPU: those of TNT's words, 24
    wide, take more than ten times as long as to read them. There, the tokens of a sequence are joined to one row, and
    the vectors repeated for each; the values are the same.
    """
    if not joins_tokens(x):
        return function(x, *vectors)
    tokens, channels = x.shape[-2:]
    row = x.reshape(*x.shape[:-2], tokens * channels)
    repeated = jax.lax.optimization_barrier([jnp.tile(vector, tokens) for vector in vectors])  # else XLA undoes it
    return function(row, *repeated).reshape(x.shape)
