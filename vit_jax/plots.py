"""Pictures: loss curves, and images with what was predicted for them."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.metrics import read_metrics

Path = pathlib.Path
GREEN, RED, GREY = "#2a7d3c", "#b3302c", "#555555"


def plot_curves(workdir: Any) -> Path:
    """Draws loss and accuracy against the step, from `metrics.jsonl`, into `WORKDIR/curves.png`."""
    plt = _pyplot()
    rows = read_metrics(workdir)
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for axis, name, title in zip(axes, ("loss", "top1"), ("loss", "top-1 accuracy"), strict=True):
        for split, style in (("train", {"color": GREY, "lw": 1}), ("eval", {"color": GREEN, "lw": 2, "marker": "."})):
            points = [(row["step"], row[name]) for row in rows if row["split"] == split and name in row]
            if points:
                axis.plot(*zip(*points, strict=True), label=split, **style)
        axis.set(xlabel="step", title=title)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    last = next((row for row in reversed(rows) if row["split"] == "eval"), None)
    if last:
        axes[1].set_title(f"top-1 accuracy, {last['top1']:.2%} of {last['examples']} at the end")
    return _save(figure, pathlib.Path(workdir) / "curves.png")


def contact_sheet(
    path: Any, images: Sequence[Image.Image], titles: Sequence[str], colours: Sequence[str], heading: str = ""
) -> Path:
    """Writes images on a grid, a title in a colour above each."""
    plt = _pyplot()
    columns = min(len(images), 8)
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.7 * columns, 2.0 * rows + 0.4), squeeze=False, constrained_layout=True
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, title, colour in zip(axes.flat, images, titles, colours, strict=False):
        grey = image.mode in ("1", "L", "I", "I;16", "F")
        axis.imshow(np.asarray(image if grey else image.convert("RGB")), cmap="gray" if grey else None)
        axis.set_title(title, fontsize=8, color=colour)
    figure.suptitle(heading, fontsize=10)
    return _save(figure, pathlib.Path(path))


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")  # no screen is needed, nor asked for
    from matplotlib import pyplot

    return pyplot


def _save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    _pyplot().close(figure)
    return path
