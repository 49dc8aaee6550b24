"""Figures of position embeddings and of patch filters (ViT, Figure 7)."""

import math
from typing import Any

import numpy as np

from vit_jax.plots.figure import COLUMN, DIVERGING, SEQUENTIAL, figure

MOST_MAPS = 14  # in a row or column; of larger grids, every second, third, ... position is drawn


def plot_grid(path: Any, values: np.ndarray) -> None:
    """Draws a map of similarities for each position, at its place on the grid.

    Args:
      values: `(rows, columns, rows, columns)`, see `analysis.positions.similarity`.
    """
    rows, columns = (np.arange(0, size, -(-size // MOST_MAPS)) for size in values.shape[:2])
    ratio = len(rows) * values.shape[2] / (len(columns) * values.shape[3])
    height = max((COLUMN - 0.85) * ratio + 0.35, 1.3)
    with figure(path, COLUMN, height) as drawing:
        drawing.get_layout_engine().set(w_pad=0.005, h_pad=0.005, wspace=0.02, hspace=0.02)
        axes = drawing.subplots(len(rows), len(columns), squeeze=False)
        for axis, (row, column) in zip(axes.flat, [(r, c) for r in rows for c in columns], strict=True):
            drawn = axis.imshow(
                values[row, column], cmap=SEQUENTIAL, vmin=_lowest(values), vmax=1, interpolation="nearest"
            )
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        for axis, row in zip(axes[:, 0], rows, strict=True):
            axis.set_ylabel(str(row + 1), rotation=0, ha="right", va="center", labelpad=2, fontsize=6)
        for axis, column in zip(axes[-1], columns, strict=True):
            axis.set_xlabel(str(column + 1), labelpad=2, fontsize=6)
        drawing.supxlabel("column of the patch", fontsize=7)
        drawing.supylabel("row of the patch", fontsize=7)
        drawing.colorbar(drawn, ax=list(axes.flat), label="cosine similarity", shrink=0.8, aspect=25, pad=0.02)


def plot_sequence(path: Any, values: np.ndarray, unit: str) -> None:
    """Draws the similarity of every frame or token with every other as a matrix.

    Args:
      values: `(positions, positions)`.
      unit: What the positions are: frame or token.
    """
    with figure(path, COLUMN, 2.6) as drawing:
        axis = drawing.subplots()
        ends = (0.5, len(values) + 0.5)
        drawn = axis.imshow(values, cmap=SEQUENTIAL, vmin=_lowest(values), vmax=1, extent=(*ends, *ends[::-1]))
        axis.set(xlabel=unit, ylabel=unit)
        for side in (axis.xaxis, axis.yaxis):
            side.get_major_locator().set_params(integer=True)
        drawing.colorbar(drawn, ax=axis, label="cosine similarity", shrink=0.9, aspect=20)


def _lowest(similarities: np.ndarray) -> float:
    """Returns where the colour scale of similarities starts: their minimum, rounded down to a quarter."""
    return max(math.floor(4 * float(similarities.min()) + 1e-6) / 4, -1.0) if similarities.min() < 0.99 else -1.0


def plot_filters(path: Any, filters: np.ndarray, shares: np.ndarray) -> None:
    """Draws filters on a grid. RGB filters are scaled from 0 to 1, each by itself; others have a colour scale around 0.

    Args:
      filters: `(filters, height, width, channels)`; of other than 3 channels, the mean over them is drawn.
      shares: Share of the variance of each, which is written below it.
    """
    columns = min(7, len(filters))
    rows = math.ceil(len(filters) / columns)
    with figure(path, COLUMN, rows * (COLUMN / columns + 0.1) + 0.05) as drawing:
        drawing.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
        for axis, values, share in zip(
            drawing.subplots(rows, columns, squeeze=False).flat, filters, shares, strict=False
        ):
            most = np.abs(values).max()
            if values.shape[-1] == 3:
                axis.imshow(0.5 + 0.5 * values / most, interpolation="nearest")
            else:
                axis.imshow(values.mean(axis=-1), cmap=DIVERGING, vmin=-most, vmax=most, interpolation="nearest")
            axis.set_xlabel(f"{share:.1%}", fontsize=5.5, labelpad=1.5)
        for i, axis in enumerate(drawing.axes):
            axis.set(xticks=[], yticks=[], visible=i < len(filters))
            axis.spines[:].set_linewidth(0.3)
