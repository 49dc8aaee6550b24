"""Plasma: random height maps, for fog."""

from typing import Any

import numpy as np


def plasma(side: int, decay: float, rng: Any) -> np.ndarray:
    """Returns a random height map from 0 to 1 by the diamond-square algorithm, `(side, side)`, on a torus."""
    heights, step, wibble = np.zeros((side, side)), side, 100.0

    def mean_of(total: np.ndarray) -> np.ndarray:
        return total / 4 + wibble * rng.uniform(-wibble, wibble, total.shape)

    while step >= 2:
        half = step // 2
        corners = heights[::step, ::step]
        total = corners + np.roll(corners, -1, axis=0)
        heights[half::step, half::step] = mean_of(total + np.roll(total, -1, axis=1))
        centres = heights[half::step, half::step]
        above = centres + np.roll(centres, 1, axis=0) + corners + np.roll(corners, -1, axis=1)
        heights[::step, half::step] = mean_of(above)
        beside = centres + np.roll(centres, 1, axis=1) + corners + np.roll(corners, -1, axis=0)
        heights[half::step, ::step] = mean_of(beside)
        step, wibble = half, wibble / decay
    heights -= heights.min()
    return heights / heights.max()
