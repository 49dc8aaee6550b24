"""Predictions for images that need not belong to any data set."""

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from PIL import Image, UnidentifiedImageError

from vit_jax.errors import UserError
from vit_jax.experiment import Run, load_run, open_data
from vit_jax.plots import GREEN, RED, contact_sheet

IMAGE_SUFFIXES = frozenset(Image.registered_extensions())


def predict_images(
    run: Run,
    images: Sequence[Image.Image],
    *,
    batch_size: int = 64,
    track: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> np.ndarray:
    """Returns probabilities `(images, num_classes)`: softmax, or a sigmoid each for a sigmoid loss.

    Images meet the checkpoint's own preprocessing. `track` may show how far the batches are.
    """
    if not images:
        return np.zeros((0, len(run.labels)), np.float32)
    squash = jax.nn.sigmoid if run.config.task.loss == "sigmoid" else jax.nn.softmax
    predict = jax.jit(lambda params, batch: squash(run.task.predict(run.model, params, batch)["logits"]))
    batch_size = min(batch_size, len(images))
    done = []
    for start in track(range(0, len(images), batch_size)):
        batch = np.stack([run.preprocessing(image, None) for image in images[start : start + batch_size]])
        padding = [(0, batch_size - len(batch))] + [(0, 0)] * (batch.ndim - 1)  # one shape, one compilation
        done.append(np.asarray(predict(run.params, {"image": np.pad(batch, padding)}))[: len(batch)])
    return np.concatenate(done)


def find_images(paths: Sequence[str]) -> list[pathlib.Path]:
    """Returns the files named, and every image below the folders named, sorted.

    Raises:
      UserError: A path does not exist, or no image is found.
    """
    found: list[pathlib.Path] = []
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            found += sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"no file or folder {path}")
    if not found:
        raise UserError(f"no images in {', '.join(paths)}")
    return found


def read_images(paths: Sequence[pathlib.Path]) -> tuple[dict[pathlib.Path, Image.Image], dict[pathlib.Path, str]]:
    """Decodes images; returns those that could be read, and for the others the reason."""
    images, failed = {}, {}
    for path in paths:
        try:
            image = Image.open(path)
            image.load()
            images[path] = image
        except UnidentifiedImageError:
            failed[path] = "not an image"
        except (OSError, SyntaxError, ValueError) as error:
            failed[path] = str(error)
    return images, failed


def plot_predictions(workdir: Any, count: int = 32) -> pathlib.Path:
    """Draws `count` images spread evenly over the evaluation split, with what the run predicts for them.

    Written to `WORKDIR/predictions.png`: green is right, red is wrong with the true label behind.
    """
    run = load_run(workdir)
    source = open_data(run.config).eval
    count = min(count, len(source))
    rows = source.__getitems__([i * len(source) // count for i in range(count)])
    probabilities = predict_images(run, [row["image"] for row in rows])
    titles, colours = [], []
    for row, p in zip(rows, probabilities, strict=True):
        best = int(p.argmax())
        true = np.flatnonzero(row["label"]) if np.ndim(row["label"]) else np.array([row["label"]])
        right = best in true
        names = ", ".join(run.labels[i] for i in true)
        titles.append(f"{run.labels[best]} {p[best]:.0%}" + ("" if right else f"\nis {names}"))
        colours.append(GREEN if right else RED)
    heading = f"{source.name} {source.split}: {count} of {len(source)} images, spread evenly"
    images = [row["image"] for row in rows]
    return contact_sheet(pathlib.Path(workdir) / "predictions.png", images, titles, colours, heading)
