"""Position embeddings: learned, fixed and relative ones, and resampling to another grid."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

METHODS = {  # how `resample` works, for reports
    "bicubic": "bicubic interpolation with antialiasing",
    "bicubic_plain": "bicubic interpolation without antialiasing",
    "bicubic_dino": "bicubic interpolation without antialiasing, at DINO's scale of (new + 0.1) / old",
    "zoom": "linear interpolation between fixed corners",
    "nearest": "taking the nearest",
}
CLASS_POSITION = ("cls_pos", ())  # the learned position of a class token, as `token_positions` takes it


def sincos2d(
    grid: tuple[int, int], hidden_dim: int, temperature: float = 10_000.0
) -> Float[Array, "grid_height grid_width hidden_dim"]:
    """Return fixed sine-cosine positions (MoCo v3, arXiv:2104.02057).

    The position of the patch in row y and column x is

        concat(sin(x w), cos(x w), sin(y w), cos(y w)),   w_i = temperature^(-i / (n - 1)),   i = 0, ..., n - 1

    with n = hidden_dim / 4. The channels have this order in google-research/big_vision, whose "Better plain ViT
    baselines" (arXiv:2205.01580) use these positions.

    Raises:
      ValueError: `hidden_dim` is not divisible by 4.
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
    prefix: Sequence[tuple[str | None, tuple[int, ...]]],
    param_dtype: Any = jnp.float32,
) -> Float[Array, "tokens hidden_dim"]:
    """Return position embeddings to add to the tokens of a grid (ViT, appendix D.4).

    The tokens are in raster order. The kinds are:

    - `learned` (the paper's "1-dimensional"): the parameter `pos_embed`, `(grid_height, grid_width, hidden_dim)`.
    - `learned2d` ("2-dimensional"): concat(pos_embed_x[x], pos_embed_y[y]) for the patch in row y and column x. The
      parameters are `pos_embed_x`, `(grid_width, hidden_dim / 2)`, and `pos_embed_y`, `(grid_height, hidden_dim / 2)`.
    - `sincos2d`: fixed, see `sincos2d`.

    The tokens before the patches, such as the class token, come first. They have no place on the grid: with learned
    positions each learns one of its own (`cls_pos`, `(hidden_dim,)`, for the class token) or has none (DeiT III,
    arXiv:2204.07118); with fixed positions theirs are zero. For two dimensions the paper leaves this open.

    Args:
      param: Method `param` of the module that owns the parameters. They start as N(0, 0.02).
      kind: `learned`, `learned2d` or `sincos2d`.
      grid: Number of patches in a column and in a row.
      prefix: The tokens before the patches: for each kind, the name of the parameter that holds the learned positions
        (None for positions of zero) and the axes of that parameter before the last, as in `CLASS_POSITION`.

    Raises:
      ValueError: `hidden_dim` is odd (`learned2d`) or not divisible by 4 (`sincos2d`).
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
    first = [
        jnp.zeros((*axes, hidden_dim)) if name is None or kind == "sincos2d" else learn(name, (*axes, hidden_dim))
        for name, axes in prefix
    ]
    return jnp.concatenate([*(x.reshape(-1, hidden_dim) for x in first), positions])


def relative_positions(
    param: Callable[..., Array], num_tokens: int, head_dim: int, param_dtype: Any = jnp.float32
) -> Float[Array, "queries keys head_dim"]:
    """Return an embedding of the offset of every query from every key (ViT, appendix D.4).

    Entry (q, k) is relative_embed[q - k + num_tokens - 1]. The parameter `relative_embed`,
    `(2 * num_tokens - 1, head_dim)`, belongs to the module whose method `param` is given, and starts as N(0, 0.02).
    Offsets are counted in raster order ("1-dimensional Relative Attention"), a class token coming first. The same
    offset is therefore another direction on a grid of another width, and the table cannot be resampled.
    """
    table = _learn(param, "relative_embed", (2 * num_tokens - 1, head_dim), param_dtype)
    place = np.arange(num_tokens)
    return table[place[:, None] - place + num_tokens - 1]


def _learn(param, name, shape, param_dtype):
    return param(name, nn.initializers.normal(0.02), shape, param_dtype)


def resample(
    positions: Float[Array, "*old_grid hidden_dim"], grid: tuple[int, ...], method: str = "bicubic"
) -> Float[Array, "*new_grid hidden_dim"]:
    """Resample learned positions to another grid of the same rank.

    The rank is two for patches, and one for rows, columns or frames. Codebases differ in the method, and their
    published numbers were measured with their own:

    - `bicubic`: Keys's kernel with a = -0.5 and antialiasing (timm: torch's `interpolate` with `antialias=True`;
      Pillow).
    - `bicubic_plain`: a = -0.75 without antialiasing (Hugging Face ViT, DeiT, MAE: torch's `interpolate`).
    - `bicubic_dino`: the same at the scale (new + 0.1) / old instead of new / old (DINO, iBOT, DINOv2 without
      registers). Their code passes it as `scale_factor`, so that rounding cannot lose a row; it shifts every position.
    - `zoom`: linear, with the corners kept in place (google-research, big_vision: `scipy.ndimage.zoom` of order 1).
      Deviation: at some sizes (8 to 26) rounding makes SciPy write zeros into the last row and column, and we do not.
    - `nearest`: value i of n is the old value floor(i * old / n) (TimeSformer: torch's `interpolate`).

    Raises:
      ValueError: The method is unknown, or the grid has another rank.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r} to resample positions. Use one of {', '.join(METHODS)}.")
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


# Each function returns the matrix (new, old) whose product with the old values along one axis gives the new ones.


def _nearest(old: int, new: int) -> np.ndarray:
    places = np.arange(new, dtype=np.float32) * np.float32(old / new)  # rounded like torch: 2 to 82 differ otherwise
    return np.eye(old)[places.astype(int).clip(max=old - 1)]


def _zoom(old: int, new: int) -> np.ndarray:
    places = np.arange(new) * (old - 1) / max(new - 1, 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(old)))


def _bicubic_plain(old: int, new: int, extra: float = 0.0) -> np.ndarray:
    places = (np.arange(new) + 0.5) * old / (new + extra) - 0.5
    weights = np.zeros((new, old))
    for tap in range(-1, 3):  # two values on each side, the border being repeated
        taken = np.floor(places).astype(int) + tap
        distance = np.abs(places - taken)
        near = (1.25 * distance - 2.25) * distance**2 + 1  # Keys's kernel with a = -0.75
        far = -0.75 * (((distance - 5) * distance + 8) * distance - 4)
        np.add.at(weights, (np.arange(new), taken.clip(0, old - 1)), np.where(distance <= 1, near, far))
    return weights


_WEIGHTS = {
    "bicubic_plain": _bicubic_plain,
    "bicubic_dino": functools.partial(_bicubic_plain, extra=0.1),
    "zoom": _zoom,
    "nearest": _nearest,
}
