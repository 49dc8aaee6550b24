"""Figures of attention: over images, over the frames of clips, as a film, between tokens, and by distance."""

import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from vit_jax.plots.figure import COLOURS, COLUMN, PAGE, drawable, figure

COLOUR, OPACITY = (0.902, 0.624, 0.0), 0.9  # of the largest value of a map over a picture: the orange of `COLOURS`
MOST_FRAMES = 16  # in a figure of a clip
FRAMES_PER_ROW = 4
TOKENS_IN_COLUMN = 24
FILM_HEIGHT = 240  # pixels of a film, at least
FILMS = (".gif", ".mp4")


def plot_images(
    path: Any, pictures: Sequence[np.ndarray], maps: Sequence[np.ndarray], names: Sequence[str], *, label: str = ""
) -> None:
    """Draws images and, next to each, its attention map over it.

    Args:
      pictures: `(height, width, channels)` each, from 0 to 1.
      maps: `(grid_height, grid_width)` each. Each has its own colour scale, from 0 to its largest value.
      names: A line above each image.
      label: What the values are, above each map.
    """
    rows = len(pictures)
    ratio = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    with figure(path, COLUMN, rows * (1.4 * ratio + 0.25) + 0.05) as drawing:
        axes = drawing.subplots(rows, 2, squeeze=False)
        for (left, right), picture, values, name in zip(axes, pictures, maps, names, strict=True):
            _show(left, picture)
            _show(right, blend(picture, values, values.max()))
            left.set_title(_short(name, 22 if label else 34), loc="left")
            right.set_title(label, loc="left")
            _colour_bar(drawing, right, values.max(), shrink=0.9, aspect=14, pad=0.03)


