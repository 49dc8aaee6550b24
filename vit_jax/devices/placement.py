"""How activations are divided over the devices, under a strategy that shards them and the parameters.

Models call these functions where the compiler needs to be told. They do nothing unless the strategy traces the model
`on_mesh`.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

_mesh: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("mesh", default=None)
_mapped: contextvars.ContextVar[bool] = contextvars.ContextVar("mapped", default=False)


@contextlib.contextmanager
def mapped() -> Iterator[None]:
    """Say that what is traced meanwhile is the program of one device, as under `jax.pmap`."""
    token = _mapped.set(True)
    try:
        yield
    finally:
        _mapped.reset(token)


def is_whole() -> bool:
    """Return whether what is traced is the program of one device, so that no compiler divides its arrays.

    With several devices this is known under the strategies only; elsewhere it is taken to be False.
    """
    return _mapped.get() or jax.device_count() == 1


@contextlib.contextmanager
def on_mesh(mesh: Mesh | None) -> Iterator[None]:
    """Divide what is traced meanwhile over a mesh with two axes: over examples, and over the frames of a clip.

    With None, the compiler divides it as it likes.
    """
    token = _mesh.set(mesh)
    try:
        yield
    finally:
        _mesh.reset(token)


def divided(x: Shaped[Array, "batch ..."], axis: int = 1) -> Shaped[Array, "batch ..."]:
    """Return `x` with its examples divided over the first axis of the mesh, and `axis` over the second.

    The number of devices need not divide the size of `axis`.
    """
    mesh = _mesh.get()
    if mesh is None:
        return x
    examples, parts = mesh.axis_names
    names = [examples] + [parts if axis == i else None for i in range(1, x.ndim)]
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*names)))


def flat_rows(x: Shaped[Array, "*rows columns"]) -> Shaped[Array, "..."]:
    """Return `x` as a matrix, or unchanged if clips are divided: one axis cannot be divided by examples and frames."""
    return x if divides_clips() else x.reshape(-1, x.shape[-1])


def in_parts(attention: Callable[..., Array], query: Array, key: Array, value: Array) -> Array:
    """Return `attention(query, key, value)`, computed by each device for its part of the sequences.

    The arrays are `(batch, sequences, tokens, heads, head_dim)`. The sequences are divided over the devices of a clip.
    If there is only one, its queries are divided, and each device has all keys and values. What is divided is padded
    with zeros to a multiple of the devices. The compiler need not divide the kernel, which it cannot do with all of
    them, and it sums the gradients of keys and values over the devices only once.
    """
    mesh = _mesh.get()
    if mesh is None or not divides_clips():
        return attention(query, key, value)
    examples, parts = mesh.axis_names
    axis = 1 if query.shape[1] > 1 else 2
    size, more = query.shape[axis], -query.shape[axis] % mesh.shape[parts]
    part, whole = PartitionSpec(examples, *[None] * (axis - 1), parts), PartitionSpec(examples)

    def padded(x):
        return jnp.pad(x, [(0, more if i == axis else 0) for i in range(x.ndim)])

    if axis == 1:
        key, value, whole = padded(key), padded(value), part
    attend = jax.shard_map(
        mapped()(attention), mesh=mesh, in_specs=(part, whole, whole), out_specs=part, check_vma=False
    )
    return jax.lax.slice_in_dim(attend(padded(query), key, value), 0, size, axis=axis)


def divides_clips() -> bool:
    """Return whether the mesh has more than one device for a clip."""
    mesh = _mesh.get()
    return mesh is not None and mesh.devices.shape[1] > 1
