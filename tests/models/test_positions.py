"""Fixed position tables, and resampling of learned ones, against formulas and Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from vit_jax.models.positions import resample, sincos2d


@pytest.mark.parametrize(("grid", "hidden_dim"), [((3, 5), 16), ((14, 14), 192), ((1, 2), 4)])
def test_sincos2d(grid, hidden_dim):
    table = jax.jit(sincos2d, static_argnums=(0, 1))(grid, hidden_dim)
    expected = np.empty((*grid, hidden_dim))
    quarter = hidden_dim // 4
    for y in range(grid[0]):
        for x in range(grid[1]):
            for i in range(quarter):
                frequency = 10_000.0 ** -(i / max(quarter - 1, 1))
                waves = np.sin(x * frequency), np.cos(x * frequency), np.sin(y * frequency), np.cos(y * frequency)
                expected[y, x, i::quarter] = waves
    np.testing.assert_allclose(table, expected, atol=1e-5)


def test_sincos2d_needs_four_equal_parts():
    with pytest.raises(ValueError, match="divisible by 4, not 6"):
        sincos2d((2, 2), 6)


def learned(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("grid", [(24, 24), (7, 7), (20, 9), (14, 21), (1, 1)])
def test_resample_is_antialiased_bicubic(grid):
    positions = learned(14, 14, 3)
    size = (grid[1], grid[0])
    channels = [
        np.asarray(Image.fromarray(c).resize(size, Image.Resampling.BICUBIC)) for c in positions.T.swapaxes(1, 2)
    ]
    resampled = resample(jnp.asarray(positions), grid)
    np.testing.assert_allclose(resampled, np.stack(channels, axis=-1), rtol=1e-5, atol=1e-5)


def test_resample_by_another_method():
    positions = jnp.asarray(learned(2, 3, 4))
    np.testing.assert_array_equal(resample(positions, (4, 6), "nearest"), positions.repeat(2, 0).repeat(2, 1))


def test_resample_to_the_same_grid_changes_nothing():
    positions = jnp.asarray(learned(4, 6, 8))
    assert resample(positions, (4, 6)) is positions