def plot_clip(
    path: Any, frames: np.ndarray, maps: np.ndarray, name: str = "", *, label: str = "attention per patch"
) -> None:
    """Draws the frames of a clip and, below each, its attention map over it. All maps share one colour scale.

    Of more than `MOST_FRAMES` frames, this many are drawn, spread evenly.

    Args:
      frames: `(frames, height, width, channels)`, from 0 to 1.
      maps: `(frames, grid_height, grid_width)`.
      label: What the values are.
    """
    shown = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES)).round().astype(int))
    columns = min(len(shown), FRAMES_PER_ROW)
    rows = -(-len(shown) // columns)
    ratio = frames.shape[1] / frames.shape[2]
    height = rows * (2 * ratio * COLUMN / columns * 0.97 + 0.22) + 0.65
    with figure(path, COLUMN, height) as drawing:
        drawing.get_layout_engine().set(w_pad=0.01, h_pad=0.02, wspace=0, hspace=0.01)
        axes = drawing.subplots(2 * rows, columns, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for place, frame in enumerate(shown):
            above, column = 2 * (place // columns), place % columns
            _show(axes[above, column], frames[frame])
            _show(axes[above + 1, column], blend(frames[frame], maps[frame], maps.max()))
            axes[above, column].set_title(f"frame {frame}", pad=2)
        bar = _colour_bar(drawing, axes, maps.max(), location="bottom", aspect=40, shrink=0.7, pad=0.02)
        bar.set_label(label)
        if name:
            drawing.suptitle(_short(name, 60), fontsize=7)


def film(path: Any, frames: np.ndarray, maps: np.ndarray, fps: float = 4.0) -> None:
    """Writes a GIF or MP4 film of a clip, with the frames on the left and their attention maps over them on the right.

    Args:
      path: Ends in `.gif` or `.mp4`.
      frames, maps: See `plot_clip`.
      fps: Frames per second.
    """
    path, scale = epath.Path(path), -(-FILM_HEIGHT // frames.shape[1])
    pictures = []
    for frame, values in zip(frames, maps, strict=True):
        both = np.concatenate([_rgb(frame), np.ones_like(_rgb(frame)[:, :1]), blend(frame, values, maps.max())], axis=1)
        picture = Image.fromarray((255 * both).round().astype(np.uint8))
        pictures.append(picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST))
    content = io.BytesIO()
    if path.suffix.lower() == ".gif":
        pictures[0].save(content, "GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0)
    else:
        _encode(content, pictures, fps)
    path.write_bytes(content.getvalue())


def _encode(content: io.BytesIO, pictures: Sequence[Image.Image], fps: float) -> None:
    """Writes an MP4 film, encoded as H.264 where libx264 is there, and otherwise as MPEG-4."""
    from fractions import Fraction

    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    width, height = (side - side % 2 for side in pictures[0].size)  # both codecs need even sides
    with av.open(content, "w", format="mp4") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_image(picture.crop((0, 0, width, height)))))
        container.mux(stream.encode())


def plot_tokens(path: Any, panels: Sequence[tuple[str, np.ndarray, Sequence[str], Sequence[str]]]) -> None:
    """Draws matrices between tokens, one below the other, each given as (title, values, queries, keys).

    Queries are rows and keys are columns. Each panel has its own colour scale, from 0 to its largest value. The figure
    has the width of a column, or with more than `TOKENS_IN_COLUMN` tokens that of a page.
    """
    most = max(max(len(queries), len(keys)) for _, _, queries, keys in panels)
    width = COLUMN if most <= TOKENS_IN_COLUMN else PAGE
    cell = (width - 1.2) / most
    heights = [cell * len(queries) + 0.75 for _, _, queries, _ in panels]
    with figure(path, width, sum(heights)) as drawing:
        axes = drawing.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axis, (title, values, queries, keys) in zip(axes, panels, strict=True):
            drawn = axis.imshow(values, "Blues", vmin=0, vmax=max(float(values.max()), 1e-12), interpolation="nearest")
            axis.set_anchor("W")
            axis.set_xticks(range(len(keys)), list(map(drawable, keys)), rotation=90)
            axis.set_yticks(range(len(queries)), list(map(drawable, queries)))
            axis.tick_params(labelsize=max(min(6.5, 60 * cell), 3.5), width=0.4, length=1.5)
            axis.set_title(title, loc="left")
            bar = drawing.colorbar(drawn, ax=axis, shrink=0.8, aspect=14, pad=0.02)
            bar.ax.tick_params(labelsize=5.5, width=0.4, length=2)
            bar.outline.set_linewidth(0.4)


def plot_distances(path: Any, distances: dict[str, np.ndarray]) -> None:
    """Draws the mean attention distance of each head against the depth of its layer, as in Figure 7 of the ViT paper.

    Args:
      distances: `(layers, heads)` for each `KIND/UNIT`, one panel each; see `analysis.attention_distance`.
    """
    rows = len(distances)
    with figure(path, COLUMN, 1.75 * rows + 0.2) as drawing:
        axes = drawing.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
        for axis, (name, values), colour in zip(axes, distances.items(), itertools.cycle(COLOURS), strict=False):
            kind, _, unit = name.partition("/")
            layers, heads = values.shape
            axis.scatter(np.repeat(np.arange(layers), heads), values.ravel(), s=10, color=colour, alpha=0.75, lw=0)
            axis.plot(values.mean(axis=1), color=colour, lw=0.8, alpha=0.5)
            title = "" if kind == "attention" else f"{kind} attention: "
            axis.set_title(f"{title}{heads} heads, and their mean (line)", loc="left")
            axis.set_ylabel(f"distance ({unit})")
            axis.set_ylim(0, 1.08 * values.max())
            axis.grid(alpha=0.3, lw=0.4)
        axes[-1].set_xlabel("layer")
        axes[-1].xaxis.get_major_locator().set_params(integer=True)


def blend(picture: np.ndarray, values: np.ndarray, largest: float) -> np.ndarray:
    """Returns a picture in grey with a map over it, `(height, width, 3)` from 0 to 1.

    Only attention has a colour, which covers the picture the more, the larger a value is.

    Args:
      picture: `(height, width, channels)`, from 0 to 1.
      values: The map, `(grid_height, grid_width)`, from 0 to `largest`.
    """
    height, width = picture.shape[:2]
    rows, columns = (np.arange(size) * grid // size for size, grid in zip((height, width), values.shape, strict=True))
    opacity = OPACITY * np.clip(values / max(largest, 1e-12), 0, 1)[rows][:, columns, None]
    return (1 - opacity) * _grey(picture) + opacity * np.array(COLOUR)


def _colour_map() -> Any:
    """Returns the colours of `blend` on white, for a colour bar."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("attention", [(1, 1, 1), tuple(1 - OPACITY * (1 - np.array(COLOUR)))])


def _show(axis: Any, picture: np.ndarray) -> None:
    axis.axis("off")
    axis.imshow(_rgb(picture), interpolation="nearest")


def _colour_bar(drawing: Any, axes: Any, largest: float, **options: Any) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    bar = drawing.colorbar(ScalarMappable(Normalize(0, max(largest, 1e-12)), _colour_map()), ax=axes, **options)
    bar.locator = MaxNLocator(4)
    bar.ax.tick_params(labelsize=6, width=0.4, length=2)
    bar.outline.set_linewidth(0.4)
    bar.locator.set_params(nbins=5)
    return bar


def _grey(picture: np.ndarray) -> np.ndarray:
    """Returns the luma of a picture, with less contrast, so that a colour over it is seen on black and on white."""
    luma = picture @ np.array([0.299, 0.587, 0.114]) if picture.shape[-1] == 3 else picture[..., 0]
    return _rgb(0.15 + 0.7 * np.clip(luma, 0, 1)[..., None])


def _rgb(picture: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.clip(picture, 0, 1), (*picture.shape[:2], 3))


def _short(name: str, letters: int) -> str:
    """Returns the end of a name, in at most this number of letters."""
    return drawable(name if len(name) <= letters else f"…{name[1 - letters :]}")
