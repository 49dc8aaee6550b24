"""Predictions for images and videos that need not belong to any data set."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image, UnidentifiedImageError

from vit_jax.data.video.decode import Video, frame_files
from vit_jax.data.video.source import Clip, open_clip, walk_clips
from vit_jax.errors import UserError
from vit_jax.experiment import Examples, Run
from vit_jax.plots import GREEN, RED, contact_sheet, film_strip

IMAGE_SUFFIXES = frozenset(Image.registered_extensions())
FRAMES_SHOWN = 4


def predict(
    run: Run,
    inputs: Sequence[Image.Image] | Sequence[Video],
    *,
    batch_size: int = 64,
    per_frame: bool = False,
    failed: dict[int, str] | None = None,
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> np.ndarray:
    """Returns probabilities `(inputs, num_classes)`: softmax, or a sigmoid each for a sigmoid loss.

    Inputs meet the checkpoint's own preprocessing; the probabilities of several views of a video are averaged. With
    `per_frame`, those of a TimeSformer for every frame of one clip, its crops averaged: `(inputs, num_frames,
    num_classes)`.

    Args:
      batch_size: Rows at once: images, or views of videos, but never less than those of one video.
      failed: Is told why an input cannot be read, by its place; its probabilities are then NaN.
      track: May show how far the batches are.

    Raises:
      UserError: `per_frame` is asked of an image model; without `failed`, an input cannot be read.
    """
    capture = ("frame_logits",) if per_frame else ()
    if per_frame and run.preprocessing.key != "video":
        raise UserError("predictions for every frame are a TimeSformer's; this checkpoint is of an image model")

    @jax.jit
    def logits(params, rows):
        out = run.model.apply({"params": params}, rows, train=False, capture=capture)
        return out[1]["frame_logits"] if per_frame else out

    preprocessing = run.preprocessing
    if per_frame:  # frame i of another clip is of another time
        preprocessing = dataclasses.replace(preprocessing, clips=1)
    views, shape = preprocessing.views, run.model.input_shape
    at_once = max(min(batch_size, len(inputs) * views) // views, 1)
    done = []
    for start in track(range(0, len(inputs), at_once)):
        rows = np.zeros((at_once, views, *shape), np.float32)  # one shape, one compilation
        for place, one in enumerate(inputs[start : start + at_once]):
            try:
                rows[place] = preprocessing.rows(one, None)
            except UserError as error:
                if failed is None:
                    raise
                failed[start + place] = str(error)
        found = run.task.probabilities(np.asarray(logits(run.params, rows.reshape(-1, *shape))))
        done.append(found.reshape(at_once, views, *found.shape[1:]).mean(axis=1))
    found = np.concatenate(done)[: len(inputs)] if done else np.zeros((0, len(run.labels)))
    found[list(failed or ())] = np.nan
    return found


def find_files(paths: Sequence[str], key: str) -> list[pathlib.Path]:
    """Returns the files named, and every image or video (`key`) below the folders named, sorted.

    A folder of frames is a video, by the rule of `VideoSource`; so is a folder named, if there are no others below.

    Raises:
      UserError: A path does not exist, or nothing is found.
    """
    found: list[pathlib.Path] = []
    for path in map(pathlib.Path, paths):
        if path.is_dir() and key == "video":
            below = sorted(map(pathlib.Path, walk_clips(path)))
            found += below or ([path] if frame_files(path) else [])
        elif path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"no file or folder {path}")
    if not found:
        raise UserError(f"no {key}s in {', '.join(paths)}")
    return found


def read_files(
    paths: Sequence[pathlib.Path], key: str, frames_fps: float = 30.0
) -> tuple[dict[pathlib.Path, Any], dict[pathlib.Path, str]]:
    """Opens images or videos (`key`); returns those that could be read, and for the others the reason.

    A folder of frames has `frames_fps` of them a second.
    """
    opened, failed = {}, {}
    for path in paths:
        try:
            opened[path] = _read_video(path, frames_fps) if key == "video" else _read_image(path)
        except UnidentifiedImageError:
            failed[path] = "not an image"
        except (OSError, SyntaxError, ValueError, UserError) as error:
            failed[path] = str(error)
    return opened, failed


def _read_video(path: pathlib.Path, frames_fps: float) -> Video:
    video = open_clip(path, Clip(str(path), 0), frames_fps)
    preview(video)  # what is cut off shows here; damage elsewhere, when the frames it is in are asked for
    return video


def _read_image(path: pathlib.Path) -> Image.Image:
    image = Image.open(path)
    image.load()
    return image


def plot_predictions(run: Run, path: Any, count: int = 32) -> pathlib.Path:
    """Draws `count` images or clips spread evenly over the evaluation split, with what the run predicts for them.

    Green is right, red is wrong with the true label behind. No more is computed at once than a device had to compute
    in evaluation.
    """
    source, key = Examples(run.config).eval, run.preprocessing.key
    count = min(count if key == "image" else count // 2, len(source))
    rows = source.__getitems__([i * len(source) // count for i in range(count)])
    inputs = [row[key] for row in rows]
    share = (run.config.eval_batch_size or run.config.batch_size) // jax.device_count()
    probabilities = predict(run, inputs, batch_size=share)
    titles, colours = [], []
    for row, p in zip(rows, probabilities, strict=True):
        best = int(p.argmax())
        true = np.flatnonzero(row["label"]) if np.ndim(row["label"]) else np.array([row["label"]])
        right = best in true
        names = ", ".join(run.labels[i] for i in true)
        titles.append(f"{run.labels[best]} {p[best]:.0%}" + ("" if right else f"\nis {names}"))
        colours.append(GREEN if right else RED)
    unit = {"image": "images", "video": "clips"}[key]
    heading = f"{source.name} {source.split}: {count} of {len(source)} {unit}, spread evenly"
    pictures = inputs if key == "image" else [preview(video) for video in inputs]
    return contact_sheet(path, pictures, titles, colours, heading)


def preview(video: Video) -> Image.Image:
    """Returns frames of a video, spread evenly over it, side by side."""
    shown = np.linspace(0, video.num_frames - 1, min(FRAMES_SHOWN, video.num_frames))
    return film_strip(video.read(shown.round().astype(int).tolist()))
