"""Positions of tokens on a grid: learned and fixed tables, offsets between tokens, resampling to another grid."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

METHODS = ("bicubic", "bicubic_plain", "zoom", "nearest")


def sincos2d(
    grid: tuple[int, int], hidden_dim: int, temperature: float = 10_000.0
) -> Float[Array, "grid_height grid_width hidden_dim"]:
    """Sine-cosine positions on a grid (MoCo v3, arXiv:2104.02057; "Better plain ViT baselines").

    A quarter of the channels each: sin(x), cos(x), sin(y), cos(y), as in google-research/big_vision.

    Raises:
      ValueError: 4 does not divide `hidden_dim`.
    """
    if hidden_dim % 4:
        raise ValueError(f"pos_embed='sincos2d' needs hidden_dim divisible by 4, not {hidden_dim}")
    quarter = hidden_dim // 4
    frequencies = temperature ** (-jnp.arange(quarter) / max(quarter - 1, 1))
    y, x = jnp.meshgrid(jnp.arange(grid[0]), jnp.arange(grid[1]), indexing="ij")
    x, y = (axis[..., None] * frequencies for axis in (x, y))
    return jnp.concatenate([jnp.sin(x), jnp.cos(x), jnp.sin(y), jnp.cos(y)], axis=-1)


def token_positions(
    param: Callable[..., Array],
    kind: str,
    grid: tuple[int, int],
    hidden_dim: int,
    has_class_token: bool,
    param_dtype: Any = jnp.float32,
) -> Float[Array, "tokens hidden_dim"]:
    """Positions to add to the tokens of a grid in raster order, after the class token's if there is one.

    ViT, appendix D.4. Learned values start as N(0, 0.02), and are parameters of the module whose `param` is given:

    - `learned`, "1-dimensional": one for each place in the sequence, `pos_embed (grid_height, grid_width, hidden_dim)`;
    - `learned2d`, "2-dimensional": one of half the width for each column and one for each row, concatenated in this
      order, `pos_embed_x (grid_width, hidden_dim / 2)` and `pos_embed_y (grid_height, hidden_dim / 2)`;
    - `sincos2d`: fixed.

    The class token has no place on the grid: beside learned positions it learns one of its own, `cls_pos`, beside
    fixed ones it has none. The paper leaves this open for two dimensions.

    Raises:
      ValueError: `hidden_dim` is odd, in two dimensions, or no multiple of 4, in `sincos2d`.
    """
    learn = functools.partial(_learn, param, param_dtype=param_dtype)
    if kind == "learned":
        positions = learn("pos_embed", (*grid, hidden_dim))
    elif kind == "learned2d":
        if hidden_dim % 2:
            raise ValueError(f"pos_embed='learned2d' needs an even hidden_dim, not {hidden_dim}")
        x = learn("pos_embed_x", (grid[1], hidden_dim // 2))
        y = learn("pos_embed_y", (grid[0], hidden_dim // 2))
        x, y = (jnp.broadcast_to(axis, (*grid, hidden_dim // 2)) for axis in (x, y[:, None]))
        positions = jnp.concatenate([x, y], axis=-1)
    else:
        positions = sincos2d(grid, hidden_dim)
    positions = positions.reshape(-1, hidden_dim)
    if not has_class_token:
        return positions
    first = jnp.zeros(hidden_dim) if kind == "sincos2d" else learn("cls_pos", (hidden_dim,))
    return jnp.concatenate([first[None], positions])


def relative_positions(
    param: Callable[..., Array], num_tokens: int, head_dim: int, param_dtype: Any = jnp.float32
) -> Float[Array, "queries keys head_dim"]:
    """An embedding of every offset, query minus key, in a sequence of tokens (ViT, appendix D.4, "relative").

    Learned as `relative_embed (2 * num_tokens - 1, head_dim)`, from offset `1 - num_tokens` up. Offsets are those of
    the raster order ("1-dimensional Relative Attention"), a class token being the sequence's first; so the table
    means something else on a grid of another width, and cannot be resampled.
    """
    table = _learn(param, "relative_embed", (2 * num_tokens - 1, head_dim), param_dtype)
    place = np.arange(num_tokens)
    return table[place[:, None] - place + num_tokens - 1]


def _learn(param, name, shape, param_dtype):
    return param(name, nn.initializers.normal(0.02), shape, param_dtype)


def resample(
    positions: Float[Array, "*old_grid hidden_dim"], grid: tuple[int, ...], method: str = "bicubic"
) -> Float[Array, "*new_grid hidden_dim"]:
    """Resamples learned positions to another grid of the same rank: images (2), or rows, columns and frames (1).

    Each codebase has its own way, and its published numbers were measured with it:

    - `bicubic`: antialiased, a = -0.5 (timm: torch's `interpolate` with `antialias=True`; Pillow);
    - `bicubic_plain`: no antialias, a = -0.75 (Hugging Face ViT, DINO, DeiT: torch's without antialias);
    - `zoom`: linear, the corners staying in place (google-research and big_vision: `scipy.ndimage.zoom` of order 1).
      Deviation: for some sizes (8 to 26) rounding makes SciPy write zeros in the last row and column; not so here;
    - `nearest`: value i of n is value `floor(i * old / n)` of the old ones (TimeSformer: torch's).

    Raises:
      ValueError: The method is unknown, or the grid of another rank.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r} to resample positions: one of {', '.join(METHODS)}")
    if len(grid) != positions.ndim - 1:
        raise ValueError(f"positions on a grid {positions.shape[:-1]} cannot be resampled to {tuple(grid)}")
    if positions.shape[:-1] == tuple(grid):
        return positions
    if method == "bicubic":
        return jax.image.resize(positions, (*grid, positions.shape[-1]), method)
    for axis, size in enumerate(grid):
        weights = _WEIGHTS[method](positions.shape[axis], size).astype(positions.dtype)
        resampled = jnp.tensordot(weights, positions, (1, axis), precision=jax.lax.Precision.HIGHEST)
        positions = jnp.moveaxis(resampled, 0, axis)
    return positions


# matrices (new, old): what each new value takes from the old ones along one axis


def _nearest(old: int, new: int) -> np.ndarray:
    places = np.arange(new, dtype=np.float32) * np.float32(old / new)  # as torch rounds: 82 from 2 differ otherwise
    return np.eye(old)[places.astype(int).clip(max=old - 1)]


def _zoom(old: int, new: int) -> np.ndarray:
    places = np.arange(new) * (old - 1) / max(new - 1, 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(old)))


def _bicubic_plain(old: int, new: int) -> np.ndarray:
    places = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.zeros((new, old))
    for tap in range(-1, 3):  # two values each side; those beyond the border repeat it
        taken = np.floor(places).astype(int) + tap
        distance = np.abs(places - taken)
        near = (1.25 * distance - 2.25) * distance**2 + 1  # Keys's kernel with a = -0.75
        far = -0.75 * (((distance - 5) * distance + 8) * distance - 4)
        np.add.at(weights, (np.arange(new), taken.clip(0, old - 1)), np.where(distance <= 1, near, far))
    return weights


_WEIGHTS = {"bicubic_plain": _bicubic_plain, "zoom": _zoom, "nearest": _nearest}
