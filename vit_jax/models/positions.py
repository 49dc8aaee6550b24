"""Positions on a grid: fixed tables, and resampling learned ones to another grid."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


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


def resample(
    positions: Float[Array, "grid_height grid_width hidden_dim"],
    grid: tuple[int, int],
    method: str = "bicubic",
) -> Float[Array, "new_height new_width hidden_dim"]:
    """Resamples learned positions to another grid: antialiased bicubic, as timm does, unless said otherwise."""
    if positions.shape[:2] == tuple(grid):
        return positions
    return jax.image.resize(positions, (*grid, positions.shape[-1]), method)
