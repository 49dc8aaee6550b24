"""ReaL: the reassessed labels of ImageNet's validation images (Beyer et al., arXiv:2006.07159)."""

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from vit_jax.data.source import Wrapped
from vit_jax.errors import UserError, counted

_NUMBER = re.compile(r"val_(\d{8})\.")
IMAGES, CLASSES = 50_000, 1_000


class RealLabels(Wrapped):
    """The examples of a source of ImageNet's validation images, with their ReaL labels, none or several for each.

    Args:
      source: Has the names of the files as `files`, such as "n01440764/ILSVRC2012_val_00000293.JPEG", whose number is
        that of the image in the list, and the 1,000 classes in their usual order.
      path: The authors' `real.json`: a list of 50,000 lists of class numbers.

    Raises:
      UserError: The file or the source is of another form.
    """

    def __init__(self, source: Any, path: str):
        super().__init__(source)
        self.name = f"{source.name}, ReaL"
        if not hasattr(source, "files") or len(source.labels) != CLASSES:
            raise UserError(
                f"--real applies to a folder of ImageNet's validation images in its 1,000 classes; {source.name} has "
                f"{counted(len(source.labels), 'classes')}. For TFDS, use --data=imagenet2012_real."
            )
        self._real, self.files = _read(path), source.files

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        found = self._source.__getitems__(indices)
        return [{**example, "label": self._of(self.files[example["id"]])} for example in found]

    def all_labels(self) -> np.ndarray:
        return np.stack([self._of(str(self._source.path_of(index))) for index in range(len(self))])

    def _of(self, file: str) -> np.ndarray:
        """Returns the labels of an image as 0 and 1 for each class."""
        match = _NUMBER.search(file)
        if match is None or not 1 <= int(match[1]) <= IMAGES:
            raise UserError(
                f"--real: {file} is not named as in ImageNet's validation set: ILSVRC2012_val_00000001.JPEG"
            )
        hot = np.zeros(CLASSES, np.float32)
        hot[self._real[int(match[1]) - 1]] = 1
        return hot


def _read(path: str) -> list[list[int]]:
    try:
        found = json.loads(pathlib.Path(path).read_text())
    except OSError as error:
        raise UserError(f"--real={path}: {error.strerror}") from None
    except ValueError:
        found = []
    is_list = isinstance(found, list) and len(found) == IMAGES
    if not is_list or not all(isinstance(each, list) and all(i in range(CLASSES) for i in each) for each in found):
        raise UserError(f"--real={path} must be the authors' real.json: a list of 50,000 lists of numbers of classes")
    return found
