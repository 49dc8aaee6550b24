"""Attention in blocks of queries and keys, whose memory is linear in the number of tokens, in plain XLA."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from vit_jax.models.kernels.products import at_least_float32

CHUNK = 256  # the largest number of queries, and of keys, in a block: the blocks of a head stay in a CPU's cache
ATTENDED = "attended"  # name of outputs of attention, and of what their derivative needs, for policies of remat
_ALIGNED = 16  # block sizes are multiples of it, for matrix units


def chunked_attention(
    query: Float[Array, "*batch queries heads qk_head_dim"],
    key: Float[Array, "*batch keys heads qk_head_dim"],
    value: Float[Array, "*batch keys heads v_head_dim"],
    bias: Float[Array, "*bias"] | None = None,
    mask: Bool[Array, "*mask"] | None = None,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    chunk: int = CHUNK,
) -> Float[Array, "*batch queries heads v_head_dim"]:
    """Return softmax(scale * Q K^T + bias) V without ever holding the weights of all pairs.

    A loop over blocks of queries contains a loop over blocks of keys. The inner loop keeps the maximum m of the logits
    so far, the sum l of exp(logit - m), and the sum of exp(logit - m) v, and rescales both sums when m grows (Milakov
    and Gimelshein, arXiv:1805.02867; Rabe and Staats, arXiv:2112.05682). The backward pass computes the weights of each
    block again from m and l, as FlashAttention does (arXiv:2205.14135, appendix B.4), so that only the output, m and l
    are stored.

    Softmax and sums are in float32, or in float64 if the inputs are. As in `attention_weights`, a query whose keys are
    all masked attends to all of them equally. A block of queries takes every n-th query rather than neighbours, so that
    queries that are sharded over devices stay where they are.

    Args:
      bias: Added to the scaled products; broadcasts to `(*batch, heads, queries, keys)`.
      mask: True where a query may attend; broadcasts to the same shape.
      is_causal: Query i attends to keys 0 to i only.
      scale: 1 / sqrt(qk_head_dim) if None.
      chunk: The largest number of queries and of keys in a block.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    rank = query.ndim
    bias, mask = (None if x is None else x.reshape((1,) * (rank - x.ndim) + x.shape) for x in (bias, mask))
    query, key, value = (jnp.swapaxes(x, -3, -2) for x in (query, key, value))
    return jnp.swapaxes(_attention(query, key, value, bias, mask, is_causal, scale, chunk), -3, -2)


