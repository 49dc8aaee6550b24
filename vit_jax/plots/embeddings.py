"""Figures of embeddings: maps of a data set, similarities of layers, and nearest neighbours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vit_jax.errors import UserError
from vit_jax.plots.figure import COLOURS, COLUMN, PAGE, SEQUENTIAL, drawable, figure

_MARKERS = "osD^v<>P"
MOST_CLASSES = len(COLOURS) * len(_MARKERS)


def plot_map(
    path: Any, panels: Mapping[str, np.ndarray], labels: np.ndarray | None = None, classes: Sequence[str] = ()
) -> None:
    """Draws examples as points, coloured by class; classes beyond the seventh also have another marker.

    One or two panels have the width of a column, more of them that of a page.

    Args:
      panels: Coordinates `(examples, 2)` by title, see `analysis.embeddings.project`.
      labels: The class of each example; without, all points have one colour.
      classes: Names of the classes, for the legend.

    Raises:
      UserError: There are more than `MOST_CLASSES` classes.
    """
    groups = [None] if labels is None else np.unique(labels).tolist()
    if len(groups) > MOST_CLASSES:
        raise UserError(f"a map tells {MOST_CLASSES} classes apart, but there are {len(groups)}; leave the labels out")
    columns = 1 if labels is None else min(3 if len(panels) <= 2 else 6, len(groups))
    legend = 0 if labels is None else 0.15 * -(-len(groups) // columns) + 0.1
    width, lines = COLUMN if len(panels) <= 2 else PAGE, 1 + max(title.count("\n") for title in panels)
    with figure(path, width, width / len(panels) + 0.1 + 0.18 * lines + legend) as drawing:
        axes = drawing.subplots(1, len(panels), squeeze=False)[0]
        for axis, (title, points) in zip(axes, panels.items(), strict=True):
            for i, group in enumerate(groups):
                own = slice(None) if labels is None else labels == group
                name = "" if group is None else classes[group] if group < len(classes) else str(group)
                style = {"color": COLOURS[i % len(COLOURS)], "marker": _MARKERS[i // len(COLOURS)]}
                axis.scatter(*points[own].T, s=3, lw=0, alpha=0.7, label=drawable(name), **style, rasterized=True)
            axis.set_title(drawable(title))
            axis.set(xticks=[], yticks=[])
            axis.set_box_aspect(1)
        if labels is not None:
            handles = axes[0].get_legend_handles_labels()
            drawing.legend(*handles, loc="outside lower center", ncols=columns, frameon=False, markerscale=2.2)


def plot_cka(path: Any, values: np.ndarray, rows: str, columns: str) -> None:
    """Draws the similarity of layers as a matrix, the first layer at the bottom left.

    Args:
      values: `(layers, layers)`, see `analysis.embeddings.cka_matrix`.
      rows, columns: What the axes are called.
    """
    with figure(path, COLUMN, 2.7) as drawing:
        axis = drawing.subplots()
        drawn = axis.imshow(values, cmap=SEQUENTIAL, vmin=0, vmax=1, origin="lower")
        axis.set(xlabel=drawable(columns), ylabel=drawable(rows))
        for side in (axis.xaxis, axis.yaxis):
            side.get_major_locator().set_params(integer=True)
        if values.size <= 64:
            for (row, column), value in np.ndenumerate(values):
                colour = "white" if value < 0.5 else "black"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=6)
        drawing.colorbar(drawn, ax=axis, label="linear CKA", shrink=0.9, aspect=20)


def plot_nearest(path: Any, pictures: np.ndarray, titles: Sequence[Sequence[str]]) -> None:
    """Draws each query and its nearest neighbours in a row; of clips, the first, middle and last frame.

    Args:
      pictures: `(queries, 1 + neighbours, *frames, height, width, channels)`, from 0 to 1; the query comes first.
      titles: A line above each.
    """
    if pictures.ndim == 6:
        chosen = pictures[:, :, np.unique([0, pictures.shape[2] // 2, pictures.shape[2] - 1])]
        pictures = np.concatenate(np.moveaxis(chosen, 2, 0), axis=3)
    rows, columns = pictures.shape[:2]
    width = COLUMN if columns * pictures.shape[3] / pictures.shape[2] <= 8 else PAGE
    cell = width / columns
    with figure(path, width, rows * (cell * pictures.shape[2] / pictures.shape[3] + 0.16) + 0.05) as drawing:
        drawing.get_layout_engine().set(w_pad=0.015, h_pad=0.01, wspace=0.01, hspace=0.01)
        axes = drawing.subplots(rows, columns, squeeze=False)
        for axis, picture, title in zip(
            axes.flat, pictures.reshape(-1, *pictures.shape[2:]), [t for row in titles for t in row], strict=True
        ):
            axis.imshow(picture if picture.shape[-1] == 3 else picture[..., 0], cmap="gray", vmin=0, vmax=1)
            axis.set_title(drawable(title), fontsize=5.5, pad=2)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_linewidth(0.3)
        for axis in axes[:, 0]:
            axis.spines[:].set(linewidth=1.5, edgecolor=COLOURS[1])
