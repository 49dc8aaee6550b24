"""Attention within many short sequences, several of them in one program: a Pallas kernel.

The words of a TNT patch are 16 tokens with heads of width 6, the frames of a TimeSformer patch 8 tokens: a product for
each sequence and head would be far smaller than the tile of a matrix unit. Here the rows of several sequences form one
tile of `TILE` rows. Its product of all queries with all keys is a single one, and a block-diagonal mask keeps the
sequences apart:

    P = softmax over the keys of the own sequence of (Q K^T / sqrt(d)),   O = P V
    dV = P^T dO,   dS = P * (dP - rowsum(P * dP)) with dP = dO V^T,   dQ = dS K / sqrt(d),   dK = dS^T Q / sqrt(d)

Heads that are narrower than a tile of a matrix unit are read together, so that a row is read in one piece. Each head's
product is then one of whole rows, in which the queries (or values) of the other heads are zero.

Forward and backward pass read queries, keys, values and gradients once, and write results only: the weights are
computed again. The tile costs TILE / tokens times the multiplications, which a matrix unit has to spare.
Pallas compiles the kernel with Triton for a GPU and with Mosaic for a TPU, and interprets it on a CPU. It was timed on
an H100 (docs/performance.md), and on no TPU.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from vit_jax.models.kernels.hardware import generation

TILE = 32  # rows
MOST_TOKENS = 32
_TOGETHER = 64  # columns up to which all heads are in one program
_WARPS = 2
_SMALLEST_WIDTH = 16  # of an operand of a product in Triton


def packable(query: Array, key: Array, value: Array) -> bool:
    """Return whether the kernel takes these shapes: self-attention within short sequences, heads of one width."""
    return query.shape == key.shape == value.shape and query.shape[-3] <= MOST_TOKENS


def packed_attention(
    query: Float[Array, "*batch tokens heads head_dim"],
    key: Float[Array, "*batch tokens heads head_dim"],
    value: Float[Array, "*batch tokens heads head_dim"],
    joint: Float[Array, "*batch tokens joint_dim"] | None = None,
    device: str | None = None,
) -> Float[Array, "*batch tokens heads head_dim"]:
    """Return softmax(Q K^T / sqrt(d)) V within each sequence, without mask or bias.

    Args:
      query, key, value: Sequences of at most `MOST_TOKENS` tokens, of one width.
      joint: The same queries, keys and values side by side, if one product has made them. If they are narrow, they are
        read from this array, and their gradients written into one, so that nothing is taken apart and joined again.
      device: Generation of the device to compile for (`vit_jax.models.kernels.hardware`); None for the default device.
    """
    *batch, tokens, heads, head_dim = query.shape
    device = device or generation()
    slots = 2 ** math.ceil(math.log2(tokens))  # rows of a sequence: a tile holds a whole number of them
    sequences = math.prod(batch)
    padding = ((0, -sequences % (TILE // slots)), (0, slots - tokens), (0, 0))
    sizes = _Sizes(tokens, slots, heads, heads if heads * head_dim <= _TOGETHER else 1, head_dim)
    arrays: tuple[Any, ...] = (query, key, value)
    if joint is not None and sizes.together == heads and device != "tpu":
        arrays = (joint,)

    def rows(x):
        x = jnp.pad(x.reshape(sequences, tokens, -1), padding)
        return x.reshape(-1, x.shape[-1])

    out: Any = _attention(tuple(rows(x) for x in arrays), sizes, device)
    return out.reshape(-1, slots, heads * head_dim)[:sequences, :tokens].reshape(query.shape)


class _Sizes(NamedTuple):
    """The sizes of a call.

    Attributes:
      tokens: Number of tokens of a sequence.
      slots: Number of rows that a sequence takes, a power of 2.
      heads: Number of heads.
      together: Number of heads that one program computes: all or one.
      head_dim: Width of a head.
    """

    tokens: int
    slots: int
    heads: int
    together: int
    head_dim: int

    @property
    def columns(self) -> int:
        """Columns of the queries in one program."""
        return self.together * self.head_dim

    @property
    def width(self) -> int:
        """Columns of a tile of Triton, whose sizes are powers of 2."""
        return _power_of_two(max(_SMALLEST_WIDTH, self.columns))


def _power_of_two(number: int) -> int:
    return 2 ** math.ceil(math.log2(number))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _attention(arrays, sizes, device):
    """Return the attention of queries, keys and values `(rows, heads * head_dim)`, or of one array of all three."""
    out = jax.ShapeDtypeStruct((len(arrays[0]), sizes.heads * sizes.head_dim), arrays[0].dtype)
    return _call(_forward_kernel, arrays, [out], sizes, device)[0]


def _forward(arrays, sizes, device):
    return _attention(arrays, sizes, device), arrays


def _backward(sizes, device, arrays, gradient):
    return (_call(_backward_kernel, (*arrays, gradient), arrays, sizes, device),)


_attention.defvjp(_forward, _backward)


def _call(kernel, arrays, results, sizes, device):
    """Run a kernel on `arrays`, for results of the shapes of `results`, all `(rows, columns)`."""
    rows, programs = len(arrays[0]), sizes.heads // sizes.together

    def split(x):
        return (rows, programs, x.shape[1] // programs)

    if device == "tpu":  # tiles of Mosaic are the last two axes, in full or in multiples of 8 x 128
        arrays = [x.reshape(split(x)).swapaxes(0, 1) for x in arrays]
        shapes = [(programs, rows, split(x)[2]) for x in results]
        options: dict[str, Any] = {}

        def spec(shape):
            return pl.BlockSpec((None, TILE, shape[2]), lambda tile, program: (program, tile, 0))
    else:  # the heads stay where the projections write them
        arrays = [x.reshape(split(x)) for x in arrays]
        shapes = [split(x) for x in results]
        options = {"compiler_params": triton.CompilerParams(num_warps=_WARPS, num_stages=1)}

        def spec(shape):
            width = _power_of_two(shape[2] - sizes.columns + sizes.width)
            return pl.BlockSpec((TILE, None, width), lambda tile, program: (tile, program, 0))

    if device == "cpu":
        options = {"interpret": True}
    outputs = pl.pallas_call(
        functools.partial(kernel, sizes=sizes, masked=device != "tpu"),
        grid=(rows // TILE, programs),
        in_specs=[spec(x.shape) for x in arrays],
        out_specs=[spec(shape) for shape in shapes],
        out_shape=[jax.ShapeDtypeStruct(shape, arrays[0].dtype) for shape in shapes],
        **options,
    )(*arrays)
    outputs = [x.swapaxes(0, 1) for x in outputs] if device == "tpu" else outputs
    return tuple(x.reshape(y.shape) for x, y in zip(outputs, results, strict=True))


def _forward_kernel(*refs, sizes, masked):
    *inputs, out = refs
    load, store = _access(sizes, masked)
    q, k, v = map(load, _three(inputs, sizes))
    total = jnp.zeros(q.shape, jnp.float32)
    for head in range(sizes.together):
        weights = _weights(_only(head, q, sizes), k, sizes)
        total += _product(weights.astype(v.dtype), _only(head, v, sizes), 1, 0)
    store(out, total)


def _backward_kernel(*refs, sizes, masked):
    count = len(refs) // 2
    inputs, gradient, outputs = refs[:count], refs[count], refs[count + 1 :]
    load, store = _access(sizes, masked)
    q, k, v = map(load, _three(inputs, sizes))
    g = load(gradient)
    by_q, by_k, by_v = (jnp.zeros(q.shape, jnp.float32) for _ in range(3))
    for head in range(sizes.together):
        q_head, g_head = _only(head, q, sizes), _only(head, g, sizes)
        weights = _weights(q_head, k, sizes)
        by_v += _product(weights.astype(g.dtype), g_head, 0, 0)
        by_weights = _product(g_head, v, 1, 1)
        by_logits = weights * (by_weights - jnp.sum(weights * by_weights, axis=1, keepdims=True))
        by_logits = (by_logits * sizes.head_dim**-0.5).astype(q.dtype)
        by_q += _product(by_logits, _only(head, k, sizes), 1, 0)
        by_k += _product(by_logits, q_head, 0, 0)
    for ref, x in zip(_three(outputs, sizes), (by_q, by_k, by_v), strict=True):
        store(ref, x)


def _three(refs, sizes):
    """Return where queries, keys and values are: in an array each, or side by side in one."""
    if len(refs) == 3:
        return refs
    return [refs[0].at[:, pl.ds(i * sizes.columns, sizes.width)] for i in range(3)]


def _access(sizes, masked):
    """Return functions that load and store the columns of a tile that exist."""
    if not masked:
        return lambda ref: ref[...], lambda ref, x: ref.__setitem__(..., x.astype(ref.dtype))
    mask = jax.lax.broadcasted_iota(jnp.int32, (TILE, sizes.width), 1) < sizes.columns
    return (
        lambda ref: triton.load(ref, mask=mask, other=0),
        lambda ref, x: triton.store(ref, x.astype(ref.dtype), mask=mask),
    )


def _only(head, x, sizes):
    """Return a tile with the columns of one head; the others are zero."""
    if sizes.together == 1:
        return x
    column = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    return jnp.where(column // sizes.head_dim == head, x, jnp.zeros((), x.dtype))


def _weights(query, key, sizes):
    """Return the weights of all pairs of a tile in float32; zero unless both are of one sequence."""
    logits = _product(query, key, 1, 1) * sizes.head_dim**-0.5
    row, column = (jax.lax.broadcasted_iota(jnp.int32, logits.shape, axis) for axis in (0, 1))
    allowed = (row // sizes.slots == column // sizes.slots) & (column % sizes.slots < sizes.tokens)
    logits = jnp.where(allowed, logits, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return weights / jnp.sum(weights, axis=1, keepdims=True)


def _product(left, right, left_axis, right_axis):
    """Return the product over an axis of each, summed in float32."""
    dimensions = (((left_axis,), (right_axis,)), ((), ()))
    return jax.lax.dot_general(left, right, dimensions, preferred_element_type=jnp.float32)
