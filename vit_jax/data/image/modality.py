"""Images as a modality: the preprocessing of a config, and the user's image files."""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

from PIL import Image

from vit_jax.config import Config
from vit_jax.data.examples import LabelledModality
from vit_jax.data.image.reading import stored_image, suffixes
from vit_jax.data.image.transforms import Preprocessing, to_channels
from vit_jax.data.scan import walk
from vit_jax.data.unread import blank_image


class ImageModality(LabelledModality):
    """Single images."""

    key, input_name, inputs, unit, shown = "image", "image", "images", "images", 32
    input_type = "a PIL image, such as Image.open(path) or Image.fromarray(array)"

    def is_input(self, stored: Any) -> bool:
        return isinstance(stored, Image.Image)

    def make_encoder(self, config: Config, *, train: bool) -> Preprocessing:
        data = config.data
        return Preprocessing(
            tuple(data.image_size), data.channels, data.train_transforms if train else data.eval_transforms
        )

    def load_encoder(self, fields: dict[str, Any]) -> Preprocessing:
        return Preprocessing.from_dict(fields)

    def files(self, path: pathlib.Path) -> Iterator[pathlib.Path]:
        """Yields every file below `path` that has the suffix of an image format, one directory at a time."""
        for parent, folders, files in walk(path):
            folders.sort()
            yield from (pathlib.Path(parent, name) for name in sorted(files) if _suffix(name) in suffixes())

    def open_file(self, path: pathlib.Path, config: Config) -> Image.Image:
        return stored_image(path, "cannot be decoded")

    def blank(self) -> Image.Image:
        return blank_image()

    def thumbnail(self, stored: Image.Image) -> Image.Image:
        """Returns the image as models see it before the transforms, in colour: levels of 8 bits on a white ground."""
        return to_channels(stored, 3)


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


MODALITY = ImageModality()
