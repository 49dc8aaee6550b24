"""Pictures, as PNG files: the curves of a run, images and clips with their predictions, and heat maps."""

import io
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

GREEN, RED, GREY = "#2a7d3c", "#b3302c", "#555555"
TITLES = {"top1": "top-1 accuracy", "bleu": "BLEU"}


def plot_curves(rows: Sequence[dict[str, Any]], path: Any, metric: str = "top1", headline: str = "") -> epath.Path:
    """Draws the loss and `metric` against the step, from the rows of a `metrics.jsonl`.

    For training rows that have `nll`, the loss without label smoothing, this is drawn as the loss, because evaluation
    does not smooth labels either.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for axis, name, title in zip(axes, ("loss", metric), ("loss", TITLES.get(metric, metric)), strict=True):
        for split, style in (("train", {"color": GREY, "lw": 1}), ("eval", {"color": GREEN, "lw": 2, "marker": "."})):
            points = [(row["step"], _value(row, name)) for row in rows if row["split"] == split and name in row]
            if points:
                axis.plot(*zip(*points, strict=True), label=split, **style)
        axis.set(xlabel="step", title=title)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    figure.suptitle(headline, fontsize=10)
    return _save(figure, epath.Path(path))


def _value(row: dict[str, Any], name: str) -> float:
    return row.get("nll", row[name]) if name == "loss" else row[name]


def contact_sheet(
    path: Any, images: Sequence[Image.Image], titles: Sequence[str], colours: Sequence[str], heading: str = ""
) -> epath.Path:
    """Draws images on a grid. Each has a title above it, in the given colour."""
    plt = _pyplot()
    wide = images[0].width > 2.5 * images[0].height  # film strips
    columns, width = (min(len(images), 3), 4.2) if wide else (min(len(images), 8), 1.7)
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(width * columns, (1.5 if wide else 2.0) * rows + 0.4),
        squeeze=False,
        constrained_layout=True,
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title, colour in zip(axes.flat, images, titles, colours, strict=False):
        grey = image.mode in ("1", "L", "I", "I;16", "F")
        axis.imshow(np.asarray(image if grey else image.convert("RGB")), cmap="gray" if grey else None)
        axis.set_title(title, fontsize=8, color=colour)
    figure.suptitle(heading, fontsize=10)
    return _save(figure, epath.Path(path))


def heat_maps(
    path: Any, panels: Sequence[tuple[str, np.ndarray, Sequence[str], Sequence[str]]], heading: str = ""
) -> epath.Path:
    """Draws matrices of non-negative values side by side, each given as (title, values, row names, column names)."""
    plt = _pyplot()
    longest = max(len(names) for _, _, *both in panels for names in both)
    side = max(3.5, 0.28 * longest + 1.2)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(side * len(panels), side + 2), squeeze=False, constrained_layout=True
    )
    for axis, (title, values, rows, columns) in zip(axes.flat, panels, strict=True):
        axis.imshow(values, cmap="Greens", vmin=0, vmax=max(float(values.max()), 1e-9))
        axis.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8)
        axis.set_yticks(range(len(rows)), rows, fontsize=8)
        axis.set_title(textwrap.fill(title, int(8 * side)), fontsize=9)  # wrapped, so that titles do not overlap
    figure.suptitle(heading, fontsize=10)
    return _save(figure, epath.Path(path))


def film_strip(frames: Sequence[Image.Image]) -> Image.Image:
    """Returns images of equal size side by side, separated by a white line."""
    width, height = frames[0].size
    gap = max(width // 16, 1)
    strip = Image.new("RGB", (len(frames) * (width + gap) - gap, height), "white")
    for i, frame in enumerate(frames):
        strip.paste(frame, (i * (width + gap), 0))
    return strip


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")  # works without a display
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: epath.Path) -> epath.Path:
    content = io.BytesIO()  # Matplotlib writes to local files only, but a workdir may be in an object store
    figure.savefig(content, dpi=120, format="png")
    _pyplot().close(figure)
    path.write_bytes(content.getvalue())
    return path
