"""Figures of attention: over images, over the frames of clips, as a film, between tokens, and by distance."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from vit_jax.plots.figure import COLUMN, SEQUENTIAL, drawable, figure

OVERLAY = 0.6  # opacity of a map over the picture
MOST_FRAMES = 16  # in a figure of a clip
FRAMES_PER_ROW = 4
FILM_HEIGHT = 240  # pixels of a film, at least
FILMS = (".gif", ".mp4")


def plot_images(path: Any, pictures: Sequence[np.ndarray], maps: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """Draws images and, next to each, its attention map over it.

    Args:
      pictures: `(height, width, channels)` each, from 0 to 1.
      maps: `(grid_height, grid_width)` each. Each has its own colour scale, from 0 to its largest value.
      names: A line above each image.
    """
    rows = len(pictures)
    ratio = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    with figure(path, COLUMN, rows * (1.4 * ratio + 0.25) + 0.05) as drawing:
        axes = drawing.subplots(rows, 2, squeeze=False)
        for (left, right), picture, values, name in zip(axes, pictures, maps, names, strict=True):
            _show(left, picture)
            drawn = _show(right, picture, values, values.max())
            left.set_title(_short(name, 34), loc="left")
            scale = drawing.colorbar(drawn, ax=right, shrink=0.9, aspect=14, pad=0.03)
            scale.ax.tick_params(labelsize=5.5, width=0.4, length=2)
            scale.outline.set_linewidth(0.4)


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
    height = rows * (2 * ratio * COLUMN / columns * 0.97 + 0.2) + 0.55
    with figure(path, COLUMN, height) as drawing:
        drawing.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0.01)
        axes = drawing.subplots(2 * rows, columns, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for place, frame in enumerate(shown):
            above, column = 2 * (place // columns), place % columns
            _show(axes[above, column], frames[frame])
            drawn = _show(axes[above + 1, column], frames[frame], maps[frame], maps.max())
            axes[above, column].set_title(f"frame {frame}", pad=2)
        scale = drawing.colorbar(drawn, ax=axes, location="bottom", aspect=40, shrink=0.7, pad=0.02)
        scale.set_label(label)
        scale.ax.tick_params(width=0.4, length=2)
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


def blend(picture: np.ndarray, values: np.ndarray, largest: float) -> np.ndarray:
    """Returns a picture with a map over it, `(height, width, 3)` from 0 to 1.

    Args:
      picture: `(height, width, channels)`, from 0 to 1.
      values: The map, `(grid_height, grid_width)`, from 0 to `largest`.
    """
    import matplotlib

    height, width = picture.shape[:2]
    rows, columns = (np.arange(size) * grid // size for size, grid in zip((height, width), values.shape, strict=True))
    colours = matplotlib.colormaps[SEQUENTIAL](values[rows][:, columns] / max(largest, 1e-12))[..., :3]
    return (1 - OVERLAY) * _rgb(picture) + OVERLAY * colours


def _show(axis: Any, picture: np.ndarray, values: np.ndarray | None = None, largest: float = 1.0) -> Any:
    """Draws a picture, and a map over it if there is one; returns what a colour bar needs."""
    height, width = picture.shape[:2]
    extent = (0, width, height, 0)
    axis.axis("off")
    drawn = axis.imshow(_rgb(picture), extent=extent, interpolation="nearest")
    if values is not None:
        drawn = axis.imshow(
            values, SEQUENTIAL, extent=extent, alpha=OVERLAY, interpolation="nearest", vmin=0, vmax=max(largest, 1e-12)
        )
    return drawn


def _rgb(picture: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.clip(picture, 0, 1), (*picture.shape[:2], 3))


def _short(name: str, letters: int) -> str:
    """Returns the end of a name, in at most this number of letters."""
    return drawable(name if len(name) <= letters else f"…{name[1 - letters :]}")
