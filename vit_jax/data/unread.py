"""Data of a config that are not read: examples without content, for planning a run where its data are not at hand."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from vit_jax.config import Config
from vit_jax.config.families import FAMILIES, module_fields
from vit_jax.data.modality import Data, get_modality

_SIDE = 256  # pixels of a blank image


class BlankSource:
    """A split in which every example is the same object, with label 0; see `source.Source`."""

    name, split = "unread", ""

    def __init__(self, kind: str, stored: Any, num_classes: int, examples: int):
        self.kind, self.labels = kind, tuple(str(i) for i in range(num_classes))
        self.skipped: list[tuple[str, str]] = []
        self._stored, self._examples = stored, examples

    def __len__(self) -> int:
        return self._examples

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return [{self.kind: self._stored, "label": 0, "id": i} for i in indices]

    def all_labels(self) -> np.ndarray:
        return np.zeros(len(self), np.int64)


class BlankVideo:
    """An hour of black frames; see `video.decode.Video`."""

    name, fps, seconds = "unread", 30.0, 3_600.0
    num_frames = 30 * 3_600

    def index_at(self, seconds: float) -> int:
        return min(int(seconds * self.fps), self.num_frames - 1)

    def read(self, indices: Sequence[int]) -> list[Image.Image]:
        return [blank_image()] * len(indices)


def blank_image() -> Image.Image:
    return Image.new("RGB", (_SIDE, _SIDE))


def unread_data(config: Config, num_classes: int | None, examples: int | None) -> Data | None:
    """Returns data of a complete config without reading them; None if they must be read to know their shapes.

    The family of the model says what it takes: images, clips or text.

    Args:
      num_classes: Number of classes. Text needs none.
      examples: Number of training examples; needed if the duration of the run is in epochs.
    """
    family = config.model.name.partition(":")[0]
    if family not in FAMILIES:
        return None
    fields = module_fields(family)
    key = "text" if "vocab_size" in fields else "video" if "num_frames" in fields else "image"
    return get_modality(key).unread(config, num_classes, examples)
