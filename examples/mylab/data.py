"""Scikit-learn's digits, tilted, as an example of data of your own: the label is the angle."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from vit_jax.errors import UserError

SPLITS = {"train": slice(None, 1437), "test": slice(1437, None)}


def open_split(config, split, *, max_degrees=45.0):
    """Returns a split as a `Source`. The parameters after `split` are the keys of `config.data.extra`."""
    if split not in SPLITS:
        raise UserError(f"mylab.data has no split {split!r}; it has {', '.join(SPLITS)}")
    return TiltedDigits(split, max_degrees)


class TiltedDigits:
    """The digits of a split, each turned by an angle of its own between -max_degrees and max_degrees.

    `vit_jax.data` describes what a source must have. Labels are float32 arrays, with one number per name in `labels`.
    """

    name, kind, labels = "tilted digits", "image", ("tilt",)

    def __init__(self, split, max_degrees):
        self.split, self.skipped = split, []
        images = load_digits().images
        angles = np.random.default_rng(0).uniform(-max_degrees, max_degrees, len(images))
        self._images, self._angles = images[SPLITS[split]], angles[SPLITS[split]].astype(np.float32)

    def __len__(self):
        return len(self._images)

    def __getitems__(self, indices):
        return [{"image": self._image(i), "label": self._angles[i : i + 1], "id": i} for i in indices]

    def all_labels(self):
        return self._angles[:, None]

    def _image(self, index):
        image = Image.fromarray((self._images[index] * 255 / 16).astype(np.uint8)).resize((16, 16))
        return image.rotate(float(self._angles[index]), Image.Resampling.BILINEAR)
