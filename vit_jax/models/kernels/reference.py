"""The plain formulation of attention: the weights of all pairs, then the weighted sums of the values."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vit_jax.models.kernels.products import at_least_float32


def attention_weights(
    query: Float[Array, "*batch queries heads qk_head_dim"],
    key: Float[Array, "*batch keys heads qk_head_dim"],
    mask: Bool[Array, "*mask"] | None = None,
    bias: Float[Array, "*bias"] | None = None,
) -> Float[Array, "*batch heads queries keys"]:
    """Return softmax(Q K^T / sqrt(d) + bias) over the keys, for queries and keys of width d.

    Computed in float32, or in float64 if the inputs are. A query whose keys are all masked attends to all of them
    equally, where the formula gives NaN.

    Args:
      mask: True where a query may attend; broadcasts to `(*batch, heads, queries, keys)`.
      bias: Added to the scaled products; broadcasts to the same shape.
    """
    scale = query.shape[-1] ** -0.5
    wide = at_least_float32(query.dtype)
    query, key = query.swapaxes(-3, -2), key.swapaxes(-3, -2)  # twice as fast on a CPU with heads before tokens
    logits = jnp.einsum("...qd,...kd->...qk", query, key, preferred_element_type=wide) * scale
    if bias is not None:
        logits += bias
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(logits.dtype).min)
    return jax.nn.softmax(logits)


def weigh(
    weights: Float[Array, "*batch heads queries keys"], value: Float[Array, "*batch keys heads v_head_dim"]
) -> Float[Array, "*batch queries heads v_head_dim"]:
    """Return the weighted sums of the values, one for each query."""
    return jnp.einsum("...qk,...kd->...qd", weights.astype(value.dtype), value.swapaxes(-3, -2)).swapaxes(-3, -2)


def causal_mask(queries: int, keys: int, mask: Bool[Array, "*mask"] | None = None) -> Bool[Array, "*masked"]:
    """Return `mask` without the pairs of a query and a key after it."""
    causal = jnp.tril(jnp.ones((queries, keys), bool))
    return causal if mask is None else mask & causal
