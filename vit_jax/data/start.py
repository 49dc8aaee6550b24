"""Checks of the data before a run starts: mistakes that would otherwise show after hours, or not at all."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.config import Config
from vit_jax.data.layout import SPLITS
from vit_jax.data.loading.pipeline import check_deterministic
from vit_jax.data.source import ROOTS, open_split
from vit_jax.data.splits import Slice, overlap, parse_slice
from vit_jax.errors import UserError

LARGEST_TRIED = 50_000_000  # pixels; larger images are not tried, because this takes seconds


def check_start(config: Config, data: Any, task: Any) -> None:
    """Checks the splits, the classes, the batch size and the transforms of a run.

    The transforms are applied to one example of each split; and for a folder of images, to blank images of the most
    extreme sizes in it.

    Raises:
      UserError: The splits overlap or are empty; there is a single class to learn; a batch is larger than the training
        split; the evaluation transforms are random; or transforms fail or give a wrong size.
    """
    _check_splits(config)
    if not hasattr(data, "train_encoder"):  # text: its batches are divided, and thereby checked, when it is opened
        return
    for source in (data.train, data.eval):
        if not len(source):
            raise UserError(f"{source.name}: split {source.split!r} is empty")
    _check_classes(config, data, task)
    repeats, examples = config.data.repeats, len(data.train)
    if config.batch_size // repeats > examples:
        raise UserError(
            f"config.batch_size={config.batch_size}{f' / data.repeats={repeats}' if repeats > 1 else ''} is larger "
            f"than the training split {config.data.train_split!r} of {examples:,} examples: a batch would contain an "
            f"example more than once. Set --config.batch_size={2 ** (examples.bit_length() - 1) * repeats}"
        )
    check_deterministic(data.encoder)
    _check_transforms("eval_transforms", data.eval, data.encoder, None)
    _check_transforms("train_transforms", data.train, data.train_encoder, np.random.default_rng(0))


def start_notes(config: Config, data: Any) -> list[str]:
    """Returns lines to print before training: the classes that have no training examples."""
    absent = [data.labels[i] for i in np.flatnonzero(_class_counts(config, data) == 0)]
    if not absent:
        return []
    named = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
    return [f"classes without training examples, which cannot be learned: {named}"]


def _check_splits(config: Config) -> None:
    train, evaluation = config.data.train_split, config.data.eval_split
    for key, split in (("train_split", train), ("eval_split", evaluation)):
        parts = _slices(split)
        if any(_share(config, a, b) for i, a in enumerate(parts) for b in parts[:i]):
            raise UserError(f"config.data.{key}={split!r} names some examples twice: its slices overlap")
    is_shared = train == evaluation or any(_share(config, a, b) for a in _slices(train) for b in _slices(evaluation))
    if is_shared:
        base = train.split("[")[0].strip()
        raise UserError(
            f"config.data.train_split={train!r} and config.data.eval_split={evaluation!r} overlap, so that the "
            f"evaluation would score examples that are trained on. Use disjoint slices, such as '{base}[:80%]' and "
            f"'{base}[80%:]'; the command `evaluate --split={base}` scores training examples."
        )
    pseudo = config.pseudo_labels.split or ""
    if not config.pseudo_labels.path and any(
        _share(config, a, b) for a in _slices(pseudo) for b in _slices(evaluation)
    ):
        raise UserError(
            f"config.pseudo_labels.split={pseudo!r} and config.data.eval_split={evaluation!r} overlap, so that the "
            "evaluation would score examples that are trained on."
        )


def _slices(split: str) -> list[Slice]:
    """Returns the slices of a split; none if its notation is not ours, as in a data set of the user's own."""
    try:
        return [parse_slice(part) for part in split.split("+")]
    except UserError:
        return []


def _share(config: Config, ours: Slice, theirs: Slice) -> bool:
    """Returns whether two slices share examples. Opens the whole split if this depends on its size."""
    bases = {ours.base, theirs.base}
    if len(bases) > 1 and not any(bases <= {*names} for names in SPLITS.values()):
        return False
    shared = overlap(ours, theirs)
    if shared is None:
        whole = open_split(config, ours.base)
        shared = overlap(ours, theirs, len(whole) + len(whole.skipped))
    return bool(shared)


def _check_classes(config: Config, data: Any, task: Any) -> None:
    present = np.count_nonzero(_class_counts(config, data))
    if getattr(task, "name", None) == "classification" and config.task.loss == "softmax" and present == 1:
        raise UserError(
            f"{data.train.name}: the training split {config.data.train_split!r} has examples of one class only, so "
            f"there is nothing to learn; the classes are {', '.join(data.labels[:5])}. Put the examples of each class "
            "into a folder of its own"
        )


def _class_counts(config: Config, data: Any) -> np.ndarray:
    """Returns the number of training examples of each class. Only files of the user's own are counted.

    In a prepared set, counting would read every record.
    """
    if config.data.name not in ROOTS or not data.labels:
        return np.ones(len(data.labels))
    return np.bincount(data.train.all_labels(), minlength=len(data.labels))


def _check_transforms(key: str, source: Any, encoder: Any, rng: np.random.Generator | None) -> None:
    try:
        encoder.rows(source.__getitems__([0])[0][encoder.key], rng)
        for image in _extreme_images(source):
            encoder.rows(image, rng)
    except UserError as error:
        raise UserError(f"config.data.{key}: {error}") from None


def _extreme_images(source: Any) -> Iterator[Image.Image]:
    """Yields blank images of the smallest, largest and most elongated sizes of a folder of images."""
    sizes = {(width, height) for width, height, _ in getattr(source, "image_formats", ())}
    measures = (lambda size: size[0], lambda size: size[1], lambda size: size[0] / size[1])
    extreme = {choose(sizes, key=measure) for measure in measures for choose in (min, max)} if len(sizes) > 1 else set()
    for width, height in sorted(extreme):
        if width * height <= LARGEST_TRIED:
            yield Image.new("RGB", (width, height))
