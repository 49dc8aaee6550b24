"""Checksums of a checkpoint: of its arrays, however they are sharded, and of its JSON part.

Orbax stores the arrays of a checkpoint without checksums, so that a changed bit would go unnoticed.
"""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def of_parts(state: PyTree) -> dict[str, int]:
    """Returns a checksum for each field of a state that has arrays, so that they can be checked one by one."""
    fields = state if isinstance(state, dict) else vars(state)
    return {name: of_arrays(part) for name, part in fields.items() if part is not None}


def of_arrays(tree: PyTree) -> int:
    """Returns a checksum of a tree of arrays: their paths, shapes and bits.

        sum over arrays and elements of (2 * hash of the path + 1) * (2 * position + 1) * bits, modulo 2^32

    Both factors are odd, so every change of a single bit changes the sum. Addition modulo 2^32 does not depend on the
    order, so neither the sharding nor the number of devices matters. In a job of several processes, all must call this.
    """
    total = 0
    sums = [(jax.tree_util.keystr(path), leaf, _sum(leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    for path, leaf, value in sums:
        name = zlib.crc32(f"{path} {leaf.shape} {leaf.dtype}".encode())
        total += (2 * name + 1) * int(np.asarray(value.addressable_data(0))) + name
    return total % 2**32


@jax.jit
def _sum(x: jax.Array) -> jax.Array:
    bits = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
    width = {1: jnp.uint8, 2: jnp.uint16}.get(bits.dtype.itemsize, jnp.uint32)
    bits = jax.lax.bitcast_convert_type(bits, width).astype(jnp.uint32)  # eight bytes become two elements
    position, stride = jnp.zeros(bits.shape, jnp.uint32), 1
    for dim in reversed(range(bits.ndim)):
        position += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, dim) * np.uint32(stride % 2**32)
        stride *= bits.shape[dim]
    return jnp.sum((2 * position + 1) * bits, dtype=jnp.uint32)


def of_json(value: Any) -> int:
    """Returns a checksum of a JSON value. The order of keys and the white space do not matter."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())
