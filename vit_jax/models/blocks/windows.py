"""Attention of every patch of a video to a window of rows and columns around it, in all frames."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vit_jax.models.kernels import dot_product_attention


def window_starts(side: int) -> tuple[int, np.ndarray]:
    """Return the length of a window along a side, and for each place the first place of its window.

    The window has half of the side, rounded up. If it cannot be centred, it extends one further down, in the sense of
    smaller places; at the borders it is shifted inwards.
    """
    window = math.ceil(side / 2)
    return window, np.clip(np.arange(side) - window // 2, 0, side - window)


def window_attention(
    query: Float[Array, "*batch tokens heads qk_head_dim"],
    key: Float[Array, "*batch tokens heads qk_head_dim"],
    value: Float[Array, "*batch tokens heads v_head_dim"],
    *,
    grid: tuple[int, int, int],
    kernel: str = "auto",
) -> Float[Array, "*batch tokens heads v_head_dim"]:
    """Return attention of each patch to its window, see `window_starts`, computing the pairs within it only.

    Equal to `dot_product_attention` with `attention_mask(grid, "local", ...)`, at a fourth of its products for even
    sides. The patches of one place attend together, in all frames. A loop over the rows copies the windows of one row
    of places at a time, and the backward pass copies them again, so that memory is linear in the number of frames
    except for what `kernel` needs.

    Args:
      grid: Frames, rows and columns of patches. If there is one more token, it is a class token at the start, which
        attends to everything and to which everything attends.
      kernel: See `dot_product_attention`.
    """
    _, rows, columns = grid
    extra = query.shape[-3] - math.prod(grid)
    attention = functools.partial(dot_product_attention, kernel=kernel)
    height, first_rows = window_starts(rows)
    width, first_columns = window_starts(columns)

    def on_grid(x):
        return x[..., extra:, :, :].reshape(*x.shape[:-3], *grid, *x.shape[-2:])

    def place_first(x):  # (*batch, frames, ..., columns, heads, d) -> columns before frames
        return jnp.moveaxis(x, -3, query.ndim - 3)

    def windows(x, cls):  # (*batch, frames, height, columns, heads, d) -> (*batch, columns, keys, heads, d)
        cut = [jax.lax.slice_in_dim(x, first, first + width, axis=x.ndim - 3) for first in first_columns]
        cut = [part.reshape(*part.shape[: query.ndim - 3], -1, *part.shape[-2:]) for part in cut]
        return jnp.stack([jnp.concatenate([cls, part], axis=-3) for part in cut], axis=-4)

    @jax.checkpoint
    def row(query, first, keys, values, cls):
        near = (jax.lax.dynamic_slice_in_dim(x, first, height, axis=x.ndim - 4) for x in (keys, values))
        return attention(place_first(query), *(windows(x, token) for x, token in zip(near, cls, strict=True)))

    cls = tuple(x[..., :extra, :, :] for x in (key, value))
    keys, values = on_grid(key), on_grid(value)
    by_row = jnp.moveaxis(on_grid(query), -4, 0)  # (rows, *batch, frames, columns, heads, d)
    out = jax.lax.map(lambda x: row(*x, keys, values, cls), (by_row, jnp.asarray(first_rows)))
    out = jnp.moveaxis(out, (-3, 0, -4), (-5, -4, -3))  # (*batch, frames, rows, columns, heads, d)
    out = out.reshape(*query.shape[:-3], -1, *out.shape[-2:])
    if not extra:
        return out
    return jnp.concatenate([attention(query[..., :extra, :, :], key, value), out], axis=-3)