class _Blocks:
    """How queries and keys are divided into blocks, and the parts of masks and biases that belong to a pair of blocks.

    Attributes:
      rows, columns: Numbers of queries and of keys in a block.
      row_blocks, column_blocks: Numbers of blocks.
    """

    def __init__(self, queries: int, keys: int, chunk: int, is_causal: bool):
        self.queries, self.keys, self.is_causal = queries, keys, is_causal
        self.row_blocks, self.rows = _division(queries, chunk)
        self.column_blocks, self.columns = _division(keys, chunk)

    def split_rows(self, x: Array, axis: int = -2) -> Array:
        """Split an axis of queries; the blocks become the leading axis. Padding is zeros."""
        axis %= x.ndim
        x = _padded(x, axis, self.row_blocks * self.rows)
        x = x.reshape(*x.shape[:axis], self.rows, self.row_blocks, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis + 1, 0)

    def join_rows(self, blocks: Array, axis: int = -2) -> Array:
        """Invert `split_rows`."""
        axis %= blocks.ndim - 1
        x = jnp.moveaxis(blocks, 0, axis + 1)
        x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
        return jax.lax.slice_in_dim(x, 0, self.queries, axis=axis)

    def split_columns(self, x: Array, axis: int = -2) -> Array:
        """Split an axis of keys; the blocks become the leading axis. Padding is zeros."""
        axis %= x.ndim
        x = _padded(x, axis, self.column_blocks * self.columns)
        x = x.reshape(*x.shape[:axis], self.column_blocks, self.columns, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    def join_columns(self, blocks: Array, axis: int = -2) -> Array:
        """Invert `split_columns`."""
        axis %= blocks.ndim - 1
        x = jnp.moveaxis(blocks, 0, axis)
        x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
        return jax.lax.slice_in_dim(x, 0, self.keys, axis=axis)

    def split_pairs(self, x: Array | None) -> Array | None:
        """Split `(..., queries, keys)`, either of which may be 1, into blocks `(i, j, ..., rows, columns)`.

        An axis that is 1 stays one block. None stays None.
        """
        if x is None:
            return None
        x = x[None] if x.shape[-1] == 1 else self.split_columns(x, -1)
        return x[None] if x.shape[-2] == 1 else self.split_rows(x)

    def join_pairs(self, blocks: Array) -> Array:
        """Invert `split_pairs`."""
        x = blocks[0] if blocks.shape[-2] == 1 else self.join_rows(blocks)
        return x[0] if x.shape[-1] == 1 else self.join_columns(x, -1)

    def allowed(self, mask: Array | None, i: Int[Array, ""], j: Int[Array, ""]) -> Array | None:
        """Return which pairs of row block i and column block j may attend, by a split mask and causality."""
        mask = None if mask is None else _pick(mask, i, j)
        if not self.is_causal:
            return mask
        row, column = i + self.row_blocks * jnp.arange(self.rows), j * self.columns + jnp.arange(self.columns)
        causal = column <= row[:, None]
        return causal if mask is None else mask & causal

    def logits(
        self, query: Array, key: Array, bias: Array | None, allowed: Array | None, j: Any, scale: float
    ) -> Array:
        """Return the logits of a pair of blocks: the smallest number where masked, -inf for padding."""
        wide = at_least_float32(query.dtype)
        logits = jnp.einsum("...qd,...kd->...qk", query, key, preferred_element_type=wide) * scale
        if bias is not None:
            logits += bias
        if allowed is not None:
            logits = jnp.where(allowed, logits, jnp.finfo(logits.dtype).min)
        if self.column_blocks * self.columns == self.keys:
            return logits
        return jnp.where(j * self.columns + jnp.arange(self.columns) < self.keys, logits, -jnp.inf)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _attention(query, key, value, bias, mask, is_causal, scale, chunk):
    """`chunked_attention` of arrays with heads before tokens, `(*batch, heads, tokens, head_dim)`."""
    return _forward(query, key, value, bias, mask, is_causal, scale, chunk)[0]


def _forward(query, key, value, bias, mask, is_causal, scale, chunk):
    """Return the output, and what `_backward` needs."""
    blocks = _Blocks(query.shape[-2], key.shape[-2], chunk, is_causal)
    wide = at_least_float32(query.dtype)
    biases, masks = blocks.split_pairs(bias), blocks.split_pairs(mask)
    columns = (jnp.arange(blocks.column_blocks), blocks.split_columns(key), blocks.split_columns(value))

    def rows(_, row):
        i, query = row

        def step(carry, column):
            largest, total, out = carry
            j, key, value = column
            logits = blocks.logits(query, key, _pick(biases, i, j), blocks.allowed(masks, i, j), j, scale)
            new = jnp.maximum(largest, logits.max(-1, keepdims=True))
            powers, shrink = jnp.exp(logits - new), jnp.exp(largest - new)
            product = jnp.einsum("...qk,...kd->...qd", powers.astype(value.dtype), value, preferred_element_type=wide)
            return (new, total * shrink + powers.sum(-1, keepdims=True), out * shrink + product), None

        shape = query.shape[:-1]
        start = (
            jnp.full((*shape, 1), jnp.finfo(wide).min, wide),
            jnp.zeros((*shape, 1), wide),
            jnp.zeros((*shape, value.shape[-1]), wide),
        )
        (largest, total, out), _ = jax.lax.scan(step, start, columns)
        return None, ((out / total).astype(value.dtype), largest, total)

    _, results = jax.lax.scan(rows, None, (jnp.arange(blocks.row_blocks), blocks.split_rows(query)))
    out, *statistics = (checkpoint_name(x, ATTENDED) for x in results)
    out = blocks.join_rows(out)
    return out, (query, key, value, bias, mask, out, statistics)


def _backward(is_causal, scale, chunk, saved, gradient):
    """Return the gradients of query, key, value and bias.

    dV = P^T dO,   dS = P * (dO V^T - rowsum(dO * O)),   dQ = scale dS K,   dK = scale dS^T Q,   dbias = dS
    """
    query, key, value, bias, mask, out, (largest, total) = saved
    blocks = _Blocks(query.shape[-2], key.shape[-2], chunk, is_causal)
    wide = at_least_float32(query.dtype)
    biases, masks = blocks.split_pairs(bias), blocks.split_pairs(mask)
    mean = (out.astype(wide) * gradient.astype(wide)).sum(-1, keepdims=True)  # of the gradient of a row's weights
    query, gradient, mean = (blocks.split_rows(x) for x in (query, gradient, mean))
    keys, values = blocks.split_columns(key), blocks.split_columns(value)

    def rows(sums, row):
        i, query, gradient, largest, inverse, mean = row
        d_keys, d_values, d_biases = sums

        def step(carry, column):
            d_query, d_biases = carry
            j, key, value, d_key, d_value = column
            allowed = blocks.allowed(masks, i, j)
            logits = blocks.logits(query, key, _pick(biases, i, j), allowed, j, scale)
            weights = jnp.exp(logits - largest) * inverse
            d_weights = jnp.einsum("...qd,...kd->...qk", gradient, value, preferred_element_type=wide)
            d_logits = weights * (d_weights - mean)
            if allowed is not None:
                d_logits = jnp.where(allowed, d_logits, 0)
            product = functools.partial(jnp.einsum, preferred_element_type=wide)
            d_value += product("...qk,...qd->...kd", weights.astype(gradient.dtype), gradient)
            d_biases = _add_to(d_biases, i, j, d_logits)
            d_logits = (d_logits * scale).astype(query.dtype)
            d_key += product("...qk,...qd->...kd", d_logits, query)
            d_query += product("...qk,...kd->...qd", d_logits, key)
            return (d_query, d_biases), (d_key, d_value)

        columns = (jnp.arange(blocks.column_blocks), keys, values, d_keys, d_values)
        (d_query, d_biases), (d_keys, d_values) = jax.lax.scan(step, (jnp.zeros(query.shape, wide), d_biases), columns)
        return (d_keys, d_values, d_biases), d_query.astype(query.dtype)

    zeros = (
        jnp.zeros(keys.shape, wide),
        jnp.zeros(values.shape, wide),
        None if biases is None else jnp.zeros(biases.shape, wide),
    )
    sums, d_query = jax.lax.scan(
        rows, zeros, (jnp.arange(blocks.row_blocks), query, gradient, largest, 1 / total, mean)
    )
    d_keys, d_values, d_biases = sums
    d_bias = None if d_biases is None else blocks.join_pairs(d_biases).astype(bias.dtype)
    d_key, d_value = (blocks.join_columns(x) for x in (d_keys, d_values))
    return blocks.join_rows(d_query), d_key.astype(key.dtype), d_value.astype(value.dtype), d_bias, None


_attention.defvjp(_forward, _backward)


def _division(length: int, chunk: int) -> tuple[int, int]:
    """Return the number of blocks and their size, the same for all, that pads `length` least."""
    blocks = max(math.ceil(length / chunk), 1)
    size = math.ceil(length / blocks)
    return blocks, size if blocks == 1 else math.ceil(size / _ALIGNED) * _ALIGNED


def _padded(x: Array, axis: int, length: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, length - x.shape[axis])
    return jnp.pad(x, widths)


def _pick(pairs: Array | None, i: Any, j: Any) -> Array | None:
    """Return the part of `_Blocks.split_pairs` that belongs to row block i and column block j."""
    return None if pairs is None else pairs[_index(pairs, i, j)]


def _index(pairs: Array, i: Any, j: Any) -> tuple[Any, Any]:
    """Return the place of a pair of blocks; an axis of size 1 belongs to all blocks."""
    return (i if pairs.shape[0] > 1 else 0), (j if pairs.shape[1] > 1 else 0)


def _add_to(pairs: Array | None, i: Any, j: Any, x: Array) -> Array | None:
    """Add `x`, summed over the axes along which `pairs` is broadcast, to the part of one pair of blocks."""
    if pairs is None:
        return None
    over = tuple(axis for axis, size in enumerate(pairs.shape[2:]) if size == 1 and x.shape[axis] > 1)
    return pairs.at[_index(pairs, i, j)].add(x.sum(over, keepdims=True))
