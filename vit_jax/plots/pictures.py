"""Pictures for the screen: the curves of a run, images and clips with their predictions, and heat maps."""

import contextlib
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from vit_jax.plots.figure import drawable, open_figure, save

GREEN, RED, GREY = "#00785a", "#c04000", "#555555"  # colour-blind people can tell them apart too; legible on white
TITLES = {"top1": "top-1 accuracy", "bleu": "BLEU", "f1": "F1"}
FEW_POINTS = 30  # up to this number, every point of a curve has a marker
CELL = 0.28  # smallest side of a cell of a heat map, in inches
PIXELS_PER_INCH = 120


def plot_curves(rows: Sequence[dict[str, Any]], path: Any, metric: str = "top1", headline: str = "") -> epath.Path:
    """Draws the loss and `metric` against the step, from the rows of a `metrics.jsonl`.

    For training rows that have `nll`, the loss without label smoothing, this is drawn as the loss, because evaluation
    does not smooth labels either. A curve of a single point has its value in the legend.
    """
    styles = {"train": {"color": GREY, "lw": 1}, "eval": {"color": GREEN, "lw": 2}}
    with _picture(path, 10, 4) as figure:
        axes = figure.subplots(1, 2)
        for axis, name, title in zip(axes, ("loss", metric), ("loss", TITLES.get(metric, metric)), strict=True):
            for split, style in styles.items():
                points = [(row["step"], *_value(row, name)) for row in rows if row["split"] == split and name in row]
                if points:
                    steps, values, notes = zip(*points, strict=True)
                    label = f"{split}{notes[-1]}" + (f": {values[0]:.4g}" if len(points) == 1 else "")
                    marker = "o" if len(points) == 1 else "." if len(points) <= FEW_POINTS else None
                    axis.plot(steps, values, label=label, marker=marker, **style)
            axis.set(xlabel="step", title=title)
            axis.set_xlim(0, 1.02 * max([row["step"] for row in rows], default=1))
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.3)
            if axis.lines:
                axis.legend(frameon=False)
            else:
                axis.text(0.5, 0.5, "no values", transform=axis.transAxes, ha="center", color=GREY)
        figure.suptitle(headline, fontsize=10)
    return epath.Path(path)


def _value(row: dict[str, Any], name: str) -> tuple[float, str]:
    """Returns the value of a row to draw under `name`, and a note for the legend."""
    return (row["nll"], ", without label smoothing") if name == "loss" and "nll" in row else (row[name], "")


def contact_sheet(
    path: Any,
    images: Sequence[Image.Image],
    names: Sequence[str],
    titles: Sequence[str],
    colours: Sequence[str],
    heading: str = "",
) -> epath.Path:
    """Draws images on a grid. Above each are its name, shortened from the left, and a title in the given colour."""
    wide = images[0].width > 2.5 * images[0].height  # film strips
    columns, width, letters = (min(len(images), 3), 4.2, 60) if wide else (min(len(images), 6), 1.7, 24)
    rows = -(-len(images) // columns)
    captions = [_caption(name, title, letters) for name, title in zip(names, titles, strict=True)]
    lines = max(caption.count("\n") + 1 for caption in captions)
    tallest = min(max(image.height / image.width for image in images), 1.2)
    height = width * tallest + 0.16 * lines + 0.1
    with _picture(path, max(width * columns, 3.4), height * rows + (0.25 if heading else 0)) as figure:
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for axis, image, caption, colour in zip(axes.flat, images, captions, colours, strict=False):
            axis.imshow(np.asarray(image.convert("RGB")))  # grey levels too: a colour map would stretch them
            axis.set_anchor("N")
            axis.set_title(caption, fontsize=8, color=colour)
        if heading:
            figure.suptitle(drawable(heading), fontsize=10)
    return epath.Path(path)


def _caption(name: str, title: str, letters: int) -> str:
    """Returns the end of a name, and a title, in lines of at most `letters` letters."""
    short = name if len(name) <= letters else f"…{name[1 - letters :]}"
    wrapped = [textwrap.fill(line, letters) for line in title.split("\n")]
    return "\n".join(map(drawable, [short, *wrapped]))


def heat_maps(
    path: Any, panels: Sequence[tuple[str, np.ndarray, Sequence[str], Sequence[str]]], heading: str = ""
) -> epath.Path:
    """Draws matrices of non-negative values side by side, each given as (title, values, row names, column names).

    All cells have the same size, and all panels one colour scale, from 0 to the largest value.
    """
    most = max(max(float(values.max()) for _, values, *_ in panels), 1e-9)
    cell = min(max(CELL, 2 / min(len(columns) for *_, columns in panels)), 0.5)
    widths = [cell * len(columns) for *_, columns in panels]
    height = cell * max(len(rows) for _, _, rows, _ in panels)
    with _picture(path, sum(widths) + 1.1 * len(panels) + 0.6, height + 2.4) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
        for axis, (title, values, rows, columns), width in zip(axes, panels, widths, strict=True):
            drawn = axis.imshow(values, cmap="Greens", vmin=0, vmax=most)
            axis.set_anchor("N")
            axis.set_xticks(range(len(columns)), list(map(drawable, columns)), rotation=90, fontsize=8)
            axis.set_yticks(range(len(rows)), list(map(drawable, rows)), fontsize=8)
            axis.set_title(textwrap.fill(title, max(int(13 * width), 16)), fontsize=9)
        figure.colorbar(drawn, ax=list(axes), shrink=0.6, aspect=30, panchor=False)
        figure.suptitle(drawable(heading), fontsize=10)
    return epath.Path(path)


def film_strip(frames: Sequence[Image.Image]) -> Image.Image:
    """Returns images of equal size side by side, separated by a white line."""
    width, height = frames[0].size
    gap = max(width // 16, 1)
    strip = Image.new("RGB", (len(frames) * (width + gap) - gap, height), "white")
    for i, frame in enumerate(frames):
        strip.paste(frame, (i * (width + gap), 0))
    return strip


@contextlib.contextmanager
def _picture(path: Any, width: float, height: float) -> Iterator[Any]:
    """Yields a Matplotlib figure of this size, in inches, and then writes it to `path`."""
    with open_figure(width, height) as drawing:
        yield drawing
        save(drawing, epath.Path(path), PIXELS_PER_INCH)
