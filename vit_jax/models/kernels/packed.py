"""Attention within many short sequences, several of them in one program: a Pallas kernel.

The words of a TNT patch are 16 tokens with heads of width 6, the frames of a TimeSformer patch 8 tokens: a product for
each sequence and head would be far smaller than the tile of a matrix unit. Here the rows of several sequences form one
tile of `TILE` rows. Its product of all queries with all keys is a single one, and a block-diagonal mask keeps the
sequences apart:

    P = softmax over the keys of the own sequence of (Q K^T / sqrt(d)),   O = P V
    dV = P^T dO,   dS = P * (dP - rowsum(P * dP)) with dP = dO V^T,   dQ = dS K / sqrt(d),   dK = dS^T Q / sqrt(d)

Forward and backward pass read queries, keys, values and gradients once, and write results only: the weights are
computed again. The tile costs TILE / tokens times the multiplications, which a matrix unit has to spare.
Pallas compiles the kernel with Triton for a GPU and with Mosaic for a TPU, and interprets it on a CPU. It has been
lowered for both, but not yet timed on either.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from vit_jax.models.kernels.hardware import generation

TILE = 64
MOST_TOKENS = 32
_SMALLEST_WIDTH = 16  # of an operand of a product in Triton


def packable(query: Array, key: Array, value: Array) -> bool:
    """Return whether the kernel takes these shapes: self-attention within short sequences, heads of one width."""
    return query.shape == key.shape == value.shape and query.shape[-3] <= MOST_TOKENS


def packed_attention(
    query: Float[Array, "*batch tokens heads head_dim"],
    key: Float[Array, "*batch tokens heads head_dim"],
    value: Float[Array, "*batch tokens heads head_dim"],
    device: str | None = None,
) -> Float[Array, "*batch tokens heads head_dim"]:
    """Return softmax(Q K^T / sqrt(d)) V within each sequence, without mask or bias.

    Args:
      query, key, value: Sequences of at most `MOST_TOKENS` tokens, of one width.
      device: Generation of the device to compile for (`vit_jax.models.kernels.hardware`); None for the default device.
    """
    *batch, tokens, heads, head_dim = query.shape
    slots = 2 ** math.ceil(math.log2(tokens))  # rows of a sequence: a tile holds a whole number of them
    sequences = math.prod(batch)
    per_tile = TILE // slots
    padding = ((0, -sequences % per_tile), (0, slots - tokens), (0, 0), (0, 0))

    def rows(x):
        x = jnp.pad(x.reshape(sequences, tokens, heads, head_dim), padding)
        return x.reshape(-1, heads, head_dim)

    out: Any = _attention(rows(query), rows(key), rows(value), tokens, slots, device or generation())
    return out.reshape(-1, slots, heads, head_dim)[:sequences, :tokens].reshape(query.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _attention(query, key, value, tokens, slots, device):
    """Return the attention of `(rows, heads, head_dim)`; each sequence has `tokens` of its `slots` rows."""
    return _call(_forward_kernel, (query, key, value), 1, tokens, slots, device)[0]


def _forward(query, key, value, tokens, slots, device):
    return _attention(query, key, value, tokens, slots, device), (query, key, value)


def _backward(tokens, slots, device, saved, gradient):
    return _call(_backward_kernel, (*saved, gradient), 3, tokens, slots, device)


_attention.defvjp(_forward, _backward)


def _call(kernel, arrays, num_outputs, tokens, slots, device):
    rows, heads, head_dim = arrays[0].shape
    kernel = functools.partial(kernel, tokens=tokens, slots=slots, head_dim=head_dim, masked_loads=device != "tpu")
    if device == "tpu":  # tiles of Mosaic are the last two axes, in full or in multiples of 8 x 128
        arrays = [x.swapaxes(0, 1) for x in arrays]
        spec = pl.BlockSpec((None, TILE, head_dim), lambda tile, head: (head, tile, 0))
        options: dict[str, Any] = {}
    else:  # the sizes of Triton's tiles are powers of 2; the heads stay where the projections write them
        width = max(_SMALLEST_WIDTH, 2 ** math.ceil(math.log2(head_dim)))
        spec = pl.BlockSpec((TILE, None, width), lambda tile, head: (tile, head, 0))
        options = {"compiler_params": triton.CompilerParams(num_warps=4, num_stages=1)}
    if device == "cpu":
        options = {"interpret": True}
    outputs = pl.pallas_call(
        kernel,
        grid=(rows // TILE, heads),
        in_specs=[spec] * len(arrays),
        out_specs=[spec] * num_outputs,
        out_shape=[jax.ShapeDtypeStruct(arrays[0].shape, arrays[0].dtype)] * num_outputs,
        **options,
    )(*arrays)
    return tuple(x.swapaxes(0, 1) for x in outputs) if device == "tpu" else tuple(outputs)


def _forward_kernel(query, key, value, out, *, tokens, slots, head_dim, masked_loads):
    load, store = _access(query.shape, head_dim, masked_loads)
    weights = _weights(load(query), load(key), tokens, slots, head_dim)
    values = load(value)
    store(out, _product(weights.astype(values.dtype), values, 1, 0))


def _backward_kernel(query, key, value, gradient, by_query, by_key, by_value, *, tokens, slots, head_dim, masked_loads):
    load, store = _access(query.shape, head_dim, masked_loads)
    q, k, v, g = load(query), load(key), load(value), load(gradient)
    weights = _weights(q, k, tokens, slots, head_dim)
    store(by_value, _product(weights.astype(g.dtype), g, 0, 0))
    by_weights = _product(g, v, 1, 1)
    by_logits = weights * (by_weights - jnp.sum(weights * by_weights, axis=1, keepdims=True)) * head_dim**-0.5
    by_logits = by_logits.astype(q.dtype)
    store(by_query, _product(by_logits, k, 1, 0))
    store(by_key, _product(by_logits, q, 0, 0))


def _access(shape, head_dim, masked):
    """Return functions that load and store the first `head_dim` columns of a tile; the others do not exist."""
    if not masked:
        return lambda ref: ref[...], lambda ref, x: ref.__setitem__(..., x.astype(ref.dtype))
    mask = jax.lax.broadcasted_iota(jnp.int32, shape, 1) < head_dim
    return (
        lambda ref: triton.load(ref, mask=mask, other=0),
        lambda ref, x: triton.store(ref, x.astype(ref.dtype), mask=mask),
    )


def _weights(query, key, tokens, slots, head_dim):
    """Return the weights of all pairs of a tile in float32; zero unless both are of one sequence."""
    logits = _product(query, key, 1, 1) * head_dim**-0.5
    row, column = (jax.lax.broadcasted_iota(jnp.int32, logits.shape, axis) for axis in (0, 1))
    allowed = (row // slots == column // slots) & (column % slots < tokens)
    logits = jnp.where(allowed, logits, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def _product(left, right, left_axis, right_axis):
    """Return the product over an axis of each, summed in float32."""
    dimensions = (((left_axis,), (right_axis,)), ((), ()))
    return jax.lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)
